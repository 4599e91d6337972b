"""The updater of a host that keeps generations of NixOS instead of slots (`hosts/t640-rebuild`).

The same store, history, status, window, gate and rehearsal as on an image; what differs is where a new system comes
from and what makes it the next to boot. A request is only a wish: everything it names is checked here again.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

from appliance_update import faults, inbox, orders, quarantine
from appliance_update import generation_entries as boot_entries
from appliance_update.config import Generations
from appliance_update.generation_settle import prune, settle
from appliance_update.generation_state import NONE, Source, System, Unfit, load, lock, save, system_of, unlock
from appliance_update.history import Event
from appliance_update.install import InstallError
from appliance_update.nix_store import FLAKE, KEY, STORE_PATH, Nix, present
from appliance_update.record import State
from appliance_update.release import Release, version_key
from appliance_update.snapshots import SnapshotError
from appliance_update.transfer import TransferError
from appliance_update.updater import WAITING_FOR_BOOT, Failure, Outcome, UpdateError, Updater

MIB = 1024 * 1024


@dataclass
class GenerationUpdater(Updater):
    """An `Updater` whose candidates are systems in the Nix store."""

    nix: Nix | None = None

    # -- the whole way ------------------------------------------------------------------------------------------------

    def run(self) -> tuple[Outcome, str]:
        """See `Updater.run`."""
        with self.store.locked():
            requested = self._take()
            self.settle()
            self.asked = orders.turn(self.store, requested)
            if self.store.record.state is State.TRIAL:
                return self._on_trial()
            if self.store.record.state is State.ARMED and not self._passed_over():
                return self.restart()
            source = self._wanted()
            if source == NONE:
                if self.store.record.order_open and self.store.record.order_id:
                    orders.refuse(self.store, self.store.record.order_id, NOTHING)
                    self.store.save(order_open=False)
                return self._up_to_date(NOTHING)
            if self.fetch() is None:
                return Outcome.UP_TO_DATE, self.store.record.detail
            if not self.may_go():
                return self._wait(f"{self._candidate_version()} is ready and waits for the maintenance window")
            self.apply()
            return self.restart()

    def settle(self) -> bool:
        """See `Updater.settle`."""
        settle(self.store, self.host, self.ours, self.tool, self.layout.boot.tries)
        return True

    def look(self) -> str:
        """See `Updater.look`. There are no slots to look at."""
        return ""

    @property
    def ours(self) -> Generations:
        """The configuration's part about generations."""
        return self.config.generations

    @property
    def tool(self) -> Nix:
        """Nix. Raises `UpdateError` when the updater was put together without it."""
        if self.nix is None:
            raise UpdateError("This updater was put together without Nix", Failure.DEVICE)
        return self.nix

    # -- what is wanted -----------------------------------------------------------------------------------------------

    def _take(self) -> set[str]:
        """Queue the orders; what each asks for is kept beside them. One that is not allowed is answered at once."""
        requests, refused = inbox.take(self.store.runtime / "requests")
        kept = load(self.store.state)
        wishes, good = dict(kept.wishes), []
        for request in requests:
            source = Source(request.store_path, request.flake)
            reason = self.refusal(source) if request.generation else ""
            if reason:
                orders.refuse(self.store, request.order_id, reason)
                continue
            good.append(request)
            if request.generation and not self.store.answered(request.order_id):
                wishes.setdefault(request.order_id, source)
        waiting = {self.store.record.order_id, *self.store.record.waiting_orders, *(each.order_id for each in good)}
        wishes = {order_id: source for order_id, source in wishes.items() if order_id in waiting}
        if wishes != kept.wishes:  # first, so that no order waits whose wish a power cut has lost
            save(self.store.state, replace(kept, wishes=wishes))
        return orders.queue_up(self.store, good, refused)

    def refusal(self, source: Source) -> str:
        """Why nothing may come from there; empty when it may. The allow-lists are those of this host's own system."""
        if source.store_path and source.flake:
            return "An order names a store path or a flake, not both"
        if source.store_path:
            if not STORE_PATH.fullmatch(source.store_path):
                return f"{source.store_path[:80]!r} is not a path of the Nix store"
            if not self.ours.trusted_keys:
                return "This host takes no store paths: its [generations] trusted_keys is empty"
            return ""
        if not FLAKE.fullmatch(source.flake):
            return f"{source.flake[:80]!r} is not the URL of a flake with the name of a host behind a #"
        if source.flake not in (*self.ours.flakes, self.ours.follow):
            return f"{source.flake[:200]} is not in this host's list of flakes ([generations] flakes)"
        return ""

    def _wanted(self) -> Source:
        """What the order whose turn it is asks for; else the flake that is followed."""
        kept = self.store.record
        wish = load(self.store.state).wishes.get(kept.order_id) if kept.order_open and kept.order_id else None
        return wish or (Source(flake=self.ours.follow) if self.ours.follow else NONE)

    # -- steps --------------------------------------------------------------------------------------------------------

    def check(self) -> Release | None:
        """Nothing is asked before it is fetched: Nix does both at once."""
        return self.fetch()

    def fetch(self) -> Release | None:
        """Bring the wanted system into the store, verified; None when it runs already. Raises `UpdateError`."""
        before = self.store.record
        if before.state in WAITING_FOR_BOOT:
            raise UpdateError(f"First {self._candidate_version()} must prove itself: {before.detail}", Failure.INSTALL)
        source = self._wanted()
        reason = NOTHING if source == NONE else self.refusal(source)
        if reason:
            self._rest(State.IDLE, reason)
            raise UpdateError(reason, Failure.CHECK)
        now = self.store.now()
        try:
            self._preflight()
            self.store.save(state=State.DOWNLOADING, from_version=self.store.running_version, detail="")
            path = self._brought(source)
            self.store.save(state=State.VERIFYING)
            system = self._admitted(path, source)
        except Unfit as error:
            raise self._answered_no(source, str(error)) from error
        except (TransferError, OSError) as error:
            candidate = self._not_fetched(source, str(error), now)
            if candidate is None:
                raise UpdateError(f"{source}: {error}", Failure.TRANSFER) from error
            return candidate
        self.store.contact()
        self.store.save(last_check_at=now, last_check_error="")
        return self._chosen(system)

    def _brought(self, source: Source) -> str:
        """Where it is in the store; signed, if it came by its path. Raises `TransferError`, `Unfit`, `OSError`."""
        root = Path(self.ours.roots) / "candidate"
        self.host.path(str(root.parent)).mkdir(parents=True, exist_ok=True)
        if not source.store_path:
            return self.tool.build(source.flake, root)
        unusable = [key for key in self.ours.trusted_keys if not KEY.fullmatch(key)]
        if unusable:
            raise TransferError(f"[generations] trusted_keys holds {unusable[0][:60]!r}, which is not a key of Nix")
        self.tool.realise(source.store_path, root)
        try:
            self.tool.signed(source.store_path, self.ours.trusted_keys)
        except TransferError as error:
            raise Unfit(f"{source.store_path} is signed by none of this host's trusted_keys: {error}") from error
        return source.store_path

    def _admitted(self, path: str, source: Source) -> System:
        """The system at a path, shown to be one of ours that can prove itself. Raises `TransferError`, `Unfit`."""
        system = system_of(self.host, path, source)
        if system.image_id != self.host.os_release().get("IMAGE_ID", ""):
            raise Unfit(f"{path} is a system of {system.image_id or 'no image'!r}, not of this device's kind")
        if path != self._booted() and _lower(system.version, self.host.image_version):
            raise Unfit(f"{system.version} is lower than {self.host.image_version}, which runs: no way back")
        missing = [name for name in NEEDED if not os.path.lexists(self.host.path(f"{path}/{name}"))]
        if missing:
            raise Unfit(f"{path} could not prove itself, so it is not installed: {', '.join(missing)} missing")
        self.tool.intact(path)
        return system

    def _chosen(self, system: System) -> Release | None:
        kept = self.store.record
        quarantine.mend(self.store.quarantine_path, self._now())
        put_away = self.store.put_away_versions().get(system.path, "")
        if system.path == self._booted():
            detail = f"{system.label} runs already"
            if kept.order_open and kept.order_id and not self.store.answered(kept.order_id):
                self.store.note(Event.COMMITTED, version=system.label, reason=detail)
            self._rest(State.IDLE, detail)
            return None
        if put_away:
            detail = f"{system.label} is put away: {put_away}"
            if self.asked and not self.store.answered(kept.order_id):
                self.store.note(Event.QUARANTINED, version=system.label, reason=detail)
            self._rest(State.QUARANTINED, detail)
            return None
        candidate = Release(system.label, "", ())
        if kept.candidate != candidate:
            self.store.note(Event.DOWNLOAD_STARTED, version=system.label, reason=str(system.source))
        save(self.store.state, replace(load(self.store.state), candidate=system))
        self.store.save(candidate=candidate, detail=f"{system.label} is in the store and verified")
        return candidate

    def apply(self) -> None:
        """Make the fetched system the next to boot, on trial. Raises `UpdateError`."""
        known = load(self.store.state)
        system = known.candidate
        if system is None or self.store.record.candidate is None:
            raise UpdateError("Nothing is fetched; run `appliance-update fetch` first", Failure.INSTALL)
        before = present(self.host.path(self.ours.profile))
        try:
            self._preflight()
            self.tool.intact(system.path)  # it may have lain here for weeks
            self.store.save(state=State.STAGING, from_version=self.store.running_version, attempt=uuid.uuid4().hex)
            save(self.store.state, replace(known, before=before or self._booted()))
            self._snapshot(system)
            faults.point("generation:profile")
            prune(self.host, self.ours, self.tool, keep=(self._booted(), before, system.path))
            self.tool.set_profile(self.host.path(self.ours.profile), system.path)
            faults.point("generation:loader")
            self.tool.install_loader(system.path)
            faults.point("generation:armed")
            self._assert_armed(system)
            lock(self.store.state, f"{system.label} waits for its first boot or proves itself")
        except (InstallError, TransferError, SnapshotError, OSError) as error:
            self._undo(before or self._booted(), system)
            self._failed(Release(system.label, "", ()), str(error))
            raise UpdateError(str(error), Failure.INSTALL) from error
        self.store.note(Event.INSTALLED, version=system.label, reason=system.path)
        self.store.save(
            state=State.ARMED,
            armed_boot=self.host.boot_id(),
            armed_at=self.store.now(),
            restarts=0,
            detail=f"{system.label} is installed; the next boot tries it",
        )

    def _assert_armed(self, system: System) -> None:
        """The loader counts its tries and prefers it: a bad system without a counter would boot for ever."""
        boot = self.host.path(self.ours.boot)
        own = boot_entries.of_system(boot_entries.entries(boot / "loader/entries"), system.path)
        if not own:
            raise InstallError(f"The boot loader has no entry for {system.path} after it was installed")
        uncounted = [entry.path.name for entry in own if entry.blessed]
        if uncounted:
            raise InstallError(f"{uncounted[0]} carries no counter: is bootCounting.enable set in the new system?")
        if boot_entries.preferred(boot / "loader/loader.conf") not in {entry.identity for entry in own}:
            raise InstallError("loader.conf does not prefer the new system's entry; it would never be tried")

    def _undo(self, before: str, system: System) -> None:
        """Best effort: what runs is the next to boot again, and nothing of the candidate is left to boot."""
        profile = self.host.path(self.ours.profile)
        unlock(self.store.state)
        if not before or before == system.path or present(profile) == before:
            return
        with contextlib.suppress(InstallError, OSError):
            self.tool.set_profile(profile, before)
            self.tool.forget(profile, system.path)
            self.tool.install_loader(before)

    def mark_bad(self, version: str, reason: str) -> None:
        """Put a system away by its label or its store path; an armed one is disarmed. Raises `UpdateError`."""
        known = load(self.store.state)
        here = known.candidate
        system = here if here and version in (here.label, here.path) else None
        path = system.path if system else version
        if not STORE_PATH.fullmatch(path):
            raise UpdateError(f"{version} is neither waiting here nor a store path", Failure.INSTALL)
        if path == self._booted():
            raise UpdateError(f"{version} is what runs; boot another generation first", Failure.INSTALL)
        self.store.put_away(path, reason, attempt="", final=True)
        self.store.note(Event.QUARANTINED, version=system.label if system else path, reason=reason)
        if system:
            self._disarm(system.label)
            self.store.save(state=State.QUARANTINED, candidate=None, detail=f"{version} was marked bad: {reason}")

    # -- help ---------------------------------------------------------------------------------------------------------

    def _booted(self) -> str:
        try:
            return str(self.host.path("/run/booted-system").readlink())
        except OSError:
            return ""

    def _preflight(self) -> None:
        """Room on the ESP and in the store, before the first byte. Raises `TransferError`, `OSError`."""
        wanted = {self.ours.boot: self.ours.esp_free_mib, "/nix/store": self.ours.store_free_mib}
        for directory, mebibytes in wanted.items():
            space = os.statvfs(self.host.path(directory))
            free = space.f_bavail * space.f_frsize // MIB
            if free < mebibytes:
                raise TransferError(f"{directory} has {free} MiB left, and an update wants {mebibytes} MiB")

    def _snapshot(self, system: System) -> None:
        """Databases as this version knows them; of two systems of one version the schema is the same."""
        if system.version != self.host.image_version:
            self.snapshots.forget(system.version)
            self.snapshots.take(self.host.image_version)

    def _prefer(self) -> None:
        """The newest generation is preferred by loader.conf, and that was asserted when it was armed."""

    def _disarm(self, version: str) -> str:
        """See `Updater._disarm`."""
        known = load(self.store.state)
        if known.candidate is None or known.candidate.label != version:
            return version
        self._undo(known.before or self._booted(), known.candidate)
        save(self.store.state, replace(known, candidate=None))
        return known.candidate.path

    def _snapshot_again(self) -> None:
        system = load(self.store.state).candidate
        if system is not None and system.version != self.host.image_version:
            self.snapshots.take(self.host.image_version)

    def _not_fetched(self, source: Source, reason: str, now: float) -> Release | None:
        """No uplink is needed for a system that is here and waits for the window; an order is asked again by the agent.

        One that cannot be carried out now gives up its turn, so that it holds up no other.
        """
        kept, known = self.store.record, load(self.store.state)
        if self.asked or reason != kept.last_check_error:
            self.store.note(Event.CHECK_FAILED, reason=f"{source}: {reason}", again=self.asked)
        self.store.save(last_check_at=now, last_check_error=reason)
        here = known.candidate
        if here and kept.candidate and here.source == source and here.path not in self.store.put_away_versions():
            self.store.save(state=State.VERIFYING)
            return kept.candidate
        self._rest(State.IDLE, reason)
        self.store.save(order_open=False)
        return None

    def _answered_no(self, source: Source, reason: str) -> UpdateError:
        """What is there is nothing for this host, and asking again would not change it: the order has its answer."""
        kept = self.store.record
        if kept.order_open and kept.order_id:
            orders.refuse(self.store, kept.order_id, reason)
        elif reason != kept.last_check_error:
            self.store.note(Event.CHECK_FAILED, reason=f"{source}: {reason}")
        self._rest(State.IDLE, reason)
        self.store.save(order_open=False, last_check_at=self.store.now(), last_check_error=reason)
        return UpdateError(f"{source}: {reason}", Failure.TRANSFER)

    def _rest(self, state: State, detail: str) -> None:
        save(self.store.state, replace(load(self.store.state), candidate=None))
        self.store.save(state=state, candidate=None, detail=detail, waited=0.0, waited_at=0.0, postponed_until=0.0)


NOTHING = "No flake is followed on this host, and no order names what to install"

NEEDED = (
    "init",
    "boot.json",
    "bin/switch-to-configuration",
    "etc/appliance-update/config.toml",
    "etc/systemd/system/boot-health.service",
)
"""Without these a system could not be booted, judged or replaced again."""


def _lower(version: str, running: str) -> bool:
    """Whether a version is lower; one that cannot be compared is not let pass as higher."""
    try:
        return version_key(version) < version_key(running)
    except ValueError:
        return version != running


__all__ = ["GenerationUpdater"]
