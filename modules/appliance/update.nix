# The appliance's own updater: fetches a signed release, writes it into the other slot, and starts it
# on trial. It shares nothing with the services it may have to repair.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  distribution = import ../../lib/distribution-module.nix { inherit lib pkgs; };

  cfg = config.appliance.update;

  windowTime = lib.types.strMatching "([01][0-9]|2[0-3]):[0-5][0-9]|";
in
{
  options.appliance.update = {
    enable = lib.mkEnableOption ''
      the updater. It replaces the whole system: the new one is written into the slot that is not running, started on
      trial, and kept only when the health gate passes. The host has to be an image (see {file}`image/`)'';

    package = lib.mkPackageOption pkgs "appliance-update" { };

    trustedRoot = lib.mkOption {
      type = lib.types.nullOr lib.types.path;
      default = null;
      example = lib.literalExpression "./keys/root.json";
      description = ''
        The root metadata of the update repository (The Update Framework), which names the keys that releases are
        signed with. Public, and part of the image: it is what makes a release of the provider different from anybody's.
      '';
    };

    settings = lib.mkOption {
      type = distribution.settingsType {
        repository = lib.mkOption {
          type = lib.types.str;
          default = "";
          example = "https://updates.example.org/t640";
          description = ''
            The address above the repository's `metadata/` and `targets/`. Plain HTTP is as safe as HTTPS here, because
            every byte is verified. Empty: nothing is polled, and the appliance stays as it is.
          '';
        };
        reboot = lib.mkOption {
          type = lib.types.bool;
          default = true;
          description = "Whether the updater restarts the machine into a new version by itself, within the window.";
        };
        transfer = {
          bytes_per_second = lib.mkOption {
            type = lib.types.numbers.nonnegative;
            default = 0;
            example = 250000;
            description = "A cap on everything the updater fetches. 0: as fast as the line is.";
          };
          proxy = lib.mkOption {
            type = lib.types.strMatching "(https?://.+)?";
            default = "";
            example = "http://proxy.clinic.example:3128";
            description = ''
              The proxy for all fetching. Empty: what `http_proxy`, `https_proxy` and `no_proxy` say in the unit's
              environment. A password in it becomes world-readable in the Nix store.
            '';
          };
        };
        window = {
          start = lib.mkOption {
            type = windowTime;
            default = "";
            example = "02:00";
            description = "Start of the daily maintenance window, HH:MM. Empty, together with `end`: at any time.";
          };
          end = lib.mkOption {
            type = windowTime;
            default = "";
            example = "04:30";
            description = "End of the daily maintenance window, HH:MM. A window may go over midnight.";
          };
          time_zone = lib.mkOption {
            type = lib.types.str;
            default = "UTC";
            example = "America/New_York";
            description = "The IANA time zone the window is meant in: the clinic's.";
          };
          days = lib.mkOption {
            type = lib.types.listOf (
              lib.types.enum [
                "mon"
                "tue"
                "wed"
                "thu"
                "fri"
                "sat"
                "sun"
              ]
            );
            default = [ ];
            example = [
              "sat"
              "sun"
            ];
            description = "The days on which the window begins. Empty: every day.";
          };
          maximum_postponement_days = lib.mkOption {
            type = lib.types.numbers.between 0 366;
            default = 14;
            description = ''
              Days for which a release waits for the window. Then it goes ahead as soon as nobody inhibits reboots.
            '';
          };
        };
      };
      default = { };
      description = ''
        The configuration of the updater and of the health gate, written to {file}`/etc/appliance-update/config.toml`.
        Keys that are not given keep the defaults the package ships.
      '';
    };
  };

  # Its units are enabled by health-gate.nix, which installs the package both halves are in.
  config = lib.mkIf cfg.enable {
    # Both halves of one promise: what the updater starts on trial, the gate judges.
    appliance.healthGate.enable = true;

    appliance.update.settings.paths = {
      sysupdate = "${config.systemd.package}/lib/systemd/systemd-sysupdate";
      trusted_root = lib.mkIf (cfg.trustedRoot != null) "${cfg.trustedRoot}";
    };

    assertions = [
      {
        assertion = config.system.image.id != null && config.system.image.version != null;
        message = ''
          appliance.update.enable replaces whole images, and this host has no image version. Import ./image and set
          appliance.identity.enable = true, or leave the updater out and deploy generations (see hosts/t640-rebuild).
        '';
      }
      {
        assertion = cfg.settings.repository == "" || cfg.trustedRoot != null;
        message = ''
          appliance.update.settings.repository is set, but not whose signatures count. Set appliance.update.trustedRoot
          to the repository's root.json (`appliance-release` writes it when it makes the keys).
        '';
      }
      {
        assertion = (cfg.settings.window.start == "") == (cfg.settings.window.end == "");
        message = "Set both appliance.update.settings.window.start and window.end, or neither for updates at any time.";
      }
      {
        assertion = config.systemd.package.withSysupdate or false;
        message = "The updater writes slots with systemd-sysupdate: use a systemd.package built with withSysupdate = true.";
      }
    ];
  };
}
