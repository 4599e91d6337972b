{ applianceDistribution }:

applianceDistribution {
  root = ./.;

  # The updater finds the disk by the same description the image was built from.
  postInstall = ''
    install -Dm444 ${../../image/layout.toml} $out/share/appliance-update/layout.toml
  '';
}
