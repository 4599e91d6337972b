{
  lib,
  stdenvNoCC,
  bash,
  coreutils,
  diffutils,
  findutils,
  gnugrep,
  gnused,
  makeWrapper,
  mtools,
  shellcheck-minimal,
  systemd,
  util-linux,
  zstd,
}:

stdenvNoCC.mkDerivation {
  pname = "install-appliance";
  version = lib.trim (lib.readFile ../../VERSION);

  src = lib.fileset.toSource {
    root = ./.;
    fileset = lib.fileset.unions [
      ./install-appliance
      ./install-appliance.service
      ./lib
      ./machines
    ];
  };

  nativeBuildInputs = [
    makeWrapper
    shellcheck-minimal
  ];
  buildInputs = [ bash ];

  doCheck = true;
  checkPhase = ''
    runHook preCheck
    shellcheck --external-sources install-appliance lib/*.sh
    runHook postCheck
  '';

  # The program finds its parts beside itself.
  installPhase = ''
    runHook preInstall
    install -Dm755 -t $out/libexec/install-appliance install-appliance
    install -Dm644 -t $out/libexec/install-appliance machines
    install -Dm644 -t $out/libexec/install-appliance/lib lib/*.sh
    makeWrapper $out/libexec/install-appliance/install-appliance $out/bin/install-appliance --prefix PATH : ${
      lib.makeBinPath [
        coreutils
        diffutils
        findutils
        gnugrep
        gnused
        mtools
        systemd
        util-linux
        zstd
      ]
    }
    install -Dm644 -t $out/lib/systemd/system install-appliance.service
    substituteInPlace $out/lib/systemd/system/install-appliance.service \
      --replace-fail /usr/lib/install-appliance/install-appliance $out/bin/install-appliance
    runHook postInstall
  '';

  meta = {
    description = "Writes the appliance's image to the internal disk of the machine it runs on";
    mainProgram = "install-appliance";
    platforms = lib.platforms.linux;
  };
}
