{
  applianceDistribution,
  appliance-protocol,
  click,
  cryptography,
  jinja2,
  msgspec,
  pynacl,
  starlette,
  uvicorn,
}:

applianceDistribution {
  root = ./.;
  dependencies = [
    appliance-protocol
    click
    cryptography
    jinja2
    msgspec
    pynacl
    starlette
    uvicorn
  ];
}
