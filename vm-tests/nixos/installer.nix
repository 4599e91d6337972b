# The installer's program writes the image of another node to an empty NVMe disk, and the disk is what the image says.
{ lib, ... }:

let
  inherit (import ../../lib/layout.nix { inherit lib; }) layout minimumMib;
in
{
  name = "installer";

  nodes = {
    # Never started: what is installed.
    target.imports = [ ./image-node.nix ];

    machine =
      { nodes, pkgs, ... }:
      let
        inherit (nodes.target.system.image) id version;
        image = "${nodes.target.system.build.image}/${nodes.target.image.filePath}";
        medium = pkgs.runCommand "test-medium" { nativeBuildInputs = [ pkgs.appliance-flash ]; } ''
          mkdir $out
          ln -s ${image} $out/image.raw
          appliance-flash map $out/image.raw --output $out/${id}.bmap
          {
            echo "image=image.raw"
            echo "map=${id}.bmap"
            echo "map_sha256=$(sha256sum $out/${id}.bmap | cut -d ' ' -f 1)"
            echo "version=${version}"
            echo "minimum_mib=${toString minimumMib}"
            echo "sector_size=${toString layout.image.sector_size}"
          } > $out/description
        '';
      in
      {
        environment.systemPackages = [ pkgs.install-appliance ];
        environment.etc."test-medium".source = medium;
        virtualisation = {
          memorySize = 2048;
          qemu.options = [
            "-drive if=none,id=target,file=\"$TARGET_DISK\",format=qcow2,cache=unsafe"
            "-device nvme,serial=T640DISK0,drive=target,logical_block_size=${toString layout.image.sector_size}"
          ];
        };
      };
  };

  testScript =
    { nodes, ... }:
    # python
    ''
      import os
      import subprocess
      import tempfile

      disk = tempfile.NamedTemporaryFile(suffix=".qcow2")
      subprocess.run(
          ["${nodes.machine.virtualisation.qemu.package}/bin/qemu-img", "create", "-q", "-f", "qcow2", disk.name, "16G"],
          check=True,
      )
      os.environ["TARGET_DISK"] = disk.name
      machine.start()
      machine.wait_for_unit("multi-user.target")
      install = "install-appliance --images /etc/test-medium --yes --stay-on"

      with subtest("The disk it runs from is refused"):
          machine.fail(f"{install} --disk /dev/vda")

      with subtest("The empty internal disk is found, written, and read back"):
          machine.succeed(install)

      with subtest("What is on it is the image, with the firmware's own way to boot it"):
          labels = machine.succeed("lsblk --noheadings --output PARTLABEL /dev/nvme0n1")
          assert "t640_${nodes.target.system.image.version}" in labels, labels
          machine.succeed("mount -o ro /dev/nvme0n1p1 /mnt && test -s /mnt${layout.esp.fallback_loader}")

      with subtest("A second run begins anew and ends as well"):
          machine.succeed("umount /mnt")
          machine.succeed(install)
    '';
}
