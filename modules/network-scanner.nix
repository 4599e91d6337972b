# The network scanner: a gentle inventory of the clinic's network.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  distribution = import ../lib/distribution-module.nix { inherit lib pkgs; };

  cfg = config.services.network-scanner;
  configuration = distribution.configFile "network-scanner" cfg.settings;
in
{
  options.services.network-scanner = {
    enable = lib.mkEnableOption ''
      the network scanner. It listens first, asks gently (at most 100 packets a second, 10 to one host), never sends
      a byte to a printer or an unknown medical device, and keeps its inventory in {file}`/var/lib/network-scanner`'';

    package = lib.mkPackageOption pkgs "network-scanner" { };

    settings = lib.mkOption {
      type = distribution.settingsType {
        interface = lib.mkOption {
          type = lib.types.str;
          default = "";
          example = "enp1s0";
          description = "The network interface to listen and scan on. Empty: the one the default route uses.";
        };
        networks = lib.mkOption {
          type = lib.types.listOf lib.types.str;
          default = [ ];
          example = [ "10.77.0.0/24" ];
          description = "The IPv4 networks to look at. Empty: the interface's own.";
        };
        exclude = lib.mkOption {
          type = lib.types.listOf lib.types.str;
          default = [ ];
          example = [
            "10.77.0.50"
            "00:11:22:33:44:55"
          ];
          description = "Addresses, networks and MAC addresses that never get a packet from the scanner.";
        };
        schedule.quiet_hours = lib.mkOption {
          type = lib.types.listOf (lib.types.strMatching "[0-2][0-9]:[0-5][0-9]-[0-2][0-9]:[0-5][0-9]");
          default = [ ];
          example = [ "08:00-18:00" ];
          description = "Hours of local time in which nothing is sent. Listening goes on.";
        };
      };
      default = { };
      description = ''
        The scanner's configuration, written to {file}`/etc/network-scanner/config.toml`. Keys that are not given keep
        the defaults the package ships.
      '';
    };

    openFirewall = lib.mkOption {
      type = lib.types.bool;
      default = false;
      description = ''
        Whether to let in what other hosts announce to everybody (mDNS, SSDP, WS-Discovery, DHCP requests) and their
        answers to the scanner's multicast questions. Without it the scanner still works, and finds fewer names.
      '';
    };
  };

  config = lib.mkIf cfg.enable (
    lib.mkMerge [
      {
        services.network-scanner.settings = distribution.defaults cfg.package;
        inherit (configuration) environment;

        users.users.network-scanner = {
          isSystemUser = true;
          group = "network-scanner";
          extraGroups = [ "appliance-local" ];
          home = "/var/lib/network-scanner";
          description = "Network scanner";
        };
        users.groups.network-scanner = { };
        users.groups.appliance-local = { };
      }

      (distribution.install {
        inherit (cfg) package;
        restartTriggers = [ configuration.file ];
      })

      (lib.mkIf cfg.openFirewall {
        networking.firewall.extraInputRules = ''
          ip daddr 255.255.255.255 udp dport 67 accept comment "DHCP requests of others, listened to"
          ip daddr 224.0.0.251 udp dport 5353 accept comment "mDNS"
          ip6 daddr ff02::fb udp dport 5353 accept comment "mDNS"
          ip daddr 239.255.255.250 udp dport { 1900, 3702 } accept comment "SSDP, WS-Discovery"
          udp sport { 1900, 3702, 5353 } udp dport 32768-60999 accept comment "answers to multicast questions"
        '';
        assertions = [
          {
            assertion = config.networking.nftables.enable || !config.networking.firewall.enable;
            message = ''
              services.network-scanner.openFirewall writes nftables rules: set networking.nftables.enable = true, or set
              openFirewall to false and let UDP 1900, 3702 and 5353 in by hand.
            '';
          }
        ];
      })
    ]
  );
}
