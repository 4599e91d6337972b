# Every hang ends in a reboot: the kernel's panic, the hardware watchdog, systemd's own deadlines.
{
  config,
  lib,
  ...
}:

let
  cfg = config.appliance.watchdog;
in
{
  options.appliance.watchdog = {
    enable = lib.mkEnableOption "reboots instead of hangs: panic timeout and hardware watchdog";

    device = lib.mkOption {
      type = lib.types.str;
      default = "/dev/watchdog0";
      description = "The watchdog device systemd feeds. The driver is chosen by the hardware's module.";
    };
  };

  config = lib.mkIf cfg.enable {
    systemd.settings.Manager = {
      RuntimeWatchdogSec = lib.mkDefault "30s";
      RebootWatchdogSec = lib.mkDefault "5min";
      WatchdogDevice = lib.mkDefault cfg.device;
      # A PID 1 that crashes would stand still for ever: on the virtual T640 no watchdog reset it.
      CrashAction = lib.mkDefault "reboot";
    };

    boot.initrd.systemd.settings.Manager = {
      RuntimeWatchdogSec = lib.mkDefault "60s";
      DefaultDeviceTimeoutSec = lib.mkDefault "40s";
      CrashAction = lib.mkDefault "reboot";
    };
  };
}
