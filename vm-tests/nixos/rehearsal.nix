# The rehearsal on a plain host: the updater's own part and the agent's both end well, and a broken one is noticed.
{
  name = "rehearsal";

  nodes.machine = {
    imports = [ ../../modules ];

    appliance = {
      enable = true;
      identity.enable = true;
      network.enable = false;
      watchdog.enable = false;
      generations.enable = true;
    };
    services.compliance-agent.enable = true;

    boot.loader.systemd-boot = {
      enable = true;
      configurationLimit = 5;
      bootCounting.enable = true;
    };
    boot.loader.efi.canTouchEfiVariables = true;
    appliance.update.settings.generations.esp_free_mib = 1;

    virtualisation = {
      useBootLoader = true;
      useEFIBoot = true;
      memorySize = 2048;
      diskSize = 8192;
    };
  };

  testScript = # python
    ''
      import json

      machine.wait_for_unit("compliance-agent.service")

      with subtest("This system can update itself, and nothing is installed by trying"):
          before = machine.succeed("ls /boot/loader/entries")
          machine.succeed("systemctl start appliance-update-rehearse.service")
          report = json.loads(machine.succeed("cat /run/appliance-update/rehearsal.json"))
          assert report["passed"], report
          assert "generations" in [stage["name"] for stage in report["stages"]], report
          assert machine.succeed("ls /boot/loader/entries") == before
          machine.succeed("test -e /var/lib/appliance-update/last-contact")

      with subtest("An agent that breaks on every order fails it"):
          machine.succeed(
              "mkdir -p /run/systemd/system/compliance-agent-rehearse.service.d",
              r"printf '[Service]\nExecStart=\nExecStart=/run/current-system/sw/bin/false\n'"
              " > /run/systemd/system/compliance-agent-rehearse.service.d/test.conf",
              "systemctl daemon-reload",
          )
          machine.fail("systemctl start appliance-update-rehearse.service")
          assert not json.loads(machine.succeed("cat /run/appliance-update/rehearsal.json"))["passed"]
    '';
}
