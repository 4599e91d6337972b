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
      type = distribution.settingsType {
        names = lib.mkOption {
          type = lib.types.listOf lib.types.str;
          default = [ ];
          example = [ "appliance.clinic.example" ];
          description = ''
            Further DNS names the portal is opened under. They become part of its certificate when it is made, at the
            first start.
          '';
        };
        idle_minutes = lib.mkOption {
          type = lib.types.ints.between 1 1440;
          default = 30;
          description = "Minutes without a request after which a person is logged out (45 CFR 164.312(a)(2)(iii)).";
        };
      };
      default = { };
      description = ''
        The portal's configuration, written to {file}`/etc/local-portal/config.toml`. Keys that are not given keep the
        defaults the package ships.
      '';
    };

    openFirewall = lib.mkOption {
      type = lib.types.bool;
      default = false;
      description = ''
        Whether to let the clinic's computers reach the portal on TCP port 443, and on port 80, which only sends them
        to the other.
      '';
    };
  };

  config = lib.mkIf cfg.enable (
    lib.mkMerge [
      {
        services.local-portal.settings = lib.mkMerge [
          (distribution.defaults cfg.package)
          # NixOS has no /usr/lib/os-release.
          { os_release = lib.mkDefault "/etc/os-release"; }
        ];
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
        networking.firewall.allowedTCPPorts = [
          80
          443
        ];
      })
    ]
  );
}
