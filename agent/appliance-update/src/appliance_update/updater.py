"""The update itself: check, fetch, verify, stage, arm, reboot; each state persisted before its step begins.

After a power cut at any point `run` begins at the top again: every step asserts its own conditions and does only what
is still to be done, so that repeating is the same as resuming.
"""

from __future__ import annotations

import contextlib
import enum
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from appliance_update import faults, orders, quarantine, recovery
from appliance_update.choice import Situation, choose
from appliance_update.clock import boot_clock, trusted_time
from appliance_update.config import Config
from appliance_update.device import Device, DeviceError, inspect, refusals
from appliance_update.entries import of_version
from appliance_update.failed_boot import LastGate
from appliance_update.files import Unreadable, decode, read_limited
from appliance_update.gate import baseline
from appliance_update.history import Event
from appliance_update.host import Host
from appliance_update.install import Installer, InstallError
from appliance_update.layout import Layout
from appliance_update.reboot import systemctl_bless
from appliance_update.record import State
from appliance_update.release import Release
from appliance_update.repository import Catalogue, CheckError, Repository
from appliance_update.settle import NOTHING_WAITS, settle
from appliance_update.snapshots import SnapshotError, Snapshots
from appliance_update.store import Store
from appliance_update.transfer import Transfer, TransferError
from appliance_update.window import DAY

INHIBITED_FOR = 24 * 3600.0
"""Seconds for which somebody may hold up the reboot into an armed version."""

RESTARTS = 5
"""Boots in which the loader may pass over an armed version before it is put away, so that the next one can come."""

BLESSED_WITHIN = 1800.0
"""Seconds after boot by which a system that passed its gate has lost its counter."""

WAITING_FOR_BOOT = (State.ARMED, State.TRIAL)
"""States in which the other slot holds a version that has not proved itself yet."""


class Outcome(enum.StrEnum):
    """How a run ended when nothing went wrong."""

    UP_TO_DATE = "up to date"
    WAITING = "waiting"
    READY = "ready"
    ARMED = "armed"
    REBOOTING = "rebooting"


class Failure(enum.IntEnum):
    """Exit codes of the command line for what went wrong."""

    CHECK = 3
    TRANSFER = 4
    INSTALL = 5
    DEVICE = 6
    BUSY = 7


class UpdateError(RuntimeError):
    """The update could not go on; the running system is untouched. `failure` is the exit code."""

    def __init__(self, message: str, failure: Failure) -> None:
        super().__init__(message)
        self.failure = failure


@dataclass
class Updater:
    """One device's updater. Every public method but `run` expects the store to be locked."""

    host: Host
    layout: Layout
    config: Config
    store: Store
    repository: Repository
    transfer: Transfer
    installer: Installer
    snapshots: Snapshots
    reboot: Callable[[bool], None]
    """Reboots; its argument says whether others may inhibit it. Raises `OSError` when it does not happen."""

    asked: bool = False
    """Whether somebody waits for the answer of this run."""

    uptime: Callable[[], float] = field(default=boot_clock, kw_only=True)
    """Seconds since boot."""

    bless: Callable[[], None] = field(default=systemctl_bless, kw_only=True)
    """Has systemd take the counter off the booted entry. Never raises."""

    # -- the whole way ------------------------------------------------------------------------------------------------

    def run(self) -> tuple[Outcome, str]:
        """What the timer does. Returns the outcome with a sentence. Raises `UpdateError`, `Busy`, `OSError`."""
        with self.store.locked():
            requested = orders.take(self.store)
            device = settle(self.store, self.host, self.layout)
            if device is None:
                raise UpdateError(self.store.record.detail, Failure.DEVICE)
            self.asked = orders.turn(self.store, requested)
            if self.store.record.state is State.TRIAL:
                return self._on_trial()
            if self.store.record.state is State.ARMED and not self._passed_over():
                return self.restart()
            if not self.config.repository:
                return self._up_to_date("No repository is configured")
            candidate = self.fetch()
            if candidate is None:
                self._refresh_recovery(device)
                return Outcome.UP_TO_DATE, self.store.record.detail
            if not self.may_go():
                return self._wait(f"{candidate.version} is ready and waits for the maintenance window")
            self.apply()
            return self.restart()

    def _on_trial(self) -> tuple[Outcome, str]:
        """Wait for the gate. When it has passed and the counter is still there, the blessing has failed: ask again.

        After a day of that a reboot may mend what keeps the ESP from being written.
        """
        if self.uptime() >= BLESSED_WITHIN and self._gate_passed():
            self.bless()
            self.settle()
            if self.store.record.state is State.TRIAL and self.uptime() >= DAY and self.may_go():
                with contextlib.suppress(OSError):
                    self.reboot(True)
        return Outcome.WAITING, self.store.record.detail

    def _gate_passed(self) -> bool:
        try:
            found = decode(read_limited(self.store.runtime / "gate.json", 1 << 20), LastGate, "gate.json")
        except (OSError, Unreadable):
            return False
        return found.passed and found.version == self.store.running_version

    def settle(self) -> bool:
        """Record what became of a trial. False when the device cannot be told; the record says why."""
        return settle(self.store, self.host, self.layout) is not None

    def look(self) -> str:
        """Look at the slots for the status; a sentence when they cannot be told."""
        try:
            self.store.device = inspect(self.host, self.layout)
        except DeviceError as error:
            return str(error)
        return ""

    def _refresh_recovery(self, device: Device) -> None:
        """Whatever goes wrong with the recovery is said, tried again next time, and no update's business."""
        try:
            done = recovery.refresh(self.host, self.store.state, device, self.layout, self.transfer)
        except (recovery.RecoveryError, OSError) as error:
            done = str(error)
        if done:
            self.store.note(Event.RECOVERY, reason=done)

    # -- steps --------------------------------------------------------------------------------------------------------

    def check(self) -> Release | None:
        """Ask the repository; the release to install, or None. Raises `UpdateError`."""
        before = self.store.record
        rest = State.IDLE if before.state is State.CHECKING else before.state
        self.store.save(state=State.CHECKING)
        now = self.store.now()
        try:
            catalogue = self._catalogue()
        except CheckError as error:
            # Days without an uplink are one event, not hundreds; but whoever asks is answered.
            if self.asked or str(error) != before.last_check_error:
                self.store.note(Event.CHECK_FAILED, reason=str(error), again=self.asked)
            self.store.save(state=rest, last_check_at=now, last_check_error=str(error), detail=before.detail)
            raise UpdateError(str(error), Failure.CHECK) from error
        self.store.contact(verified=True)
        candidate, put_away, detail = self._choose(catalogue)
        if put_away and self.asked and not self.store.answered(self.store.record.order_id):
            self.store.note(Event.QUARANTINED, version=put_away, reason=detail)  # whoever ordered it learns why not
        kept, nothing = before.candidate, {}
        if candidate is None and before.state not in WAITING_FOR_BOOT:
            rest, kept = State.QUARANTINED if put_away else State.IDLE, None
            nothing = {"order_open": False, **NOTHING_WAITS}
        self.store.save(
            state=rest,
            candidate=kept,
            detail=detail if candidate is None else before.detail,
            last_check_at=now,
            last_check_error="",
            time_floor=catalogue.signed_at,
            **nothing,
        )
        return candidate

    def _catalogue(self) -> Catalogue:
        flavour = self.store.device.flavour if self.store.device else ""
        return self.repository.refresh(self.layout, self.config.device_class, flavour, self._now())

    def _now(self) -> float:
        return trusted_time(self.store.now(), self.host.build_time())

    def _choose(self, catalogue: Catalogue) -> tuple[Release | None, str, str]:
        """The release to install; else the version that is offered in vain, if any, and a sentence."""
        running, now = self.store.running_version, max(self._now(), catalogue.signed_at)
        quarantine.mend(self.store.quarantine_path, now)
        known = quarantine.load(self.store.quarantine_path).versions
        for entry in self.store.device.entries if self.store.device else ():
            if entry.spent and entry.version not in known and entry.version != running:
                self.store.put_away(entry.version, "its tries are spent", attempt="spent")  # the quarantine was lost
        here = Situation(
            running=running,
            now=now,
            security_epoch=self.store.record.security_epoch,
            device_id=self.host.machine_id,
            put_away=self.store.put_away_versions(),
        )
        chosen = choose(catalogue.releases, catalogue.beyond, here, catalogue.unsuitable)
        return chosen.release, chosen.put_away, chosen.sentence

    def fetch(self) -> Release | None:
        """Check, and bring the candidate verified into the staging directory. Raises `UpdateError`."""
        before = self.store.record
        if before.state in WAITING_FOR_BOOT:
            raise UpdateError(f"First {self._candidate_version()} must prove itself: {before.detail}", Failure.INSTALL)
        try:
            candidate = self.check()
        except UpdateError:
            candidate = self._resumable()
            if candidate is None:
                self._back_to_rest()
                raise
        if candidate is None:
            self._back_to_rest()
            self.transfer.clear()
            return None
        self._refuse_early()
        self._forget_earlier_try(candidate)
        if before.candidate != candidate or before.state.settled:
            self.store.note(Event.DOWNLOAD_STARTED, version=candidate.version, from_version=self.store.running_version)
        try:
            self.store.save(
                state=State.DOWNLOADING, candidate=candidate, from_version=self.store.running_version, detail=""
            )
            self.transfer.tidy(candidate)
            self.transfer.preflight(candidate)
            self.transfer.fetch(candidate, self.store.progress)
            self.store.save(state=State.VERIFYING)
            self.transfer.verify(candidate, self.store.progress)
        except TransferError as error:
            self._failed(candidate, str(error))
            raise UpdateError(str(error), Failure.TRANSFER) from error
        self.store.save(detail=f"{candidate.version} is fetched and verified")
        return candidate

    def apply(self) -> None:
        """Install the fetched candidate into the other slot and arm it. Raises `UpdateError`."""
        candidate = self.store.record.candidate
        if candidate is None:
            raise UpdateError("Nothing is fetched; run `appliance-update fetch` first", Failure.INSTALL)
        self._refuse_early()
        try:
            self.transfer.verify(candidate, lambda _done, _total: None)  # it may have lain here for weeks
            running = self.store.running_version
            self.store.save(state=State.STAGING, from_version=running, attempt=uuid.uuid4().hex)
            self.installer.fill_slot(candidate)
            # What an earlier life of the candidate left must not come back; what runs now must be able to.
            self.snapshots.forget(candidate.version)
            self.snapshots.take(running)
            self.installer.arm(candidate, self.store.progress)
            self.store.device = inspect(self.host, self.layout)
        except (InstallError, TransferError, SnapshotError, DeviceError, OSError) as error:
            with contextlib.suppress(DeviceError, OSError):
                self.installer.disarm(candidate.version)  # nobody would know what a boot of it is about
            self._failed(candidate, str(error))
            raise UpdateError(str(error), Failure.INSTALL) from error
        self.store.note(Event.INSTALLED, version=candidate.version)
        self.store.save(
            state=State.ARMED,
            armed_boot=self.host.boot_id(),
            armed_at=self.store.now(),
            restarts=0,
            detail=f"{candidate.version} is installed; the next boot tries it",
        )
        self.transfer.clear()

    def restart(self) -> tuple[Outcome, str]:
        """Reboot into the armed candidate, if configuration, window and inhibitors allow it."""
        if not self.config.reboot:
            return Outcome.ARMED, self.store.record.detail
        if not self.may_go():
            return self._wait(f"{self._candidate_version()} is installed and waits for the maintenance window")
        boot, kept = self.host.boot_id(), self.store.record
        if not boot or kept.restart_boot != boot:  # a reboot that somebody inhibits is asked for again, and is one
            self.store.save(restarts=kept.restarts + 1, restart_boot=boot)
        with contextlib.suppress(SnapshotError):  # then the one made at arming stands
            self._snapshot_again()
        baseline.record(self.host, self.config)  # what the gate will compare with
        try:
            self._prefer()
        except (OSError, DeviceError) as error:
            return self._wait(f"{self._candidate_version()} is installed, but cannot be made the next to boot: {error}")
        faults.point("reboot")
        armed_for = self.store.now() - self.store.record.armed_at
        try:
            self.reboot(0 <= armed_for < INHIBITED_FOR)
        except OSError as error:
            return self._wait(f"{self._candidate_version()} is installed; the reboot did not happen: {error}")
        return Outcome.REBOOTING, self.store.record.detail

    def _snapshot_again(self) -> None:
        self.snapshots.take(self.store.running_version)

    def _prefer(self) -> None:
        self.installer.prefer(self._candidate_version(), self._ignored())

    def _ignored(self) -> int:
        """In how many boots we rebooted for the armed version and the loader booted another one."""
        kept = self.store.record
        return kept.restarts - 1 if kept.restarts and kept.restart_boot == self.host.boot_id() else kept.restarts

    def _passed_over(self) -> bool:
        """Give an armed version up that the loader never boots: waiting for it would keep every later one away."""
        ignored = self._ignored()
        if ignored < RESTARTS:
            return False
        version = self._candidate_version()
        reason = f"{ignored} reboots did not boot it: the boot loader prefers another entry"
        self.store.put_away(self._disarm(version), reason)
        self.store.note(Event.QUARANTINED, version=version, reason=reason)
        self.store.save(
            state=State.QUARANTINED, candidate=None, detail=f"{version} was given up: {reason}", **NOTHING_WAITS
        )
        self.settle()  # what runs has its own entry back, if it stepped aside
        return True

    def _disarm(self, version: str) -> str:
        """Take an armed version's boot entry away; the name it is put away by. Raises `UpdateError`."""
        try:
            self.installer.disarm(version)
        except (OSError, DeviceError) as error:
            raise UpdateError(f"{version} could not be disarmed: {error}", Failure.DEVICE) from error
        return version

    def may_go(self) -> bool:
        """Whether the device may be rebooted now: the window is open, or was waited for long enough.

        Waiting is counted from run to run, a day at most each time: a clock that jumps must not end it.
        """
        window, now = self.config.window, self._now()
        if window.open_at(now):
            return True
        longest, waited = window.maximum_postponement_days * DAY, self.store.record.waited + self._waited_since(now)
        version = self._candidate_version()
        if waited >= longest:
            days = f"{window.maximum_postponement_days:g} days"
            reason = f"it has waited {days} for the maintenance window and goes ahead as soon as nobody inhibits it"
            self._save_waiting(waited, now, until=0.0)
            self.store.note(Event.OVERDUE, version=version, reason=reason)
            return True
        until = min(window.next_open(now) or now + longest, now + longest - waited)
        self._save_waiting(waited, now, until)
        reason = f"it waits for the maintenance window, {window.maximum_postponement_days:g} days at most"
        self.store.note(Event.POSTPONED, version=version, reason=reason)
        return False

    def _waited_since(self, now: float) -> float:
        """Seconds waited since the last run: by the wall clock (a day at most), or more by the clock of one boot."""
        kept = self.store.record
        wall = min(max(now - kept.waited_at, 0.0), DAY) if kept.waited_at else 0.0
        same = bool(kept.waited_boot) and kept.waited_boot == self.host.boot_id()
        return max(wall, self.uptime() - kept.waited_up if same else 0.0)

    def _save_waiting(self, waited: float, now: float, until: float) -> None:
        boot = {"waited_up": self.uptime(), "waited_boot": self.host.boot_id()}
        self.store.save(waited=waited, waited_at=now, postponed_until=until, **boot)

    def mark_bad(self, version: str, reason: str) -> None:
        """Put a version away by hand; an armed one is disarmed. Raises `UpdateError`."""
        if version == self.host.image_version:
            raise UpdateError(f"{version} is what runs; boot the other slot first", Failure.INSTALL)
        self._disarm(version)
        self.store.put_away(version, reason, attempt="", final=True)
        self.store.note(Event.QUARANTINED, version=version, reason=reason)
        candidate = self.store.record.candidate
        if candidate and candidate.version == version:
            self.store.save(state=State.QUARANTINED, candidate=None, detail=f"{version} was marked bad: {reason}")
            self.transfer.clear()

    # -- help ---------------------------------------------------------------------------------------------------------

    def _refuse_early(self) -> None:
        """Say why nothing may be written before a gigabyte is fetched for nothing. Raises `UpdateError`."""
        device: Device | None = self.store.device
        reasons = refusals(device, self.host, self.layout) if device else [self.store.record.detail]
        if reasons:
            self.store.save(detail="; ".join(reasons))
            raise UpdateError("; ".join(reasons), Failure.DEVICE)

    def _forget_earlier_try(self, candidate: Release) -> None:
        """A version that failed here and is tried again: its spent entry would tell of a failure that is over."""
        device = self.store.device
        if device and any(entry.spent for entry in of_version(device.entries, candidate.version)):
            try:
                self.installer.disarm(candidate.version)
                self.store.device = inspect(self.host, self.layout)
            except (OSError, DeviceError) as error:
                raise UpdateError(f"The earlier try of {candidate.version} remains: {error}", Failure.DEVICE) from error

    def _resumable(self) -> Release | None:
        """The candidate of an interrupted run, if all of it is fetched: no uplink is needed to go on."""
        candidate = self.store.record.candidate
        if candidate is None or self.store.record.state.settled or candidate.version in self.store.put_away_versions():
            return None
        complete = all(self.transfer.staged(candidate, artifact).exists() for artifact in candidate.artifacts)
        return candidate if complete else None

    def _back_to_rest(self) -> None:
        """Leave no half state behind when there is nothing to do, but keep a partial download's candidate."""
        kept = self.store.record
        if not kept.state.settled and kept.candidate is None:
            self.store.save(state=State.IDLE, candidate=None)

    def _failed(self, candidate: Release, reason: str) -> None:
        self.store.note(Event.UPDATE_FAILED, version=candidate.version, reason=reason)
        with contextlib.suppress(DeviceError):
            self.store.device = inspect(self.host, self.layout)
        self.store.save(state=State.IDLE, candidate=None, detail=reason)

    def _up_to_date(self, detail: str) -> tuple[Outcome, str]:
        self.store.save(detail=detail)
        return Outcome.UP_TO_DATE, detail

    def _wait(self, detail: str) -> tuple[Outcome, str]:
        self.store.save(detail=detail)
        return Outcome.WAITING, detail

    def _candidate_version(self) -> str:
        candidate = self.store.record.candidate
        return candidate.version if candidate else "the new version"
