# A virtual machine that looks like an HP T640: UEFI, TPM 2.0, two cores, 4 GiB, an NVMe disk, a
# watchdog, and the SMBIOS names of the real one. It boots the disk in $NIX_DISK_IMAGE, not a kernel
# of the host's.
{ lib, ... }:

let
  inherit (import ../../lib/layout.nix { inherit lib; }) layout;

  # qemu takes a disk's logical block size as given in layout.toml.
  sectorSize = toString layout.image.sector_size;
in
{
  virtualisation = {
    cores = 2;
    memorySize = 4096;
    useEFIBoot = true;
    tpm.enable = true;

    # The machine's own boot chain from its own disk.
    directBoot.enable = false;
    mountHostNixStore = false;
    useDefaultFilesystems = false;
    fileSystems = lib.mkVMOverride { };
    diskImage = null;

    qemu.options = [
      "-drive if=none,id=disk0,file=\"$NIX_DISK_IMAGE\",format=qcow2,cache=unsafe"
      "-device nvme,serial=T640DISK0,drive=disk0,bootindex=1,logical_block_size=${sectorSize}"
      "-device i6300esb"
      "-action watchdog=reset"
      "-uuid 7a1d8f0e-6f2b-4c56-9a53-54364054640a"
      "-smbios type=1,manufacturer=HP,product='HP t640 Thin Client',serial=TESTT640,uuid=7a1d8f0e-6f2b-4c56-9a53-54364054640a"
    ];
  };

  # QEMU has another watchdog than the machine's chipset.
  boot.initrd.kernelModules = [ "i6300esb" ];
}
