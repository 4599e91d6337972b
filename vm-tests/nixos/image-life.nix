# The life of an image after it has proved itself: the watch, databases that come back, and the recovery when both slots
# are spent. One test, because one image is made for all of it.
{ lib, ... }:

let
  inherit (import ../../lib/layout.nix { inherit lib; }) layout;
  recovery = lib.head (lib.splitString "@" layout.esp.recovery_name);
in
{
  name = "image-life";

  nodes.machine =
    { pkgs, ... }:
    {
      imports = [ ./image-node.nix ];
      environment.systemPackages = [ pkgs.sqlite ];
    };

  testScript =
    { nodes, ... }:
    import ./image-disk.nix { inherit nodes; }
    + ''

      AGENT = "/var/lib/compliance-agent/agent.db"
      EVIDENCE = "/var/lib/compliance-agent/evidence.db"
      FOLDER = "/var/lib/appliance-update/snapshots/${nodes.machine.system.image.version}"
      ENTRIES = "/boot${layout.esp.uki_directory}"

      def boot():
          return machine.succeed("cat /proc/sys/kernel/random/boot_id")

      def looks(count):
          for _ in range(count):
              machine.succeed("systemctl start appliance-update-watch.service")

      def schema(path):
          return int(machine.succeed(f"sqlite3 {path} 'PRAGMA user_version'"))

      machine.wait_for_unit("compliance-agent.service")
      machine.wait_until_succeeds(f"test -e {AGENT}")

      with subtest("Once the system has proved itself the mark of its trial is gone"):
          machine.wait_until_succeeds("test ! -e /run/appliance-update/trial", timeout=900)

      with subtest("The watch leaves a good system alone"):
          started = boot()
          looks(2)
          machine.fail("test -e /var/lib/appliance-update/second-thoughts.json")

      with subtest("A bad one without another slot stays up, whatever the watch sees"):
          machine.succeed("systemctl stop compliance-agent.service")
          looks(6)
          assert boot() == started

      with subtest("What a newer system made of a database is replaced by what this one knows; evidence is not"):
          known = schema(AGENT)
          name = AGENT.replace("/", "--").lstrip("-")
          machine.succeed(
              f"mkdir -p {FOLDER}",
              f"sqlite3 {AGENT} \".backup '{FOLDER}/{name}.db'\"",
              f"sqlite3 {AGENT} 'PRAGMA user_version = {known + 1000}'",
          )
          copy = {"path": AGENT, "user_version": known, "uid": 0, "gid": 0, "mode": 384}
          document = json.dumps({"taken_at": 1, "databases": {f"{name}.db": copy}, "skipped": {}})
          machine.succeed(f"echo '{document}' > {FOLDER}/index.json")
          before = machine.succeed(f"sha256sum {EVIDENCE} 2>/dev/null || true")
          machine.succeed("systemctl restart appliance-update-restore.service")
          assert schema(AGENT) == known
          assert machine.succeed(f"sha256sum {EVIDENCE} 2>/dev/null || true") == before

      with subtest("The recovery lies on the ESP behind the slots"):
          names = machine.succeed(f"ls {ENTRIES}").split()
          assert len([entry for entry in names if entry.startswith("${recovery}")]) == 1, names

      with subtest("When every slot is spent the loader starts the recovery"):
          machine.succeed(
              f"cd {ENTRIES} && for entry in ${layout.image.id}_*.efi; do "
              "name=''${entry%.efi}; mv \"$entry\" \"''${name%%+*}+0-3.efi\"; done; sync"
          )
          machine.execute("systemctl --no-block reboot")
          machine.connected = False
          machine.wait_for_console_text("appliance-recovery")
    '';
}
