"""`appliance-flash`: list, write, map, seed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from appliance_flash import blockmap, devices, images, screen, seeding, site, writing
from appliance_flash.devices import Device
from appliance_flash.errors import Declined, FlashError, Refused, Unusable

_EPILOG = """
\b
Exit codes:
  0    done
  1    the device was written to and is not usable
  2    wrong usage
  3    declined; nothing was written
  4    refused: this device must not or cannot be written to; nothing was written
  5    the image, its map or the site file cannot be used; nothing was written
  6    a program is missing
  130  interrupted; a device that was being written to is not usable
"""
_INTERRUPTED = 130
_PATH = click.Path(path_type=Path)
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_json = click.option("--json", "as_json", is_flag=True, help="The result as JSON on standard output.")


@click.group(epilog=_EPILOG)
@click.version_option(package_name="appliance-flash")
def cli() -> None:
    """Write the appliance's installation media and disk images, and put a site's settings on them."""


@cli.command("list", epilog=_EPILOG)
@_json
def list_(as_json: bool) -> None:
    """The disks of this machine: model, size, removable or not, in use or not."""
    found = devices.every()
    if as_json:
        _print([_facts(device) for device in found])
    else:
        Console(highlight=False).print(screen.table(found))


@cli.command(epilog=_EPILOG)
@click.argument("image", type=_FILE)
@click.argument("device", type=_PATH)
@click.option("--map", "map_", type=_FILE, help="The block map; otherwise the one beside the image, or one made now.")
@click.option("--yes", is_flag=True, help="Do not ask before erasing.")
@click.option("--force", is_flag=True, help="Also a disk that is built in or in use; never the one with /.")
@_json
def write(image: Path, device: Path, map_: Path | None, yes: bool, force: bool, as_json: bool) -> None:
    """Write IMAGE (an ISO or a disk image, raw or zstd) to DEVICE and read it back."""
    target = devices.find(device)
    devices.check(target, force=force)
    source = images.find(image)
    images.check(source)
    with screen.bar(as_json) as tell:
        found = images.map_of(source, map_, lambda done, total: tell("mapping", done, total))
    writing.preflight(source, found, target, map_)
    if not yes:
        _ask(target)
    # While the question was open the disk may have been taken out, or a desktop may have mounted it.
    target = devices.confirm(target)
    devices.check(target, force=force)
    devices.release(target)
    with screen.bar(as_json) as tell:
        writing.write(source, found, target, tell)
    done = {"device": str(target.path), "image": str(image), "bytes": found.image_size, "written": found.mapped_bytes}
    _report(done, as_json, f"Written and read back: {target.path} carries {image.name}.")


@cli.command("map", epilog=_EPILOG)
@click.argument("image", type=_FILE)
@click.option("--output", type=_PATH, help="Where to (default: the image's name with .bmap).")
@_json
def map_(image: Path, output: Path | None, as_json: bool) -> None:
    """Make the block map of IMAGE: which blocks matter, with their checksums."""
    source = images.find(image)
    target = output or source.map_path
    with screen.bar(as_json) as tell, images.raw(source) as file:
        size = file.seek(0, 2)
        made = blockmap.make(file, size, lambda done, total: tell("mapping", done, total))
    try:
        target.write_text(made.to_xml())
    except OSError as error:
        raise Unusable(f"{target}: {error.strerror or error}") from error
    facts = {"map": str(target), "bytes": size, "mapped": made.mapped_bytes, "ranges": len(made.spans)}
    share = made.mapped_bytes * 100 // size
    _report(facts, as_json, f"{target}: {screen.size(made.mapped_bytes)} of {screen.size(size)} ({share} %) matter.")


@cli.command(epilog=_EPILOG)
@click.argument("target", type=_PATH)
@click.option("--site", "site_", type=_FILE, help="The site's configuration (TOML; docs/flashing.md).")
@click.option("--enrolment-code", default="", help="The one-time code Central Command made for this appliance.")
@click.option("--unattended", is_flag=True, help="Let the medium install without asking, on machines of its list.")
@click.option("--replace-appliance", is_flag=True, help="With --unattended: also over an appliance.")
@click.option("--clear", is_flag=True, help="Remove what was put there before.")
@click.option("--force", is_flag=True, help="Also a disk that is built in or in use; never the one with /.")
@_json
def seed(
    target: Path, site_: Path | None, enrolment_code: str, unattended: bool, replace_appliance: bool, clear: bool,
    force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Put a site's configuration and enrolment code on TARGET, a written device or an image file."""
    if clear == bool(site_ or enrolment_code or unattended) or (replace_appliance and not unattended):
        raise click.UsageError("say what to put there (--site, --enrolment-code, --unattended), or --clear.")
    if enrolment_code and not site_:
        raise click.UsageError("--enrolment-code needs --site: the site file says which server the code is for.")
    files = site.files(site.load(site_), enrolment_code) if site_ else {}
    if unattended:
        files[site.UNATTENDED] = "replace-appliance\n" if replace_appliance else "install\n"
    seeding.preflight()
    if target.is_file():
        seeding.seed(target, files)
    else:
        found = devices.find(target)
        devices.check(found, force=force)
        devices.release(found)
        with devices.held(found):
            devices.confirm(found)
            seeding.seed(found.path, files)
    said = f"On {target}: {', '.join(sorted(files))}." if files else f"Nothing of a site is on {target} any more."
    _report({"target": str(target), "files": sorted(files)}, as_json, said)


def _facts(device: Device) -> dict[str, Any]:
    return {
        "device": str(device.path), "model": device.model, "size": device.size, "transport": device.transport,
        "removable": device.removable, "read_only": device.read_only, "mounted": list(device.mounted),
        "holds_root": device.holds_root,
    }  # fmt: skip


def _ask(device: Device) -> None:
    what = f"{device.path} ({device.model or 'unknown model'}, {screen.size(device.size)})"
    screen.console.print(f"Everything on {what} will be lost.", markup=False)
    if device.mounted:
        screen.console.print(f"It is in use: {', '.join(device.mounted)}.", style="red", markup=False)
    try:
        answer = click.prompt(f"To erase it, type its name ({device.name})", default="", show_default=False, err=True)
    except click.Abort as error:
        raise Declined("nothing was written.") from error
    if answer.strip() != device.name:
        raise Declined(f"the answer was not {device.name!r}; nothing was written.")


def _print(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))


def _report(facts: dict[str, Any], as_json: bool, sentence: str) -> None:
    if as_json:
        _print(facts)
    else:
        screen.console.print(sentence, markup=False)


def main() -> int:
    """The program's entry: exit status as in `--help`."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)
    try:
        return int(cli.main(standalone_mode=False) or 0)
    except FlashError as error:
        return _failed(str(error), error.status)
    except PermissionError as error:
        return _failed(f"{error.filename}: only root may do that.", Refused.status)
    except (OSError, subprocess.SubprocessError) as error:
        # What happens after the first byte was written is a `FlashError`.
        return _failed(f"{error}. Nothing was written.", Refused.status)
    except click.ClickException as error:
        if "--json" not in sys.argv:
            error.show()
            return error.exit_code
        return _failed(error.format_message(), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _failed("interrupted.", _INTERRUPTED)


def _interrupted(number: int, frame: object) -> None:
    """Being stopped is as Ctrl-C: the device is cleared and the scratch folder goes."""
    raise KeyboardInterrupt


def _failed(message: str, status: int) -> int:
    screen.console.print(f"Not done: {message}", style="red", markup=False)
    if "--json" in sys.argv:
        _print({"error": message, "status": status})
    return status


if __name__ == "__main__":
    sys.exit(main())
