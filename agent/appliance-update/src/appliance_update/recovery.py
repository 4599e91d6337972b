"""The recovery on the ESP: a third boot entry with everything in its initrd, replaced as seldom and late as can be.

A release may carry one (role `recovery`). It is fetched when that release has proved itself here, and put on the ESP
when a second release has: a recovery must never be newer than what is known to be good. Where there is none at all, one
good release is enough. Nothing here may hold up or fail an update.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from appliance_update import faults, secure_boot
from appliance_update.device import Device
from appliance_update.files import Unreadable, decode, flush_directory, read_limited, write_json
from appliance_update.host import Host
from appliance_update.install import drop_cache
from appliance_update.layout import Layout, compiled
from appliance_update.release import Artifact, Release
from appliance_update.secure_boot import SignatureError
from appliance_update.transfer import Transfer, TransferError, hash_file
from appliance_update.uki import UkiError, argument, command_line, os_release

LIMIT = 1024 * 1024
GOOD = 2
"""Releases that must have proved themselves, the one that brought the recovery included."""


class RecoveryError(RuntimeError):
    """The recovery was not refreshed; the one on the ESP, if any, is as it was. The message says why."""


@dataclass(frozen=True)
class Pending:
    """What waits to become the recovery, and which versions were good since it was offered (oldest first)."""

    release: Release
    good: tuple[str, ...] = ()
    format: int = 1

    @property
    def artifact(self) -> Artifact:
        """The recovery itself."""
        assert self.release.recovery is not None
        return self.release.recovery


def load(state: Path) -> Pending | None:
    """What waits; None when nothing does, or when the file cannot be read (the next release brings one again)."""
    try:
        pending = decode(read_limited(state / "recovery.json", LIMIT), Pending, "recovery.json")
    except (OSError, Unreadable):
        return None
    return pending if pending.release.recovery else None


def committed(state: Path, release: Release) -> None:
    """A release has proved itself: count it, and remember the recovery that it carries if none waits. Never raises."""
    with contextlib.suppress(OSError):
        pending = load(state)
        if pending is None and release.recovery is not None:
            pending = Pending(release)
        if pending is not None and release.version not in pending.good:
            write_json(state / "recovery.json", dataclasses.replace(pending, good=(*pending.good, release.version)))


def on_esp(esp: Path, layout: Layout) -> dict[str, list[Path]]:
    """The recoveries on the ESP by version. Raises `OSError`."""
    found: dict[str, list[Path]] = {}
    directory = esp / layout.esp.uki_directory.lstrip("/")
    for path in sorted(directory.iterdir()) if layout.esp.recovery_name and directory.is_dir() else ():
        for pattern in (*layout.esp.recovery_counted, layout.esp.recovery_name):
            match = compiled(pattern).fullmatch(path.name)
            if match:
                found.setdefault(match["version"], []).append(path)
                break
    return found


def refresh(host: Host, state: Path, device: Device, layout: Layout, transfer: Transfer) -> str:
    """Fetch what waits, and install it when its time has come; a sentence when it was installed, else empty.

    Raises `RecoveryError`, `OSError`. Everything is done again from the beginning after a power cut.
    """
    pending = load(state)
    if pending is None:
        return ""
    version = _version(pending.artifact, layout)
    present = on_esp(device.esp, layout)
    if version in present:
        _clear_away(device, layout, present, version)
        _forget(state)
        return ""
    staged = _fetched(state, pending, version, transfer)
    if present and len(pending.good) < GOOD:
        return ""
    try:
        secure_boot.check(host, staged)
    except SignatureError as error:
        raise RecoveryError(f"The recovery {version} is not installed: {error}") from error
    _install(staged, version, device.esp, layout, pending.artifact)
    _clear_away(device, layout, present, version)
    _forget(state)
    return f"The recovery is {version} now"


def _clear_away(device: Device, layout: Layout, present: dict[str, list[Path]], kept: str) -> None:
    for path in (path for version, paths in present.items() if version != kept for path in paths):
        faults.point(f"unlink:{path.name}")
        path.unlink(missing_ok=True)
    flush_directory(device.esp / layout.esp.uki_directory.lstrip("/"))


def _forget(state: Path) -> None:
    shutil.rmtree(state / "recovery", ignore_errors=True)
    (state / "recovery.json").unlink(missing_ok=True)


def _version(artifact: Artifact, layout: Layout) -> str:
    match = compiled(layout.release.recovery).fullmatch(artifact.target.rpartition("/")[2])
    if match is None:
        raise RecoveryError(f"{artifact.target} is not named like a recovery")
    return match["version"]


def _fetched(state: Path, pending: Pending, version: str, transfer: Transfer) -> Path:
    """The verified file, fetched like any artifact of a release, in a corner of its own."""
    own = dataclasses.replace(transfer, downloads=state / "recovery/downloads", staging=state / "recovery/staging")
    alone = dataclasses.replace(pending.release, version=version, artifacts=(pending.artifact,))
    try:
        own.preflight(alone)
        own.fetch(alone, lambda _done, _total: None)
        own.verify(alone, lambda _done, _total: None)
    except TransferError as error:
        raise RecoveryError(f"The recovery {version} could not be fetched: {error}") from error
    return own.staged(alone, pending.artifact)


def _install(staged: Path, version: str, esp: Path, layout: Layout, artifact: Artifact) -> None:
    _check(staged, layout, version)
    directory = esp / layout.esp.uki_directory.lstrip("/")
    free = shutil.disk_usage(esp).free
    if free < artifact.content_length + layout.esp.uki_reserve_mib * 1024 * 1024:
        raise RecoveryError(f"The ESP has {free} bytes free, too few for the recovery {version} beside the next update")
    temporary = directory / f".{version}.recovery"  # no name that a loader reads
    faults.point("recovery:write")
    try:
        with staged.open("rb") as source, temporary.open("wb") as target:
            shutil.copyfileobj(source, target, 1024 * 1024)
            target.flush()
            os.fsync(target.fileno())
        drop_cache(temporary)
        if hash_file(temporary, lambda _: None) != (artifact.content_sha256, artifact.content_length):
            raise RecoveryError(f"The recovery {version} reads back differently from what was written to the ESP")
        faults.point("recovery:rename")
        temporary.replace(directory / layout.esp.recovery_first.replace("@v", version))
    finally:
        temporary.unlink(missing_ok=True)
    flush_directory(directory)


def _check(staged: Path, layout: Layout, version: str) -> None:
    """It must sort behind the slots, and boot none of them."""
    try:
        fields = os_release(staged)
        line = command_line(staged)
    except UkiError as error:
        raise RecoveryError(str(error)) from error
    wanted = layout.esp.recovery_name.partition("_")[0]
    if fields.get("IMAGE_ID") != wanted:
        raise RecoveryError(
            f"The recovery {version} does not call itself {wanted}, so it would be booted before the slots"
        )
    if any(argument(line, kind.root_hash_argument) for kind in layout.flavour.values()):
        raise RecoveryError(f"The recovery {version} names a slot's root hash; a recovery needs no slot")
