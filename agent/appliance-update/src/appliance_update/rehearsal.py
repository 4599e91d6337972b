"""The self-update rehearsal: can this system still replace itself?

A canary release that lies in the image is fetched over HTTP from loopback, verified, chosen, staged and written by
systemd-sysupdate with the code of a real update, only that the target is a scratch directory; then units of the
configuration rehearse what else an update needs (the agent's order handler). A system that fails this can receive no
fix, so it must never become good, and once it is good it is asked again every day.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from appliance_update import generation_rehearsal
from appliance_update import layout as layouts
from appliance_update import rehearsal_report as reports
from appliance_update.canary_server import CanaryServer, served
from appliance_update.config import Config, Generations
from appliance_update.device import inspect
from appliance_update.gate import systemd
from appliance_update.host import Host
from appliance_update.install import Writer
from appliance_update.layout import Layout, Role
from appliance_update.machine import assemble
from appliance_update.rehearsal_report import Report, Stage
from appliance_update.release import Release
from appliance_update.transfer import NoSpace, TransferError, hash_file
from appliance_update.updater import Updater

CANARY_CLASS = "canary"
"""The device class the canary is for, whatever class this device has."""

UNIT_TIMEOUT = 180.0
SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENODEV)
"""Errors of a disk that is full or failing: no other system would do better."""

Watcher = Callable[[str, int, int], None]
"""Told of progress: what is done now, how many stages are over, how many there are."""


class RehearsalError(RuntimeError):
    """A stage did not do what it must; the message says what. `fault` is one of `rehearsal_report`'s words."""

    def __init__(self, message: str, fault: str = reports.UPDATER) -> None:
        super().__init__(message)
        self.fault = fault


@dataclass
class Rehearsal:
    """One walk through all stages. `writer` stands in for systemd-sysupdate in tests."""

    config: Config
    host: Host
    writer: Writer | None = None
    watcher: Watcher = lambda _name, _done, _total: None
    stages: list[Stage] = field(default_factory=list)

    def run(self) -> Report:
        """Walk; the report is returned, not yet kept. Never raises: whatever breaks is a failure with its reason."""
        started, reason, fault = time.monotonic(), "", ""
        try:
            self._clean()
            self._updaters_part()
            for unit in self.config.gate.rehearsal_units:
                with self._stage(unit):
                    rehearse_unit(unit)
        except RehearsalError as error:
            reason, fault = str(error), error.fault
        except Exception as error:  # a rehearsal that breaks has failed, whatever with
            reason, fault = f"{type(error).__name__}: {error}", reports.UPDATER
        with contextlib.suppress(OSError):
            self._clean()
        return Report(
            passed=not reason,
            version=self.host.image_version,
            boot_id=self.host.boot_id(),
            at=time.time(),
            seconds=round(time.monotonic() - started, 1),
            stages=tuple(self.stages),
            reason=reason[:2000],
            fault=fault,
        )

    @property
    def scratch(self) -> Path:
        """Where everything of a rehearsal lies while it lasts."""
        return Path(self.config.paths.state) / "rehearsal"

    def _clean(self) -> None:
        if self.scratch.exists():
            shutil.rmtree(self.scratch)

    # -- the updater's own part ---------------------------------------------------------------------------------------

    def _updaters_part(self) -> None:
        canary = Path(self.config.paths.canary)
        with self._stage("configuration"):
            layout = layouts.load(Path(self.config.paths.layout))
            if not (canary / "root.json").is_file():
                raise RehearsalError(f"The canary release is missing at {canary}: the image must carry one")
            self._check_trust()
        device = None
        if self.config.gate.slots:
            with self._stage("slots"):
                device = inspect(self.host, layout)
        if self.config.generations.enable:
            with self._stage("generations"):
                generation_rehearsal.rehearse(self.config, self.host)
        with self._stage("serve"):
            self.scratch.mkdir(parents=True)
        with served(canary) as server:
            updater = self._scratch_updater(server.url)
            updater.store.device = device
            with updater.store.locked():
                with self._stage("metadata"):
                    release = self._chosen(updater)
                self._transfer(updater, release, server)
            if self.config.gate.slots:
                self._write(updater, release, layout)

    def _check_trust(self) -> None:
        """The root of the real repository must be there and readable; the canary has a root of its own."""
        from tuf.api.metadata import Metadata, Root  # type: ignore[attr-defined]

        if self.config.repository:
            Metadata[Root].from_file(self.config.paths.trusted_root)

    def _scratch_updater(self, url: str) -> Updater:
        """This machine's updater as the timer runs it, only with another repository and nothing of its own to lose."""
        canary = Path(self.config.paths.canary)
        paths = replace(
            self.config.paths,
            state=str(self.scratch / "state"),
            runtime=str(self.scratch / "run"),
            trusted_root=str(canary / "root.json"),
        )
        uncapped = replace(self.config.transfer, bytes_per_second=0.0)
        config = replace(self.config, repository=url, device_class=CANARY_CLASS, paths=paths, transfer=uncapped)
        config = replace(config, generations=Generations())  # the canary is an image, on every host
        updater = assemble(config, host=self.host, writer=self.writer, reboot=_never, pause=lambda _seconds: None)
        client = updater.repository.client  # loopback is reached without the site's proxy
        client.trust_env = False
        client.proxies.clear()
        # A host that keeps generations may have no version of the image's form; any canary is newer than it.
        updater.store.running_version = self.host.image_version or "0000.1.0"
        return updater

    def _chosen(self, updater: Updater) -> Release:
        release = updater.check()
        if release is None:
            raise RehearsalError(f"A release that is newer and fits was not chosen: {updater.store.record.detail}")
        return release

    def _transfer(self, updater: Updater, release: Release, server: CanaryServer) -> None:
        transfer = updater.transfer
        with self._stage("refuse what was tampered with"):
            transfer.preflight(release)
            server.tampering = True
            try:
                transfer.fetch(release, _silent)
                transfer.verify(release, _silent)
            except TransferError:
                transfer.clear()
            else:
                raise RehearsalError("A file that is not what was signed was taken for good")
            finally:
                server.tampering = False
        with self._stage("fetch"):
            transfer.preflight(release)
            transfer.fetch(release, _silent)
        with self._stage("verify"):
            transfer.verify(release, _silent)

    def _write(self, updater: Updater, release: Release, layout: Layout) -> None:
        """Have systemd-sysupdate put the files where a slot and an ESP would be, and read them back."""
        target = self.scratch / "target"
        with self._stage("pairing"):
            updater.installer.check_pairing(release)
        with self._stage("write"):
            definitions = self.scratch / "definitions"
            layouts.write(scratch_transfers(layout, updater.transfer.staging, target), definitions)
            for directory in (target, target / layout.esp.uki_directory.lstrip("/")):
                directory.mkdir(parents=True, exist_ok=True)
            updater.installer.writer.apply(definitions, release.version)
        with self._stage("read back"):
            for artifact in release.artifacts:
                path = written(target, layout, release, Role(artifact.role))
                if hash_file(path, lambda _count: None) != (artifact.content_sha256, artifact.content_length):
                    raise RehearsalError(f"{path.name} reads back differently from what was written")

    # -- help ---------------------------------------------------------------------------------------------------------

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        total = 10 + len(self.config.gate.rehearsal_units)
        self.watcher(name, len(self.stages), total)
        started = time.monotonic()
        try:
            yield
        except RehearsalError as error:
            raise RehearsalError(f"{name}: {error}", error.fault) from error
        except NoSpace as error:
            raise RehearsalError(f"{name}: {error}", reports.SURROUNDINGS) from error
        except Exception as error:
            said = str(error) if isinstance(error, EXPECTED) else f"{type(error).__name__}: {error}"
            raise RehearsalError(f"{name}: {said}", _fault_of(error)) from error
        self.stages.append(Stage(name, round(time.monotonic() - started, 2)))


EXPECTED = (OSError, RuntimeError, ValueError)
"""Errors of our own code, whose texts are whole sentences; of others the type is half of the message."""


def rehearse_unit(unit: str) -> None:
    """Start one of the configured units and wait for its end. Raises `RehearsalError` with its last words."""
    try:
        refused = systemd.start(unit, wait=True, timeout=UNIT_TIMEOUT)
        if not refused:
            return
        facts = systemd.show([unit], "Result", "InvocationID").get(unit, {})
    except systemd.NoAnswer as error:
        raise RehearsalError(str(error), reports.UNIT) from error
    words = systemd.last_words(facts.get("InvocationID", ""))
    raise RehearsalError(words or refused, reports.UNIT)


def scratch_transfers(layout: Layout, staging: Path, target: Path) -> dict[str, str]:
    """The transfers of an update with directories in place of the slot's partitions and of the ESP."""
    texts = {}
    for number, role in ((10, Role.VERITY), (20, Role.DATA)):
        source = layouts.TRANSFER.format(staging=staging, source=layout.staged.of(role))
        place = f"Type=regular-file\nPath={target}\nMatchPattern={layout.staged.of(role)}\nMode=0644\nInstancesMax=2\n"
        texts[f"{number}-{role.value}.transfer"] = source + place
    boot = layouts.landing_transfers(layout, staging=staging)
    for name, text in boot.items():
        directory = f"Path={layout.esp.uki_directory}\nPathRelativeTo=boot\n"
        texts[name] = text.replace(directory, f"Path={target}{layout.esp.uki_directory}\n")
    return texts


def written(target: Path, layout: Layout, release: Release, role: Role) -> Path:
    """What systemd-sysupdate made of one artifact. Raises `RehearsalError` when it made nothing."""
    if role is Role.UKI:
        directory = target / layout.esp.uki_directory.lstrip("/")
        path = directory / _filled(layout.esp.uki_name + layouts.LANDING, {"@v": release.version})
    else:
        path = target / _filled(layout.staged.of(role), {"@v": release.version, "@u": release.artifact(role).uuid})
    if not path.is_file():
        there = ", ".join(sorted(item.name for item in path.parent.iterdir())) or "nothing"
        raise RehearsalError(f"{path.name} was not written; there is {there}")
    return path


def _filled(pattern: str, values: dict[str, str]) -> str:
    for wildcard, value in values.items():
        pattern = pattern.replace(wildcard, value)
    return pattern


def _fault_of(error: BaseException) -> str:
    """A full or failing disk is the fault of no system; it may lie deep in the chain of causes."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in SPACE:
            return reports.SURROUNDINGS
        cause = cause.__cause__
    return reports.UPDATER


def _never(_inhibitable: bool) -> None:
    raise OSError("a rehearsal reboots nothing")


def _silent(_done: int, _total: int) -> None:
    return
