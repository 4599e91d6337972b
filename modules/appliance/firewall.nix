# Default deny. Each service opens what it needs with its own `openFirewall`.
{
  config,
  lib,
  ...
}:

let
  cfg = config.appliance.firewall;
in
{
  options.appliance.firewall.enable = lib.mkEnableOption ''
    the appliance's firewall: nftables, everything that is not asked for is dropped, nothing is
    forwarded, and refusals are logged within bounds. Modules open ports with {option}`networking.firewall`'';

  config = lib.mkIf cfg.enable {
    networking.nftables.enable = true;
    networking.firewall = {
      enable = true;
      allowPing = true;
      # Drop, so that a port scan of the clinic does not tell what is closed from what is not there.
      rejectPackets = lib.mkDefault false;
      filterForward = true;
      # Multicast answers and DHCP arrive by paths that a strict filter would call spoofed.
      checkReversePath = lib.mkDefault "loose";
      # The default logs every refused connection; a broadcast-happy clinic would fill the journal.
      logRefusedConnections = lib.mkDefault false;
      logRefusedPackets = lib.mkDefault false;
    };
  };
}
