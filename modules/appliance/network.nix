# The wired network of a clinic: addresses, names and time come from its DHCP server.
{
  config,
  lib,
  ...
}:

let
  cfg = config.appliance.network;
in
{
  options.appliance.network.enable = lib.mkEnableOption ''
    DHCP on every wired interface, by systemd-networkd. A clinic without DHCP is served by an entry
    in {option}`systemd.network.networks` whose name sorts before `20-wired`'';

  config = lib.mkIf cfg.enable {
    networking = {
      useNetworkd = true;
      useDHCP = false;
      # Weaker than any other default: whoever deploys several gives each a name.
      hostName = lib.mkOverride 1200 "appliance";
    };

    systemd.network = {
      networks."20-wired" = {
        matchConfig = {
          Type = "ether";
          Kind = "!*";
        };
        networkConfig = {
          DHCP = true;
          LLMNR = false;
          MulticastDNS = false;
        };
        dhcpV4Config = {
          UseNTP = true;
          UseHostname = false;
          # By MAC address, so that both slots and a replaced image keep the lease.
          ClientIdentifier = "mac";
        };
      };

      # A pulled cable delays nothing: everything on the appliance works offline.
      wait-online = {
        anyInterface = lib.mkDefault true;
        timeout = lib.mkDefault 30;
      };
    };

    services.resolved = {
      enable = true;
      settings.Resolve = {
        LLMNR = false;
        MulticastDNS = false;
        # A public resolver would learn the names of the clinic's machines.
        FallbackDNS = lib.mkDefault "";
      };
    };
  };
}
