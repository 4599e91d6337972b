# Time from the clinic's own network.
{
  config,
  lib,
  ...
}:

let
  cfg = config.appliance.clock;
in
{
  options.appliance.clock = {
    enable = lib.mkEnableOption "time synchronisation with the servers the site announces by DHCP (option 42)";

    servers = lib.mkOption {
      type = lib.types.listOf lib.types.str;
      default = [ ];
      example = [ "ntp.clinic.example" ];
      description = ''
        NTP servers to ask in addition to those the site's DHCP server announces. Empty by default:
        the appliance talks to nobody it was not told of.
      '';
    };
  };

  config = lib.mkIf cfg.enable {
    services.timesyncd = {
      enable = lib.mkDefault true;
      servers = lib.mkDefault cfg.servers;
      fallbackServers = lib.mkDefault [ ];
    };
  };
}
