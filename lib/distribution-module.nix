# What every module of a Python distribution has in common: the files its package ships take
# effect, and its settings become its configuration file.
{ lib, pkgs }:

let
  unitFiles = import ./unit-files.nix { inherit lib; };
  toml = pkgs.formats.toml { };
in
{
  /** The type of a `settings` option: any TOML, with the given options typed and described. */
  settingsType =
    options:
    lib.types.submodule {
      freeformType = toml.type;
      inherit options;
    };

  /**
    Option definitions that install a package of this repository and enable those of its units that
    `wanted` is true for. `path` are packages whose programs its services call; a change of one of
    `restartTriggers` restarts them.
  */
  install =
    {
      package,
      wanted ? (_: true),
      path ? [ ],
      restartTriggers ? [ ],
    }:
    let
      units = lib.filterAttrs (name: _: wanted name) package.units;
    in
    {
      systemd = lib.mkMerge [
        { packages = [ package ]; }
        (unitFiles.enableUnits units)
        { services = unitFiles.forServices units { inherit path restartTriggers; }; }
        (lib.mkIf (lib.elem "tmpfiles.d" package.ships) { tmpfiles.packages = [ package ]; })
      ];

      # The programs, and for polkit the rules.
      environment.systemPackages = [ package ];
      services.dbus.packages = lib.mkIf (lib.elem "dbus-1" package.ships) [ package ];
      security.polkit.enable = lib.mkIf (lib.elem "polkit-1" package.ships) true;
    };

  /** The package's own default settings, each weaker than what a module or a host says. */
  defaults = package: lib.mapAttrsRecursive (_: lib.mkOverride 1100) package.defaultSettings;

  /** /etc/<name>/config.toml from settings, readable by everybody: it holds no secret. */
  configFile =
    name: settings:
    let
      file = toml.generate "${name}.toml" settings;
    in
    {
      inherit file;
      environment.etc."${name}/config.toml".source = file;
    };
}
