"""`appliance-update tuf-client`: the public TUF conformance suite's client protocol over our own client.

Source: https://github.com/theupdateframework/tuf-conformance/blob/main/CLIENT-CLI.md
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from appliance_update import web
from appliance_update.clock import trusted_time
from appliance_update.host import Host
from appliance_update.tuf_client import CheckError, Client

DIRECTORY = click.Path(path_type=Path, file_okay=False)


@dataclass(frozen=True)
class Options:
    """What stands before the command."""

    metadata_dir: Path
    metadata_url: str
    target_names: tuple[str, ...]
    target_base_url: str
    target_dir: Path | None

    def client(self) -> Client:
        """The client of a real update, whose first root lies in the metadata directory already."""
        if not self.metadata_url:
            raise click.UsageError("--metadata-url is needed")
        return Client(self.metadata_url, self.metadata_dir, web.session("appliance-update/tuf-client"))


class OneExitCode(click.Group):
    """A group whose every failure, misuse too, ends with exit code 1: the protocol knows no other."""

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        """Parse what stands before the command."""
        with _only_one():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _only_one():
            return super().invoke(ctx)


@contextmanager
def _only_one() -> Iterator[None]:
    try:
        yield
    except click.ClickException as error:
        error.show()
        sys.exit(1)
    except (CheckError, OSError) as error:
        click.echo(str(error), err=True)
        sys.exit(1)


def trusted_now() -> float:
    """The clock rule of a real update; what metadata in the cache was signed at is added by the client."""
    return trusted_time(time.time(), Host().build_time())


@click.group(name="tuf-client", cls=OneExitCode, no_args_is_help=False)
@click.option("--metadata-dir", type=DIRECTORY, required=True, help="Where verified metadata is kept.")
@click.option("--metadata-url", default="", help="The URL above the metadata files.")
@click.option("--target-name", "target_names", multiple=True, help="A target's path; may be repeated.")
@click.option("--target-base-url", default="", help="The URL above the target files.")
@click.option("--target-dir", type=DIRECTORY, help="Where targets are put, named by their quoted path.")
@click.pass_context
def tuf_client(
    context: click.Context, metadata_dir: Path, metadata_url: str, target_names: tuple[str, ...], target_base_url: str,
    target_dir: Path | None,
) -> None:  # fmt: skip
    """Speak the TUF conformance suite's client protocol, by the code and the clock of a real update.

    Exit codes: 0 done, 1 anything else.
    """
    context.obj = Options(metadata_dir, metadata_url, target_names, target_base_url, target_dir)


@tuf_client.command()
@click.argument("trusted_root", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.pass_obj
def init(options: Options, trusted_root: Path) -> None:
    """Begin with the root metadata in TRUSTED_ROOT. Nothing is fetched."""
    options.metadata_dir.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(trusted_root, options.metadata_dir / "root.json")


@tuf_client.command()
@click.pass_obj
def refresh(options: Options) -> None:
    """Fetch and verify the metadata."""
    options.client().refresh(trusted_now())


@tuf_client.command()
@click.pass_obj
def download(options: Options) -> None:
    """Refresh, then fetch and verify the named targets, in order; the first failure ends it."""
    if options.target_dir is None or not options.target_names or not options.target_base_url:
        raise click.UsageError("download needs --target-name, --target-base-url and --target-dir")
    options.client().download(list(options.target_names), options.target_base_url, options.target_dir, trusted_now())
