# HP T640 thin client: AMD Ryzen R1505G, Realtek network, M.2 or eMMC storage, TPM 2.0.
{
  config,
  lib,
  ...
}:

let
  cfg = config.appliance.hardware.t640;
in
{
  options.appliance.hardware.t640.enable = lib.mkEnableOption "drivers and firmware of the HP T640 thin client";

  config = lib.mkIf cfg.enable {
    boot = {
      initrd = {
        # Storage the machine is sold with (NVMe, SATA, eMMC), and USB for the installer's stick.
        availableKernelModules = [
          "ahci"
          "nvme"
          "sd_mod"
          "sdhci_acpi"
          "sdhci_pci"
          "mmc_block"
          "usb_storage"
          "xhci_pci"
        ];
        # The watchdog must run before anything can hang.
        kernelModules = [ "sp5100_tco" ];
      };
      kernelModules = [ "kvm-amd" ];
    };

    hardware = {
      cpu.amd.updateMicrocode = lib.mkDefault true;
      # The network controller (r8169) and the graphics want firmware.
      enableRedistributableFirmware = lib.mkDefault true;
    };

    security.tpm2.enable = lib.mkDefault true;
  };
}
