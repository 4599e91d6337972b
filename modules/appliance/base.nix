# What holds for every appliance, however it is installed.
{
  config,
  lib,
  ...
}:

let
  cfg = config.appliance;
in
{
  options.appliance.enable = lib.mkEnableOption ''
    the base of an appliance: a host nobody logs in to, which keeps its journal, looks after
    itself and asks the network only what it must. The services that make it useful are enabled one by one
    under {option}`services.compliance-agent`, {option}`services.network-scanner` and {option}`services.local-portal`'';

  config = lib.mkIf cfg.enable {
    appliance = {
      firewall.enable = lib.mkDefault true;
      network.enable = lib.mkDefault true;
      clock.enable = lib.mkDefault true;
      watchdog.enable = lib.mkDefault true;
    };

    # What the appliance is there for may be reached, as soon as it is enabled.
    services.local-portal.openFirewall = lib.mkDefault true;
    services.network-scanner.openFirewall = lib.mkDefault true;

    time.timeZone = lib.mkDefault "UTC";
    i18n.defaultLocale = lib.mkDefault "C.UTF-8";

    # Accounts are part of the system, not of its state. Nobody has a password.
    users.mutableUsers = false;
    users.allowNoPasswordLogin = lib.mkDefault true;
    security.sudo.enable = lib.mkDefault false;
    services.openssh.enable = lib.mkDefault false;

    # The services ask systemd over D-Bus; polkit says which of them may do what.
    security.polkit.enable = true;

    services.journald = {
      storage = "persistent";
      extraConfig = ''
        SystemMaxUse=256M
        SystemKeepFree=256M
        MaxRetentionSec=90day
        ForwardToConsole=no
      '';
    };

    # Compressed memory rather than swap on disk: patient data must not reach a swap partition.
    zramSwap.enable = lib.mkDefault true;

    # The same file as in every other image of the appliance; it sorts after NixOS's own 60-nixos.conf.
    environment.etc."sysctl.d/70-appliance.conf".source = ../../image/sysctl.d/70-appliance.conf;

    # A crashed program's memory may hold a password or a patient's name.
    systemd.coredump.settings.Coredump.Storage = lib.mkDefault "none";

    # Nobody is at the console to answer a shell.
    systemd.enableEmergencyMode = lib.mkDefault false;
    boot.initrd.systemd.emergencyAccess = lib.mkDefault false;
  };
}
