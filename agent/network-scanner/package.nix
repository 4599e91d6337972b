{
  applianceDistribution,
  appliance-protocol,
  click,
  msgspec,
  rich,
  sqlite-utils,
  starlette,
  uvicorn,
}:

applianceDistribution {
  root = ./.;
  dependencies = [
    appliance-protocol
    click
    msgspec
    rich
    sqlite-utils
    starlette
    uvicorn
  ];
}
