# A host with generations and the updater's own way of changing them: a good system is kept, a bad one and one that
# hangs are left by the boot loader's count, one that turns bad later by the watch, and meanwhile nobody collects garbage
# or rewrites boot entries.
{ lib, ... }:

let
  base =
    { lib, pkgs, ... }:
    {
      imports = [ ../../modules ];

      appliance = {
        enable = true;
        identity.enable = true;
        network.enable = false;
        generations = {
          enable = true;
          trustedKeys = [ "test-1:C2AaVbeT8sM4LM1jSCVdRgTDnWOsHFUePypd8SuTCmk=" ];
        };
      };
      services.compliance-agent.enable = true;

      boot = {
        kernelParams = [
          "panic=10"
          "oops=panic"
        ];
        initrd.systemd.enable = true;
        loader = {
          timeout = 0;
          efi.canTouchEfiVariables = true;
          systemd-boot = {
            enable = true;
            configurationLimit = 5;
            bootCounting.enable = true;
          };
        };
      };
      appliance.update.settings.generations = {
        esp_free_mib = 1;
        store_free_mib = 1;
      };
      nix.settings.substituters = lib.mkForce [ ];
      environment.systemPackages = [ pkgs.efibootmgr ];

      virtualisation = {
        memorySize = 4096;
        diskSize = 8192;
        useBootLoader = true;
        useEFIBoot = true;
        qemu.options = [
          "-device i6300esb"
          "-action watchdog=reset"
        ];
      };
      boot.initrd.kernelModules = [ "i6300esb" ];
    };

  version = number: { appliance.identity.version = lib.mkForce "2026.12.${toString number}"; };
in
{
  name = "generations";

  nodes = {
    machine =
      { nodes, ... }:
      {
        imports = [
          base
          (version 1)
        ];
        system.extraDependencies = map (node: node.system.build.toplevel) [
          nodes.good
          nodes.bad
          nodes.hanging
          nodes.uncounted
        ];
      };

    good.imports = [
      base
      (version 2)
    ];

    # Its gate never passes.
    bad = {
      imports = [
        base
        (version 3)
      ];
      appliance.healthGate = {
        units = [ "never-there.service" ];
        deadline = 30;
      };
    };

    # It stops before anything could judge it; the watchdog ends it.
    hanging = {
      imports = [
        base
        (version 4)
      ];
      boot.initrd.systemd.services.hang = {
        wantedBy = [ "initrd.target" ];
        before = [ "initrd.target" ];
        serviceConfig.Type = "oneshot";
        script = "kill -STOP 1; sleep infinity";
      };
    };

    # Nothing would bring the old one back.
    uncounted =
      { lib, ... }:
      {
        imports = [
          base
          (version 5)
        ];
        appliance.generations.enable = lib.mkForce false;
        appliance.healthGate.enable = lib.mkForce false;
        boot.loader.systemd-boot.bootCounting.enable = lib.mkForce false;
      };
  };

  testScript =
    { nodes, ... }:
    let
      system = node: "${node.system.build.toplevel}";
    in
    # python
    ''
      import json

      SYSTEMS = {
          "first": "${system nodes.machine}", "good": "${system nodes.good}", "bad": "${system nodes.bad}",
          "hanging": "${system nodes.hanging}", "uncounted": "${system nodes.uncounted}",
      }

      def booted():
          return machine.succeed("readlink /run/booted-system").strip()

      def ask(order, **target):
          document = json.dumps({"order_id": order, **target})
          machine.succeed(
              "mkdir -p /run/appliance-update/requests",
              f"echo '{document}' > /run/appliance-update/requests/.new",
              f"mv /run/appliance-update/requests/.new /run/appliance-update/requests/{order}.json",
          )

      def answer(order, event):
          machine.wait_until_succeeds(
              f"appliance-update history --json | grep '\"{order}\"' | grep '\"event\": \"{event}\"'", timeout=900
          )

      def stays(name):
          machine.wait_until_succeeds(f"test $(readlink /run/booted-system) = {SYSTEMS[name]}", timeout=1800)
          machine.wait_for_unit("multi-user.target")

      machine.wait_for_unit("multi-user.target")
      machine.wait_for_unit("boot-complete.target")
      machine.succeed("nix key generate-secret --extra-experimental-features nix-command --key-name test-1 > /root/other")

      with subtest("A system that nobody signed is refused, and what runs stays"):
          ask("order-0", store_path=SYSTEMS["good"])
          answer("order-0", "refused")
          assert booted() == SYSTEMS["first"]

      # From here on the key of the host's list is one that this test holds.
      key = machine.succeed(
          "nix key convert-secret-to-public --extra-experimental-features nix-command < /root/other"
      ).strip()
      machine.succeed(
          "cp --dereference /etc/appliance-update/config.toml /var/lib/appliance-update/config.toml",
          f"sed -i 's|test-1:[A-Za-z0-9+/]*=|{key}|' /var/lib/appliance-update/config.toml",
      )
      sign = "nix store sign --extra-experimental-features nix-command --key-file /root/other"
      for name in ("good", "bad", "hanging", "uncounted"):
          machine.succeed(f"{sign} {SYSTEMS[name]}")

      def ordered(order, name):
          # /run is new after each boot.
          machine.succeed(
              "mkdir -p /run/systemd/system/appliance-update.service.d",
              r"printf '[Service]\nBindPaths=/var/lib/appliance-update/config.toml:/etc/appliance-update/config.toml\n'"
              " > /run/systemd/system/appliance-update.service.d/test.conf",
              "systemctl daemon-reload",
          )
          ask(order, store_path=SYSTEMS[name])

      with subtest("A flake that is not in the list is refused"):
          ask("order-1", flake="github:attacker/fleet#t640")
          answer("order-1", "refused")

      with subtest("A system without boot counting is not made the next to boot"):
          ordered("order-2", "uncounted")
          answer("order-2", "refused")
          assert booted() == SYSTEMS["first"]

      with subtest("A good generation is installed, tried, kept and answered"):
          ordered("order-3", "good")
          stays("good")
          answer("order-3", "committed")
          assert SYSTEMS["good"] in machine.succeed("readlink -f /nix/var/nix/profiles/system")

      with subtest("While one waits or is on trial nothing is collected and no boot entry rewritten"):
          machine.succeed("echo 'a test waits' > /var/lib/appliance-update/generation-armed")
          machine.fail(f"{SYSTEMS['good']}/bin/switch-to-configuration boot")
          machine.succeed("systemctl start nix-gc.service")
          machine.succeed("journalctl --unit nix-gc.service | grep 'Refused: a test waits'")
          machine.succeed("rm /var/lib/appliance-update/generation-armed")

      for order, name in (("order-4", "bad"), ("order-5", "hanging")):
          with subtest(f"A generation that is {name} is left after its tries, and its order says so"):
              ordered(order, name)
              machine.wait_until_succeeds("appliance-update history --json | grep -c installed | grep -v 0", timeout=900)
              answer(order, "rolled_back")
              stays("good")
              assert "${system nodes.good}" in machine.succeed("readlink -f /nix/var/nix/profiles/system")
              ordered(f"{order}-again", name)
              answer(f"{order}-again", "quarantined")

      with subtest("A kept generation whose agent dies later is left for the one before, for good"):
          machine.succeed(
              "mkdir -p /run/systemd/system/compliance-agent.service.d",
              r"printf '[Service]\nExecStart=\nExecStart=/bin/sh -c \"exit 1\"\n'"
              " > /run/systemd/system/compliance-agent.service.d/test.conf",
              "systemctl daemon-reload",
              "systemctl restart compliance-agent.service || true",
          )
          for _ in range(4):
              machine.execute("systemctl start appliance-update-watch.service")
          stays("first")
          machine.wait_until_succeeds("appliance-update history --json | grep rolled_back | grep 'second thoughts'", timeout=900)
          assert SYSTEMS["first"] in machine.succeed("readlink -f /nix/var/nix/profiles/system")
    '';
}
