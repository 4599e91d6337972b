"""`python -m t640`: run the product on a virtual T640, build its image, clean up."""

from __future__ import annotations

import sys

import click
from rich.console import Console

from t640 import image, medium, recovery, releases, variants
from t640.errors import Missing, RigError
from t640.run import base_disk
from t640.run import run as run_everything
from t640.session import clean_up_after_the_dead
from t640.steps import step

_EPILOG = """
\b
Exit codes:
  0    done; `run` was stopped by Ctrl-C after it was up
  1    something went wrong; the message says what, and what to do
  3    a program or package is missing
  130  interrupted before it was up
"""


@click.group(epilog=_EPILOG)
def main() -> None:
    """The virtual T640 and its clinic."""


@main.command()
@click.option("--image", "image_", default="standin", show_default=True, help="standin, nixos, or a disk image's path.")
@click.option("--keep", is_flag=True, help="Keep logs and disks afterwards.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON on standard output.")
@click.option("--once", is_flag=True, help="Stop as soon as everything is up.")
def run(image_: str, keep: bool, as_json: bool, once: bool) -> None:
    """Build, boot, enrol, check, scan; stay until Ctrl-C."""
    run_everything(image_, keep=keep, as_json=as_json, once=once)


@main.command()
@click.argument("version")
@click.option("--variant", type=click.Choice(tuple(variants.VARIANTS)), default="good", show_default=True)
@click.option("--release", default="trixie", show_default=True, help="Debian release.")
@click.option("--kernel", type=click.Choice(sorted(image.KERNELS)), default="cloud", show_default=True)
def build(version: str, variant: str, release: str, kernel: str) -> None:
    """Build one version of the stand-in image and print its folder."""
    with step(f"Stand-in image {version} ({variant})") as detail:
        artifacts = image.build(releases.recipe(version, variant, release, kernel), detail)
    click.echo(artifacts.directory)


@main.command()
@click.option("--image", "image_", default="standin", show_default=True)
def disk(image_: str) -> None:
    """Build a disk and print its path."""
    click.echo(base_disk(image_))


@main.command()
@click.argument("version")
@click.option("--without-recovery", is_flag=True, help="An appliance without a recovery of its own.")
def installer(version: str, without_recovery: bool) -> None:
    """Build the installation medium of a version and print its path."""
    with step(f"Installation medium {version}") as detail:
        rescue = None if without_recovery else recovery.build(detail=detail)
        made = medium.build(image.build(releases.recipe(version), detail), rescue, detail)
    click.echo(made)


@main.command()
def clean() -> None:
    """Remove namespaces and files of runs that were killed outright."""
    for name in clean_up_after_the_dead():
        click.echo(f"removed {name}")


def _say(text: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, style="red", markup=False)


if __name__ == "__main__":
    try:
        main.main(standalone_mode=False)
    except Missing as error:
        _say(str(error))
        sys.exit(3)
    except RigError as error:
        _say(str(error))
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(130)
