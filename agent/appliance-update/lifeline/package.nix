# The lifeline's scripts and units for NixOS: shell and the programs it calls, and no Python at run time. What image/
# layout.toml says of the disk is turned into shell variables while the package is built.
{
  lib,
  stdenvNoCC,
  bash,
  coreutils,
  curl,
  e2fsprogs,
  gnugrep,
  gnused,
  iproute2,
  minisign,
  python3Minimal,
  shellcheck-minimal,
  systemd,
  util-linux,
  zstd,
  flavour ? "nixos",
}:

let
  unitFiles = import ../../../lib/unit-files.nix { inherit lib; };

  scripts = [
    "appliance-console"
    "appliance-lifeline"
    "appliance-recovery"
    "appliance-slots"
    "appliance-status-page"
  ];

  # Everything the scripts call: it goes onto their PATH here, and into the recovery's initrd as it is.
  tools = [
    bash
    coreutils
    curl
    e2fsprogs
    gnugrep
    gnused
    iproute2
    minisign
    systemd
    util-linux
    zstd
  ];
in
stdenvNoCC.mkDerivation (finalAttrs: {
  pname = "appliance-lifeline";
  version = lib.trim (lib.readFile ../../../VERSION);

  src = lib.fileset.toSource {
    root = ./.;
    fileset = lib.fileset.unions [
      ./systemd
      ./recovery
      ./etc
      ./functions.sh
      ./make_layout.py
      (lib.fileset.unions (map (name: ./. + "/${name}") scripts))
    ];
  };

  nativeBuildInputs = [
    python3Minimal
    shellcheck-minimal
  ];
  buildInputs = [ bash ];

  doCheck = true;
  checkPhase = ''
    runHook preCheck
    shellcheck --shell=sh --external-sources --source-path=SCRIPTDIR functions.sh ${toString scripts}
    runHook postCheck
  '';

  installPhase = ''
    runHook preInstall
    lib=$out/lib/appliance-lifeline
    mkdir -p $lib $out/bin $out/lib/systemd
    cp -r --no-preserve=mode systemd $out/lib/systemd/system
    cp -r --no-preserve=mode recovery $lib/recovery
    python3 make_layout.py ${../../../image/layout.toml} ${flavour} > $lib/layout.sh
    install -m444 functions.sh $lib/
    install -m555 ${toString scripts} $lib/
    for script in ${toString scripts}; do
      sed -i -e "1a PATH=$out/bin:${lib.makeBinPath tools}; export PATH" \
        -e "s#/usr/lib/appliance-lifeline#$lib#g" "$lib/$script"
    done
    ln -s $lib/appliance-lifeline $lib/appliance-slots $out/bin/
    find $out/lib/systemd $lib/recovery -type f -exec sed -i \
      -e "s#/usr/bin/appliance-lifeline#$out/bin/appliance-lifeline#g" \
      -e "s#/usr/lib/appliance-lifeline#$lib#g" \
      -e "/^Environment=PATH=/d" {} +
    runHook postInstall
  '';

  passthru =
    let
      installed =
        text:
        lib.replaceStrings
          [
            "/usr/bin/appliance-lifeline"
            "/usr/lib/appliance-lifeline"
            "Environment=PATH=/usr/bin:/usr/sbin\n"
          ]
          [
            "${finalAttrs.finalPackage}/bin/appliance-lifeline"
            "${finalAttrs.finalPackage}/lib/appliance-lifeline"
            ""
          ]
          text;
    in
    {
      inherit tools flavour;
      # As installed, for systems and for the recovery.
      lifelineUnits = lib.mapAttrs (_: installed) (unitFiles.readUnits ./systemd);
      recoveryUnits = lib.mapAttrs (_: installed) (unitFiles.readUnits ./recovery);
    };

  meta = {
    description = "Replaces an appliance's standby slot when its updater cannot; shell and minisign, no Python";
    mainProgram = "appliance-lifeline";
    platforms = lib.platforms.linux;
  };
})
