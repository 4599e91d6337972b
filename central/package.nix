{
  applianceDistribution,
  aiosqlite,
  alembic,
  appliance-protocol,
  asyncpg,
  click,
  cryptography,
  fastapi,
  jinja2,
  msgspec,
  pynacl,
  python-multipart,
  rich,
  securesystemslib,
  sqlalchemy,
  tuf,
  uvicorn,
}:

applianceDistribution {
  root = ./.;
  dependencies = [
    aiosqlite
    alembic
    appliance-protocol
    asyncpg
    click
    cryptography
    fastapi
    jinja2
    msgspec
    pynacl
    python-multipart
    rich
    securesystemslib
    sqlalchemy
    tuf
    uvicorn
  ]
  ++ sqlalchemy.optional-dependencies.asyncio;
}
