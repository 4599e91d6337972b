{
  lib,
  applianceDistribution,
  runCommand,
  central-command,
  desync,
  util-linux,
  zstd,
}:

let
  layout = ../../image/layout.toml;

  # The signed little release for the rehearsal: a pure function of the layout, keys and times included.
  canary =
    runCommand "appliance-canary"
      {
        nativeBuildInputs = [
          central-command
          zstd
        ];
      }
      ''
        appliance-release canary "$out" --layout ${layout}
      '';
in
applianceDistribution {
  root = ./.;

  # What it calls to put artifacts together: from chunks, of parts of the disk, of compressed files.
  makeWrapperArgs = [
    "--suffix"
    "PATH"
    ":"
    (lib.makeBinPath [
      desync
      util-linux
      zstd
    ])
  ];

  # The updater finds the disk by the same description the image was built from.
  postInstall = ''
    install -Dm444 ${layout} $out/share/appliance-update/layout.toml
    ln -s ${canary} $out/share/appliance-update/canary

    # The gate's shell scripts, which its units name where other systems keep them.
    find "$out/lib/systemd/system" -type f -exec sed -i \
      -e "s#/usr/share/appliance-update/#$out/share/appliance-update/#g" {} +
  '';

  passthru = { inherit canary; };
}
