"""`serve` and `migrate`."""

from __future__ import annotations

import click

from central_command import migrate
from central_command.cli.common import UNUSABLE, Context, command_options, fail, run, tell
from central_command.database import Database


@click.command()
@click.option("--host", help="Address to listen on (127.0.0.1).")
@click.option("--port", type=int, help="Port to listen on (8443); 0 takes a free one and prints it.")
@click.option("--tls-cert", help="Certificate chain in PEM form.")
@click.option("--tls-key", help="Its private key.")
@command_options
def serve(
    context: Context, host: str | None, port: int | None, tls_cert: str | None, tls_key: str | None
) -> None:
    """Run the server until it is told to stop. Brings the database to the right schema first."""
    # Here, not above: the web framework takes most of a second to import, which no other command needs.
    from central_command import serve as server

    server.logging_to_stderr()
    settings = context.settings(host=host, port=port, tls_cert=tls_cert, tls_key=tls_key)
    try:
        run(server.run(settings))
    except KeyboardInterrupt:
        return
    except SystemExit as error:
        if error.code:
            fail(f"{settings.host}:{settings.port} cannot be used; is another server running there?", UNUSABLE)
        raise


@click.command(name="migrate")
@command_options
def migrate_command(context: Context) -> None:
    """Bring the database to the schema this version needs, and say from where to where."""

    async def work() -> tuple[str, str]:
        settings = context.settings()
        settings.data_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        database = Database(settings.database)
        try:
            return await migrate.upgrade(database)
        finally:
            await database.close()

    before, after = run(work())
    what = f"{before or 'empty'} -> {after}" if before != after else f"{after}, nothing to do"
    tell(context, {"before": before, "after": after}, f"database schema: {what}")
