# The third boot entry: a UKI with everything in its initrd (network, minisign, the lifeline, the console's menu, the
# status page), which needs no slot and no state. Its os-release calls it `<id>-recovery`, which systemd-boot sorts behind
# the slots' entries with tries left and before those that are spent.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  inherit (import ../lib/layout.nix { inherit lib; }) layout atVersion;

  cfg = config.appliance.recovery;
  inherit (config.appliance) lifeline;

  recovery = pkgs.nixos {
    imports = [
      ../modules
      ./recovery-system.nix
    ];
    system.image = {
      id = lib.head (lib.splitString "_" layout.esp.recovery_name);
      inherit (cfg) version;
    };
    appliance = {
      hardware.t640.enable = config.appliance.hardware.t640.enable;
      # What is past for certain: the recovery has no time server, and what it remembers lies on the ESP alone.
      identity.builtAt = config.appliance.identity.builtAt;
      lifeline.settings = lifeline.settings;
      lifeline.package = lifeline.package;
    };
    system.stateVersion = config.system.stateVersion;
  };
in
{
  options.appliance.recovery = {
    enable = lib.mkOption {
      type = lib.types.bool;
      default = lifeline.enable;
      defaultText = lib.literalExpression "config.appliance.lifeline.enable";
      description = "Whether a new disk carries a recovery, and a release brings one.";
    };
    version = lib.mkOption {
      type = lib.types.str;
      default = config.system.image.version;
      defaultText = lib.literalExpression "config.system.image.version";
      description = ''
        The version of the recovery. It is pinned when a good recovery is to stay as it is over several releases: devices
        fetch one only when its version is new, and install it after two good releases.
      '';
    };
  };

  config = lib.mkIf cfg.enable {
    system.build.recovery = recovery.config.system.build.uki;
    # For tests, as data.
    system.build.recoverySystem = recovery;

    # A new disk has it from the beginning, with the tries it then gives back to itself at every start.
    image.repart.partitions.${(lib.head layout.partition).name}.contents."${layout.esp.uki_directory}/${atVersion cfg.version layout.esp.recovery_first}".source =
      "${recovery.config.system.build.uki}/${recovery.config.system.boot.loader.ukiFile}";

    assertions = [
      {
        assertion = recovery.config.system.boot.loader.ukiFile == atVersion cfg.version layout.esp.recovery_name;
        message = "The recovery would be called ${recovery.config.system.boot.loader.ukiFile}, but image/layout.toml says ${layout.esp.recovery_name}.";
      }
    ];
  };
}
