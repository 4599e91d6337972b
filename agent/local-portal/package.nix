{ applianceDistribution }:

applianceDistribution {
  root = ./.;
}
