{
  applianceDistribution,
  aiosqlite,
  alembic,
  appliance-protocol,
  asyncpg,
  click,
  fastapi,
  jinja2,
  msgspec,
  pynacl,
  python-multipart,
  rich,
  sqlalchemy,
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
    fastapi
    jinja2
    msgspec
    pynacl
    python-multipart
    rich
    sqlalchemy
    uvicorn
  ]
  ++ sqlalchemy.optional-dependencies.asyncio;
}
