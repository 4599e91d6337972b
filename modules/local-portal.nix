# The local portal: what the appliance sees, shown to the clinic's staff.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  distribution = import ../lib/distribution-module.nix { inherit lib pkgs; };

  cfg = config.services.local-portal;
  configuration = distribution.configFile "local-portal" cfg.settings;
in
{
  options.services.local-portal = {
    enable = lib.mkEnableOption ''
      the local portal, the appliance's web pages for the clinic's staff. Its first page asks for the claim code that
      the console shows and that root reads with {command}`local-portal claim-code`'';

    package = lib.mkPackageOption pkgs "local-portal" { };

    settings = lib.mkOption {
      type = distribution.settingsType { };
      default = { };
      description = ''
        The portal's configuration, written to {file}`/etc/local-portal/config.toml`. Keys that are not given keep the
        defaults the package ships.
      '';
    };

    openFirewall = lib.mkOption {
      type = lib.types.bool;
      default = false;
      description = "Whether to let the clinic's computers reach the portal on TCP port 443.";
    };
  };

  config = lib.mkIf cfg.enable (
    lib.mkMerge [
      {
        services.local-portal.settings = distribution.defaults cfg.package;
        inherit (configuration) environment;

        users.users.local-portal = {
          isSystemUser = true;
          group = "local-portal";
          extraGroups = [ "appliance-local" ];
          home = "/var/lib/local-portal";
          description = "Local portal";
        };
        users.groups.local-portal = { };
        users.groups.appliance-local = { };
      }

      (distribution.install {
        inherit (cfg) package;
        restartTriggers = [ configuration.file ];
      })

      (lib.mkIf cfg.openFirewall {
        networking.firewall.allowedTCPPorts = [ 443 ];
      })
    ]
  );
}
