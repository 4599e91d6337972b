{
  lib,
  applianceDistribution,
  desync,
  minisign,
  zstd,
}:

applianceDistribution {
  root = ./.;

  # What `appliance-release` calls to pack artifacts, to chop them into chunks, and to sign for the lifeline.
  makeWrapperArgs = [
    "--suffix"
    "PATH"
    ":"
    (lib.makeBinPath [
      desync
      minisign
      zstd
    ])
  ];
}
