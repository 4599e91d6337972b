# Which system this is. The identity of the device itself lives on its state, never here.
{
  config,
  lib,
  ...
}:

let
  inherit (import ../../lib/layout.nix { inherit lib; }) layout longestLabel;

  cfg = config.appliance.identity;
in
{
  options.appliance.identity = {
    enable = lib.mkEnableOption "an identity of the system in os-release (`IMAGE_ID=` and `IMAGE_VERSION=`)";

    version = lib.mkOption {
      type = lib.types.str;
      default = lib.trim (lib.readFile ../../VERSION);
      defaultText = lib.literalMD "the contents of the file `VERSION`";
      example = "2026.11.3";
      description = ''
        The version of the system, in the form `YYYY.MM.N`. It names the slots' partitions, the boot
        loader's entry and the files of a release, and the updater compares it to find what is newer.
      '';
    };
  };

  options.appliance.identity.builtAt = lib.mkOption {
    type = lib.types.ints.unsigned;
    default = 0;
    example = 1793491200;
    description = ''
      When the system was made, in seconds since 1970. A machine whose clock battery is empty knows that it cannot be
      earlier than this, and so does not accept update metadata that expired long ago. The flake gives the time of the
      last commit.
    '';
  };

  config = lib.mkIf cfg.enable {
    system.image = {
      inherit (layout.image) id;
      inherit (cfg) version;
    };

    assertions = [
      {
        assertion = lib.match layout.image.version_pattern cfg.version != null;
        message = ''
          appliance.identity.version is "${cfg.version}", which the updater could not order: write it as
          YYYY.MM.N, for example "2026.11.3", without underscores, plus signs or letters.
        '';
      }
      {
        assertion = longestLabel cfg.version <= layout.slot.label_limit;
        message = ''
          appliance.identity.version is "${cfg.version}": a partition label made of it has
          ${toString (longestLabel cfg.version)} characters, and a partition table holds ${toString layout.slot.label_limit}.
          Shorten the version, or the labels in image/layout.toml.
        '';
      }
    ];
  };
}
