{
  lib,
  stdenvNoCC,
  bash,
  coreutils,
  gnugrep,
  gnused,
  jq,
  makeWrapper,
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
    fileset = ./install-appliance;
  };

  nativeBuildInputs = [
    makeWrapper
    shellcheck-minimal
  ];
  buildInputs = [ bash ];

  doCheck = true;
  checkPhase = ''
    runHook preCheck
    shellcheck install-appliance
    runHook postCheck
  '';

  installPhase = ''
    runHook preInstall
    install -Dm755 install-appliance $out/bin/install-appliance
    wrapProgram $out/bin/install-appliance --prefix PATH : ${
      lib.makeBinPath [
        coreutils
        gnugrep
        gnused
        jq
        systemd
        util-linux
        zstd
      ]
    }
    runHook postInstall
  '';

  meta = {
    description = "Writes the appliance's image to the internal disk of the machine it runs on";
    mainProgram = "install-appliance";
    platforms = lib.platforms.linux;
  };
}
