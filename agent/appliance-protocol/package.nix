{
  applianceDistribution,
  msgspec,
  pynacl,
  rfc8785,
}:

applianceDistribution {
  root = ./.;
  library = true;
  dependencies = [
    msgspec
    pynacl
    rfc8785
  ];
}
