# The image itself, on a machine like the real one: verity, the first boot's partitions, boot
# counting, the gate's blessing, and identity that stays on the state.
{ lib, ... }:

let
  inherit (import ../../lib/layout.nix { inherit lib; }) layout atVersion state;
in
{
  name = "image-boot";

  nodes.machine = {
    imports = [
      ../../hosts/t640
      ./machine-t640.nix
    ];
    # The test starts from the raw image, so compressing it would be work for nothing.
    image.repart.compression.enable = lib.mkForce false;
  };

  testScript =
    { nodes, ... }:
    let
      inherit (nodes.machine.system.image) version;
      labels = map (partition: atVersion version partition.label) layout.partition;
      blessed = "/boot${layout.esp.uki_directory}/${atVersion version layout.esp.uki_name}";
    in
    # python
    ''
      import os
      import subprocess
      import tempfile

      disk = tempfile.NamedTemporaryFile(suffix=".qcow2")
      subprocess.run(
          [
              "${nodes.machine.virtualisation.qemu.package}/bin/qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw",
              "-b", "${nodes.machine.system.build.image}/${nodes.machine.image.filePath}", disk.name, "16G",
          ],
          check=True,
      )
      os.environ["NIX_DISK_IMAGE"] = disk.name

      machine.wait_for_unit("multi-user.target")

      with subtest("The running system is protected by dm-verity"):
          assert "verity" in machine.succeed("dmsetup table ${layout.flavour.nixos.mapper}")
          machine.succeed("findmnt --types tmpfs /")
          machine.fail("touch /nix/store/x")
          machine.fail("touch /etc/x")

      with subtest("The first boot made the second slot and the state"):
          labels = machine.succeed("lsblk --noheadings --output PARTLABEL /dev/nvme0n1").split()
          assert labels == ${builtins.toJSON labels}, labels
          machine.succeed("findmnt --source /dev/disk/by-partlabel/${state.label} ${state.mount_point}")

      with subtest("The boot was counted, and the gate blessed it"):
          machine.wait_for_unit("boot-complete.target")
          machine.wait_until_succeeds("test -e ${blessed}")

      with subtest("The machine is who it was after a restart"):
          identity = machine.succeed("cat /etc/machine-id")
          machine.shutdown()
          machine.start()
          machine.wait_for_unit("multi-user.target")
          assert identity == machine.succeed("cat /etc/machine-id")

      with subtest("The services are up, and nothing has failed"):
          for unit in ("compliance-agent", "network-scanner", "local-portal"):
              machine.wait_for_unit(f"{unit}.service")
          machine.wait_until_succeeds("curl --silent --insecure --fail https://localhost:443/healthz | grep -x ok")
          failed = machine.succeed("systemctl list-units --failed --no-legend --plain").strip()
          assert not failed, failed

      with subtest("The hardware is the machine's"):
          machine.succeed("grep -q t640 /sys/class/dmi/id/product_name")
          machine.succeed("test -c /dev/tpmrm0")
          machine.succeed("test -c /dev/watchdog0")
    '';
}
