# What a new system must prove before the boot loader may call it good. Used by image hosts and by
# hosts with generations alike.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  distribution = import ../../lib/distribution-module.nix { inherit lib pkgs; };

  cfg = config.appliance.healthGate;
  update = config.appliance.update;
  isGate = name: lib.hasPrefix "boot-health" name || lib.hasPrefix "boot-complete" name;
  configuration = distribution.configFile "appliance-update" update.settings;
in
{
  options.appliance.healthGate = {
    enable = lib.mkEnableOption ''
      the health gate: {command}`boot-health` runs at every boot, and only when it passes does systemd bless the boot.
      A system that fails it restarts, and after the loader's tries the previous one is back without a person'';

    units = lib.mkOption {
      type = lib.types.listOf lib.types.str;
      example = [ "compliance-agent.service" ];
      description = ''
        Units that must be active and must have stopped restarting. By default those of this repository's services
        that are enabled on the host.
      '';
    };

    deadline = lib.mkOption {
      type = lib.types.ints.positive;
      default = 240;
      description = ''
        Seconds a new system has to pass. Afterwards it restarts. Longer than the slowest good start, shorter than
        anybody's patience: three tries have to fit into the maintenance window.
      '';
    };

    portal = lib.mkOption {
      type = lib.types.str;
      default = lib.optionalString config.services.local-portal.enable "https://localhost:443/healthz";
      defaultText = lib.literalExpression ''
        lib.optionalString config.services.local-portal.enable "https://localhost:443/healthz"
      '';
      description = "An address that must answer 200. Empty: none is asked.";
    };
  };

  config = lib.mkMerge [
    {
      appliance.healthGate.units = lib.mkMerge [
        (lib.mkIf config.services.compliance-agent.enable [ "compliance-agent.service" ])
        (lib.mkIf config.services.network-scanner.enable [ "network-scanner.service" ])
        (lib.mkIf config.services.local-portal.enable [ "local-portal.service" ])
      ];
    }

    (lib.mkIf cfg.enable (
      lib.mkMerge [
        {
          inherit (configuration) environment;

          appliance.update.settings = lib.mkMerge [
            (distribution.defaults update.package)
            {
              gate = {
                inherit (cfg) units deadline portal;
                progress_file = lib.mkIf config.services.compliance-agent.enable (
                  lib.mkDefault "/run/compliance-agent/progress"
                );
                # A host with generations has no slots to look at, and nothing else to write them with.
                slots = lib.mkDefault config.appliance.update.enable;
                rehearsal_units = lib.mkIf (!config.services.compliance-agent.enable) (lib.mkDefault [ ]);
              };
              paths.layout = "${update.package}/share/appliance-update/layout.toml";
              paths.canary = "${update.package}/share/appliance-update/canary";
            }
          ];

          assertions = [
            {
              assertion = config.boot.loader.systemd-boot.bootCounting.enable || config.appliance.update.enable;
              message = ''
                appliance.healthGate.enable is set, but nothing counts the tries of a new system, so a failing gate would
                restart it for ever. Set boot.loader.systemd-boot.bootCounting.enable = true on a host with generations,
                or appliance.update.enable = true on an image.
              '';
            }
          ];
        }

        (distribution.install {
          inherit (update) package;
          # The package is the updater's; a host that has the gate alone wants none of its other units.
          wanted =
            name: isGate name || config.appliance.update.enable || config.appliance.generations.enable;
          path = [
            pkgs.desync
            pkgs.util-linux
            pkgs.zstd
          ];
        })
      ]
    ))
  ];
}
