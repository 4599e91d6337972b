# The lifeline: a second way to a working system when the updater is dead, with another key, another host and no Python;
# and what a person sees when all else is dead: the slots on the screen, one page on the network.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  unitFiles = import ../../lib/unit-files.nix { inherit lib; };

  cfg = config.appliance.lifeline;
  inherit (cfg) package;

  # Keys of the file that are not lists of addresses or directories of keys.
  value = setting: if lib.isList setting then lib.concatStringsSep " " setting else toString setting;

  keys = pkgs.runCommand "appliance-lifeline-keys" { } ''
    mkdir $out
    ${lib.concatImapStrings (number: key: ''
      cp ${key} $out/${toString number}.pub
    '') cfg.publicKeys}
  '';

  isConsole = lib.hasPrefix "appliance-console@";
in
{
  options.appliance.lifeline = {
    enable = lib.mkEnableOption ''
      the lifeline. When neither an update check nor a rehearsal has succeeded for {option}`appliance.lifeline.hours`,
      or the gate says that the updater is broken, it replaces the standby slot from a signed file of its own, and
      restarts into it on trial. The host has to be an image (see {file}`image/`)'';

    package = lib.mkPackageOption pkgs "appliance-lifeline" { };

    urls = lib.mkOption {
      type = lib.types.listOf lib.types.str;
      default = [ ];
      example = [
        "https://lifeline.example.org/t640"
        "http://lifeline.example.org/t640"
      ];
      description = ''
        Where it asks, in this order. Another host than the update repository's, so that one dead host does not take both.
        Plain HTTP after HTTPS is sensible: every byte is verified, and a clock at 1970 lets no certificate pass.
        Empty: the lifeline asks nobody.
      '';
    };

    publicKeys = lib.mkOption {
      type = lib.types.listOf lib.types.path;
      default = [ ];
      example = lib.literalExpression "[ ./keys/lifeline.pub ]";
      description = ''
        minisign's public keys; a file signed with any of them counts. Never the keys of the update repository. A second
        one, kept offline, makes a rotation possible.
      '';
    };

    hours = lib.mkOption {
      type = lib.types.ints.positive;
      default = 72;
      description = "Hours without a successful update check or rehearsal after which the lifeline engages.";
    };

    floor = lib.mkOption {
      type = lib.types.ints.unsigned;
      default = 0;
      description = ''
        The least number of a lifeline file that this image takes. Set to the number published last when the image is
        built, so that a new device cannot be served an old file.
      '';
    };

    settings = lib.mkOption {
      type = lib.types.attrsOf (
        lib.types.oneOf [
          lib.types.str
          lib.types.int
          (lib.types.listOf lib.types.str)
        ]
      );
      default = { };
      example = {
        PROXY = "http://proxy.clinic.example:3128";
        WINDOW = "02:00-05:00";
      };
      description = "More keys of {file}`/etc/appliance-lifeline.conf`; {file}`docs/lifeline.md` lists them.";
    };

    statusPage = {
      enable = lib.mkOption {
        type = lib.types.bool;
        default = cfg.enable;
        defaultText = lib.literalExpression "config.appliance.lifeline.enable";
        description = ''
          Whether one page about the appliance (slots, last verdict of the gate, addresses) can be read with plain HTTP on
          TCP port 8081. It needs nothing but a shell, changes nothing and holds no secret.
        '';
      };
      openFirewall = lib.mkOption {
        type = lib.types.bool;
        default = true;
        description = "Whether the page can be reached from the network.";
      };
    };

    consoles = lib.mkOption {
      type = lib.types.listOf lib.types.str;
      default = [ "tty1" ];
      description = ''
        Screens on which somebody standing at the appliance can see the slots and choose which one boots. No password and
        no shell: whoever stands there could pull the plug as well.
      '';
    };
  };

  config = lib.mkIf cfg.enable {
    appliance.lifeline.settings = {
      URLS = lib.mkDefault cfg.urls;
      HOURS = lib.mkDefault cfg.hours;
      FLOOR = lib.mkDefault cfg.floor;
      KEYS = lib.mkDefault "${keys}";
      DEVICE_CLASS = lib.mkDefault config.appliance.update.settings.device_class or config.system.image.id;
    };

    environment = {
      etc."appliance-lifeline.conf".text = lib.concatStrings (
        lib.mapAttrsToList (key: setting: "${key}=${value setting}\n") cfg.settings
      );
      systemPackages = [ package ];
    };

    systemd = lib.mkMerge [
      { packages = [ package ]; }
      (unitFiles.enableUnits (
        lib.filterAttrs (
          name: _: !isConsole name && (cfg.statusPage.enable || !lib.hasPrefix "appliance-status" name)
        ) package.lifelineUnits
      ))
      {
        services = lib.mergeAttrsList (
          map (console: {
            "appliance-console@${console}" = {
              overrideStrategy = "asDropin";
              wantedBy = [ "multi-user.target" ];
            };
            # Nobody has a password here; two programs on one screen would shut each other out.
            "getty@${console}".enable = lib.mkDefault false;
          }) cfg.consoles
        );
      }
    ];

    networking.firewall.allowedTCPPorts = lib.mkIf (
      cfg.statusPage.enable && cfg.statusPage.openFirewall
    ) [ 8081 ];

    assertions = [
      {
        assertion = cfg.urls == [ ] || cfg.publicKeys != [ ];
        message = ''
          appliance.lifeline.urls is set, but not whose signatures count. Set appliance.lifeline.publicKeys to the public
          key that `minisign -G` wrote when the pair was made (docs/lifeline.md).
        '';
      }
      {
        assertion = config.appliance.update.enable;
        message = ''
          appliance.lifeline.enable replaces slots of an image, and this host has no updater of images
          (appliance.update.enable). Leave it out on hosts with generations.
        '';
      }
      {
        assertion = !lib.any (setting: lib.hasInfix "\n" (value setting)) (lib.attrValues cfg.settings);
        message = "A value of appliance.lifeline.settings has more than one line; /etc/appliance-lifeline.conf is read line by line.";
      }
    ];
  };
}
