{ applianceDistribution }:

applianceDistribution {
  root = ./.;
  library = true;
}
