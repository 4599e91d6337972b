# Builds one Python distribution of this repository together with the files it ships beside its
# code: systemd units, sysusers and tmpfiles definitions, D-Bus policy, polkit rules and data.
#
# Name, version, description, dependencies and programs come from pyproject.toml. The units say
# /usr/bin/<program>, which is where other Linux systems install it; here every such path becomes
# the one in the store.
{
  lib,
  python3Packages,
}:

{
  # The distribution's folder.
  root,
  # Whether other distributions import it (a library) or people and units run it (an application).
  library ? false,
  meta ? { },
  passthru ? { },
  ...
}@arguments:

let
  inherit (lib) fileset;

  inherit (lib.importTOML (root + "/pyproject.toml")) project;

  # "sqlalchemy[asyncio]>=2.0" as the packages of nixpkgs it stands for.
  dependency =
    requirement:
    let
      parts = lib.match "([A-Za-z0-9._-]+)(\\[([a-z0-9_,-]+)])?.*" requirement;
      name = lib.toLower (lib.replaceStrings [ "_" "." ] [ "-" "-" ] (lib.head parts));
      extras = lib.optionals (lib.elemAt parts 2 != null) (lib.splitString "," (lib.elemAt parts 2));
      package =
        python3Packages.${name}
          or (throw "${project.name}/pyproject.toml depends on ${requirement}, and nixpkgs has no Python package called ${name}");
    in
    [ package ] ++ lib.concatMap (extra: package.optional-dependencies.${extra}) extras;

  # The folders of a distribution and where they are installed.
  destinations = {
    "systemd" = "lib/systemd/system";
    "sysusers.d" = "lib/sysusers.d";
    "tmpfiles.d" = "lib/tmpfiles.d";
    "dbus-1" = "share/dbus-1/system.d";
    "polkit-1" = "share/polkit-1/rules.d";
    "share" = "share/${project.name}";
  };

  # Scripts and unit drop-ins for the initrd: taken from here by whoever builds one.
  initrd = root + "/initrd";

  present = lib.filterAttrs (folder: _: lib.pathExists (root + "/${folder}")) destinations;
  programs = lib.attrNames (project.scripts or { });
  defaults = root + "/etc/config.toml";
  unitFiles = import ./unit-files.nix { inherit lib; };

  build = if library then python3Packages.buildPythonPackage else python3Packages.buildPythonApplication;
in
build (
  finalAttrs:
  lib.removeAttrs arguments [
    "root"
    "library"
  ]
  // {
    pname = project.name;
    inherit (project) version;
    pyproject = true;

    src = fileset.toSource {
      inherit root;
      fileset = fileset.unions (
        [
          (root + "/pyproject.toml")
          (fileset.fileFilter (file: !file.hasExt "pyc") (root + "/src"))
        ]
        ++ map (folder: root + "/${folder}") (lib.attrNames present)
      );
    };

    build-system = [ python3Packages.setuptools ];
    dependencies = lib.concatMap dependency project.dependencies;
    pythonImportsCheck = arguments.pythonImportsCheck or [ (lib.replaceStrings [ "-" ] [ "_" ] project.name) ];

    postInstall = lib.concatStrings (
      lib.mapAttrsToList (folder: destination: ''
        mkdir -p "$out/${destination}"
        cp -r --no-preserve=mode ${folder}/. "$out/${destination}/"
      '') present
    )
    + lib.optionalString (programs != [ ]) ''
      if [ -d "$out/lib/systemd/system" ]; then
        find "$out/lib/systemd/system" -type f -exec sed -i ${
          lib.escapeShellArgs (
            lib.concatMap (program: [
              "-e"
              "s#/usr/bin/${program}\\b#${placeholder "out"}/bin/${program}#g"
            ]) programs
          )
        } {} +
      fi
    ''
    + arguments.postInstall or "";

    passthru = {
      # Which of the folders above this distribution has.
      ships = lib.attrNames present;

      # The units as installed: what `systemd.packages` will make of this package.
      units = lib.mapAttrs (
        _: lib.replaceStrings (map (program: "/usr/bin/${program}") programs) (
          map (program: "${finalAttrs.finalPackage}/bin/${program}") programs
        )
      ) (unitFiles.readUnits (root + "/systemd"));

      # The same for the initrd, and where its scripts are.
      initrdUnits = lib.filterAttrs (name: _: lib.hasInfix "." name) (
        unitFiles.readUnits initrd
      );
      inherit initrd;

      # What the programs use where their configuration is silent, in the form of a settings option.
      defaultSettings = lib.optionalAttrs (lib.pathExists defaults) (lib.importTOML defaults);
    }
    // passthru;

    meta = {
      inherit (project) description;
      platforms = lib.platforms.linux;
    }
    // lib.optionalAttrs (programs != [ ]) { mainProgram = project.name; }
    // meta;
  }
)
