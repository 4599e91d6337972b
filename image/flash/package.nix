{
  applianceDistribution,
  lib,
  bmaptool,
  mtools,
  util-linux,
  zstd,
}:

applianceDistribution {
  root = ./.;

  # The programs it calls.
  makeWrapperArgs = [
    "--prefix PATH : ${
      lib.makeBinPath [
        bmaptool
        mtools
        util-linux
        zstd
      ]
    }"
  ];
}
