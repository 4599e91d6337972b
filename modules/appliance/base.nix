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

    boot.kernel.sysctl = {
      "kernel.dmesg_restrict" = lib.mkDefault 1;
      "kernel.kptr_restrict" = lib.mkForce 2;
      "kernel.unprivileged_bpf_disabled" = lib.mkDefault 1;
      "net.core.bpf_jit_harden" = lib.mkDefault 2;
    };

    # Nobody is at the console to answer a shell.
    systemd.enableEmergencyMode = lib.mkDefault false;
    boot.initrd.systemd.emergencyAccess = lib.mkDefault false;
  };
}
