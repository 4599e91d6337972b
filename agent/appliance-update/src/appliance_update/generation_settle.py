"""After a boot of a generation host: what became of the trial. What is booted, and the entries' counters, decide."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from appliance_update import generation_entries as boot_entries
from appliance_update import thoughts
from appliance_update.config import Generations
from appliance_update.entries import rename
from appliance_update.failed_boot import collect, last_gate_failure
from appliance_update.generation_entries import Entry, of_system
from appliance_update.generation_state import LOCK, System, Unfit, load, save, system_of, unlock
from appliance_update.history import Event
from appliance_update.host import Host
from appliance_update.install import InstallError
from appliance_update.nix_store import Nix, generations, present
from appliance_update.record import State
from appliance_update.settle import NOTHING_WAITS, TRIAL_MARKER, came_back, not_the_question, other_on_trial
from appliance_update.snapshots import Snapshots
from appliance_update.store import Store
from appliance_update.thoughts import Stage, Thought, Verdict

KEPT = 2
"""Generations beside the running one whose entries stay on the ESP when room is made for a new one."""


def settle(store: Store, host: Host, ours: Generations, nix: Nix, tries: int) -> None:
    """Recognise commit or rollback, record it, refresh the status. Raises `OSError` when it cannot be written."""
    store.running_version = host.image_version
    known = load(store.state)
    try:
        booted = str(host.path("/run/booted-system").readlink())
        entries = boot_entries.entries(host.path(f"{ours.boot}/loader/entries"))
    except OSError as error:
        store.save(detail=f"What is booted cannot be told: {error}")
        return
    thinking = thoughts.load(store.state)
    pending = thinking.pending() if thinking else None
    if pending and _settle_thought(store, host, ours, booted, entries, *pending):
        pass
    elif known.candidate and store.record.candidate and not store.record.state.settled:
        _settle_candidate(store, host, known.candidate, booted, entries, tries)
    else:
        _settle_running(store, host, booted, entries)
    _end_trial(store, host, ours, booted, entries)
    _clear_away(store, host, ours, nix, booted)
    store.publish()


def proved(own: tuple[Entry, ...]) -> bool:
    """Whether the booted system has been blessed."""
    return any(entry.blessed for entry in own)


# -- a candidate ------------------------------------------------------------------------------------------------------


def _settle_candidate(
    store: Store, host: Host, system: System, booted: str, entries: tuple[Entry, ...], tries: int
) -> None:
    own = of_system(entries, system.path)
    waiting = store.record.state in (State.ARMED, State.TRIAL)
    if booted == system.path:
        if proved(own):
            _commit(store, system)
        elif own and all(entry.spent and (entry.done or 0) > tries for entry in own):
            _ended(store, system, State.QUARANTINED, "its tries are over, and no other generation boots better")
        else:
            _on_trial(store, host, system, own)
    elif own and all(entry.spent for entry in own):
        _rolled_back(store, host, system, own)
    elif waiting:
        _still_armed(store, host, system, own)


def _commit(store: Store, system: System) -> None:
    store.note(Event.COMMITTED, version=system.label, reason=system.path)
    save(store.state, replace(load(store.state), candidate=None, good=system.path, bad=""))
    unlock(store.state)
    store.save(
        state=State.COMMITTED,
        candidate=None,
        good_version=system.label,
        detail=f"{system.label} proved itself and is the good system",
        **NOTHING_WAITS,
    )


def _on_trial(store: Store, host: Host, system: System, own: tuple[Entry, ...]) -> None:
    store.note(Event.TRIAL_STARTED, version=system.label, reason=system.path)
    if not own:
        detail = f"{system.label} runs, without a boot entry of its own; the loader cannot bless it"
    elif not host.counting:
        detail = f"{system.label} runs but the loader did not count this boot; it stays unproved"
    else:
        detail = f"{system.label} is on trial, {min(entry.left or 0 for entry in own)} tries left"
    if store.record.state is not State.TRIAL or store.record.detail != detail:
        store.save(state=State.TRIAL, detail=detail)


def _ended(store: Store, system: System, state: State, reason: str, journal: str = "") -> None:
    """It did not prove itself: it is not installed here again, and what it left is cleared away."""
    store.put_away(system.path, reason)
    if state is State.ROLLED_BACK:
        store.note(Event.ROLLED_BACK, version=system.label, reason=reason, journal=journal)
    store.note(Event.QUARANTINED, version=system.label, reason=reason)
    bad = system.path if state is State.ROLLED_BACK else ""
    save(store.state, replace(load(store.state), candidate=None, bad=bad))
    unlock(store.state)
    what = "failed and was rolled back" if state is State.ROLLED_BACK else "runs, but"
    store.save(state=state, candidate=None, detail=f"{system.label} {what}: {reason}", **NOTHING_WAITS)


def _rolled_back(store: Store, host: Host, system: System, own: tuple[Entry, ...]) -> None:
    boots = max((entry.done or 0 for entry in own), default=0)
    gate = last_gate_failure(store.state, system.version)
    reason = f"{boots} boots did not prove it; " + (
        f"its gate said: {gate}" if gate else "none reached the gate (a panic, a hang, or a system that does not start)"
    )
    journal = collect(host, store.failed, system.label, since_boot=store.record.armed_boot)
    _ended(store, system, State.ROLLED_BACK, reason, journal)


def _still_armed(store: Store, host: Host, system: System, own: tuple[Entry, ...]) -> None:
    """It has tries left, and something else runs."""
    if own:
        if store.record.armed_boot != host.boot_id() or store.record.state is State.TRIAL:
            detail = f"{system.label} is installed; another generation was booted by hand"
            store.save(state=State.ARMED, armed_boot=host.boot_id(), detail=detail)
        return
    store.note(Event.UPDATE_FAILED, version=system.label, reason="its boot entry is gone")
    save(store.state, replace(load(store.state), candidate=None))
    unlock(store.state)
    store.save(state=State.IDLE, candidate=None, detail=f"{system.label} lost its boot entry")


# -- second thoughts --------------------------------------------------------------------------------------------------


def _settle_thought(
    store: Store, host: Host, ours: Generations, booted: str, entries: tuple[Entry, ...], bad: str, thought: Thought
) -> bool:
    """A system that turned bad was left for another: has that one proved itself, or failed as well?

    False when that is not the question any more, or not yet.
    """
    others = of_system(entries, thought.other)
    other, label = _told(host, thought.other).label, _told(host, bad).label
    verdict = thought.verdict(bad, booted, others)
    match verdict:
        case Verdict.OTHER_PROVED:
            _bless(others)  # all entries of one system are as good as the one that was booted
            _left(store, host, booted, bad, f"second thoughts: {thought.reason}", final=True)
            thoughts.save(store.state, bad, thoughts.ended(thought, Stage.OTHER_KEPT))
        case Verdict.OTHER_ON_TRIAL:
            other_on_trial(store, other, label)
        case Verdict.OTHER_FAILED:
            _preferred_again(host, ours, of_system(entries, bad))
            came_back(store, bad, thought, other, label)
        case _:
            return not_the_question(store, bad, thought, verdict)
    return True


def _forgive(store: Store, booted: str, entries: tuple[Entry, ...]) -> None:
    """The other one was good before, failed as a second thought, and is something to fall back to."""
    known = thoughts.load(store.state)
    thought = known.versions.get(booted) if known else None
    if thought and thought.stage is Stage.CAME_BACK and thought.other not in store.put_away_versions():
        _bless(of_system(entries, thought.other))


def _bless(entries: tuple[Entry, ...]) -> None:
    for entry in entries:
        if not entry.blessed:
            rename(entry, entry.identity)


def _preferred_again(host: Host, ours: Generations, own: tuple[Entry, ...]) -> None:
    newest = max(own, key=lambda entry: entry.generation, default=None)
    with contextlib.suppress(ValueError):  # without a preferred entry the loader takes the newest good one by itself
        if newest:
            boot_entries.prefer(host.path(f"{ours.boot}/loader/loader.conf"), newest.identity)


# -- no candidate -----------------------------------------------------------------------------------------------------


def _settle_running(store: Store, host: Host, booted: str, entries: tuple[Entry, ...]) -> None:
    """No update under way: has the good system been left all the same, or was something deployed by hand?"""
    if not store.record.state.settled:  # cut off while it fetched
        store.save(state=State.IDLE, candidate=None)
    known = load(store.state)
    left = of_system(entries, known.good)
    if known.good and known.good != booted and left and all(entry.spent for entry in left):
        _left(store, host, booted, known.good, "it stopped booting after it had been good", final=False)
    elif known.good != booted and proved(of_system(entries, booted)):
        save(store.state, replace(known, good=booted))
        store.save(good_version=_told(host, booted).label)


def _left(store: Store, host: Host, booted: str, bad: str, reason: str, *, final: bool) -> None:
    """A system that was good is not any more, and what runs is."""
    left, kept = _told(host, bad), _told(host, booted)
    store.put_away(bad, reason, final=final)
    store.note(Event.ROLLED_BACK, version=left.label, reason=reason)
    store.note(Event.QUARANTINED, version=left.label, reason=reason)
    save(store.state, replace(load(store.state), candidate=None, good=booted, bad=bad))
    unlock(store.state)
    store.save(
        state=State.ROLLED_BACK,
        candidate=None,
        good_version=kept.label,
        detail=f"{left.label} was left for {kept.label}: {reason}",
        **NOTHING_WAITS,
    )


def _told(host: Host, path: str) -> System:
    try:
        return system_of(host, path)
    except Unfit:
        return System(path)


def _end_trial(store: Store, host: Host, ours: Generations, booted: str, entries: tuple[Entry, ...]) -> None:
    """A system that proved itself may migrate its databases, and is pinned: garbage collection cannot take it."""
    if not proved(of_system(entries, booted)):
        return
    (store.runtime / TRIAL_MARKER).unlink(missing_ok=True)
    thinking = thoughts.load(store.state)
    over = store.record.state.settled and not (thinking and thinking.pending())
    if over and (store.state / LOCK).exists():  # a cut between two steps
        unlock(store.state)
    _forgive(store, booted, entries)
    with contextlib.suppress(OSError):
        _pin(host.path(ours.roots) / "good", booted)
    others = {_told(host, entry.system).version for entry in entries if entry.system != booted}
    with contextlib.suppress(OSError):  # merely room
        snapshots = Snapshots(host, store.state / "snapshots", ())
        snapshots.keep((others - {host.image_version}) | (set() if over else {host.image_version}))


def _pin(root: Path, system: str) -> None:
    if root.is_symlink() and str(root.readlink()) == system:
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    new = root.with_name(f".{root.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(system)
    new.replace(root)


def _clear_away(store: Store, host: Host, ours: Generations, nix: Nix, booted: str) -> None:
    """After a rollback: what runs is the next to boot also by the profile, and the bad generation leaves the ESP.

    Tried again at every settling until it is done; what is left meanwhile is spent, and not booted.
    """
    known = load(store.state)
    if not known.bad or not store.record.state.settled or known.bad == booted:
        return
    profile = host.path(ours.profile)
    try:
        if present(profile) == known.bad:
            nix.set_profile(profile, booted)
        nix.forget(profile, known.bad)
        nix.install_loader(booted)
    except InstallError as error:
        label = _told(host, known.bad).label
        store.note(Event.UPDATE_FAILED, version=label, reason=f"it cannot be cleared away: {error}")
        return
    save(store.state, replace(known, bad=""))


def prune(host: Host, ours: Generations, nix: Nix, keep: tuple[str, ...]) -> None:
    """Before a new one comes: forget generations that nobody would go back to. Raises `InstallError`."""
    profile = host.path(ours.profile)
    there = [path for _, path in generations(profile) if path not in keep]
    for path in dict.fromkeys(there[:-KEPT]):
        nix.forget(profile, path)
