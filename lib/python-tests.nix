# Runs a distribution's pytest folder as a derivation: the tests that need neither a browser, nor a
# database server, nor network namespaces, nor a virtual machine. The others run in `make test`.
{
  lib,
  pkgs,
}:

let
  inherit (lib) fileset;

  root = ../.;

  # The parts of the repository tests look at. Generated folders of a working copy stay out.
  src = fileset.toSource {
    inherit root;
    fileset = fileset.unions [
      ../pyproject.toml
      ../VERSION
      ../image/layout.toml
      (fileset.fileFilter (file: !file.hasExt "pyc") ../image/flash)
      (fileset.fileFilter (file: !file.hasExt "pyc") ../agent)
      (fileset.fileFilter (file: !file.hasExt "pyc") ../central)
      (fileset.fileFilter (file: !file.hasExt "pyc") ../tests)
      (fileset.fileFilter (file: !file.hasExt "pyc") ../vm-tests)
    ];
  };

  python = pkgs.python3.withPackages (
    packages:
    map packages.toPythonModule [
      pkgs.appliance-flash
      pkgs.appliance-update
      pkgs.central-command
      pkgs.compliance-agent
      pkgs.local-portal
      pkgs.network-scanner
    ]
    ++ [
      packages.httpx
      packages.hypothesis
      packages.psutil
      packages.pytest
      packages.pytest-asyncio
      packages.requests
      packages.zeroconf
    ]
  );
in

# The folder's name below tests/, and the files in it that need more than a sandbox has.
{
  folder,
  without ? [ ],
}:

pkgs.runCommand "tests-${folder}"
  {
    nativeBuildInputs = [
      python
      pkgs.bmaptool
      pkgs.casync
      pkgs.dbus
      pkgs.desync
      pkgs.dosfstools
      pkgs.iproute2
      pkgs.mtools
      pkgs.openssl
      pkgs.procps
      pkgs.systemd
      pkgs.util-linux
      pkgs.zstd
    ];
    # GLib's typelibs, which pydbus loads by name.
    GI_TYPELIB_PATH = lib.makeSearchPath "lib/girepository-1.0" [
      pkgs.glib.out
      pkgs.gobject-introspection
    ];
    meta.description = "The tests of ${folder} that run in a build sandbox";
  }
  ''
    cp -r ${src} source
    chmod -R u+w source
    cd source
    export HOME=$TMPDIR
    python -m pytest -p no:cacheprovider -m "not browser and not netns and not postgresql and not vm" \
      ${lib.escapeShellArgs (map (file: "--ignore=tests/${folder}/${file}") without)} tests/${folder}
    touch $out
  ''
