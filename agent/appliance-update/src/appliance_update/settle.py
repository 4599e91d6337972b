"""After a boot: what became of the trial. Facts decide (what runs, what the boot entries say); the record helps."""

from __future__ import annotations

import contextlib

from appliance_update import recovery, thoughts
from appliance_update.device import Device, DeviceError, SlotState, inspect
from appliance_update.entries import Entry, aside_name, blessed_name, of_version, remove, rename, stale_twins
from appliance_update.failed_boot import collect, last_gate_failure
from appliance_update.history import Event
from appliance_update.host import Host
from appliance_update.layout import Layout
from appliance_update.record import State, save_epoch
from appliance_update.snapshots import Snapshots
from appliance_update.store import Store
from appliance_update.thoughts import Stage, Thought, Verdict

TRIAL_MARKER = "trial"
"""File in /run that `appliance-update-trial.service` makes: while it is there nobody migrates a database."""


def settle(store: Store, host: Host, layout: Layout) -> Device | None:
    """Recognise commit or rollback, record it, refresh the status. Raises `OSError` when it cannot be written.

    Returns the inspected device, or None when it cannot be told; then nothing is concluded.
    """
    store.running_version = host.image_version
    try:
        device = store.device = _without_twins(store, host, layout, inspect(host, layout))
    except DeviceError as error:
        store.device = None
        store.save(detail=str(error))
        return None
    kept = store.record
    thinking = thoughts.load(store.state)
    pending = thinking.pending() if thinking else None
    if pending and _settle_thought(store, host, device, *pending):
        pass
    elif kept.candidate and not kept.state.settled:
        _settle_candidate(store, host, layout, device)
    else:
        _settle_running(store, host, layout, device)
    device = store.device = inspect(host, layout) if pending else device
    _end_trial(store, host, layout, device)
    store.publish()
    return device


def _without_twins(store: Store, host: Host, layout: Layout, device: Device) -> Device:
    """A stale second entry of the running version would keep it from being blessed, and us from updating."""
    stale = stale_twins(of_version(device.entries, device.version), host.booted_entry())
    for entry in stale:
        store.note(Event.REPAIRED, version=device.version, reason=f"the stale boot entry {entry.path.name} was removed")
        remove(entry)
    return inspect(host, layout) if stale else device


def _end_trial(store: Store, host: Host, layout: Layout, device: Device) -> None:
    """A version that proved itself may migrate its databases; snapshots nobody can fall back to go."""
    own = of_version(device.entries, device.version)
    if len(own) != 1 or not own[0].blessed:
        return
    (store.runtime / TRIAL_MARKER).unlink(missing_ok=True)
    _forgive(store, layout, device)
    snapshots = Snapshots(host, store.state / "snapshots", ())
    wanted = {device.standby.version} if device.standby.state is SlotState.STANDBY else set()
    thinking = thoughts.load(store.state)
    if not store.record.state.settled or thinking is None or thinking.pending() or snapshots.failed(device.version):
        wanted.add(device.version)
    with contextlib.suppress(OSError):  # merely room
        snapshots.keep(wanted)


def _forgive(store: Store, layout: Layout, device: Device) -> None:
    """The other version was good before, failed as a second thought, and is all there is to fall back to."""
    known = thoughts.load(store.state)
    thought = known.versions.get(device.version) if known else None
    if thought and thought.stage is Stage.CAME_BACK and thought.other not in store.put_away_versions():
        others = of_version(device.entries, thought.other)
        if len(others) == 1 and others[0].spent and device.standby.version == thought.other:
            rename(others[0], blessed_name(layout, thought.other))


# -- a candidate ------------------------------------------------------------------------------------------------------


def _settle_candidate(store: Store, host: Host, layout: Layout, device: Device) -> None:
    candidate = store.record.candidate
    assert candidate is not None
    own = of_version(device.entries, candidate.version)
    if device.version == candidate.version:
        if len(own) == 1 and own[0].blessed:
            _commit(store, candidate.version, candidate.security_epoch)
            recovery.committed(store.state, candidate)
        elif own and all(entry.spent and (entry.done or 0) > layout.boot.tries for entry in own):
            _given_up(store, candidate.version)
        else:
            _on_trial(store, host, own)
    elif any(entry.spent for entry in own):
        _rolled_back(store, host, candidate.version, own)
    elif store.record.state in (State.ARMED, State.TRIAL):
        _still_armed(store, host, own)


def _commit(store: Store, version: str, security_epoch: int) -> None:
    save_epoch(store.state, security_epoch)
    store.note(Event.COMMITTED, version=version)
    store.save(
        state=State.COMMITTED,
        candidate=None,
        good_version=version,
        security_epoch=max(store.record.security_epoch, security_epoch),
        detail=f"{version} proved itself and is the good version",
        **NOTHING_WAITS,
    )


NOTHING_WAITS = {"waited": 0.0, "waited_at": 0.0, "waited_boot": "", "postponed_until": 0.0}
"""What the record says of postponement when no update waits."""


def _on_trial(store: Store, host: Host, own: tuple[Entry, ...]) -> None:
    version = store.running_version
    store.note(Event.TRIAL_STARTED, version=version)
    if len(own) != 1:
        detail = f"{version} runs, with {len(own)} boot entries; the loader cannot bless it"
    elif not host.counting:
        detail = f"{version} runs but the loader did not count this boot; it stays unproved"
    else:
        detail = f"{version} is on trial, {own[0].left} tries left"
    if store.record.state is not State.TRIAL or store.record.detail != detail:
        store.save(state=State.TRIAL, detail=detail)


def _given_up(store: Store, version: str) -> None:
    """Its tries are over and it was booted all the same: the loader had nothing better. An update is the way out."""
    reason = "its tries are over, and it was booted all the same"
    store.put_away(version, reason)
    store.note(Event.QUARANTINED, version=version, reason=reason)
    store.save(state=State.QUARANTINED, candidate=None, detail=f"{version} runs, but {reason}", **NOTHING_WAITS)


def _rolled_back(store: Store, host: Host, version: str, own: tuple[Entry, ...]) -> None:
    boots = max((entry.done or 0 for entry in own), default=0)
    gate = last_gate_failure(store.state, version)
    reason = f"{boots} boots did not prove it; " + (
        f"its gate said: {gate}" if gate else "none reached the gate (a panic, a hang, or a slot that does not open)"
    )
    journal = collect(host, store.failed, version, since_boot=store.record.armed_boot)
    store.put_away(version, reason)
    store.note(Event.ROLLED_BACK, version=version, reason=reason, journal=journal)
    store.note(Event.QUARANTINED, version=version, reason=reason)
    store.save(
        state=State.ROLLED_BACK,
        candidate=None,
        good_version=store.running_version,
        detail=f"{version} failed and was rolled back to {store.running_version}: {reason}",
        **NOTHING_WAITS,
    )


def _still_armed(store: Store, host: Host, own: tuple[Entry, ...]) -> None:
    """The candidate has tries left, and something else runs."""
    candidate = store.record.candidate
    assert candidate is not None
    if own:
        if store.record.armed_boot != host.boot_id() or store.record.state is State.TRIAL:
            store.save(
                state=State.ARMED,
                armed_boot=host.boot_id(),
                detail=f"{candidate.version} is installed; another version was booted by hand",
            )
        return
    store.note(Event.UPDATE_FAILED, version=candidate.version, reason="its boot entry is gone")
    store.save(
        state=State.IDLE, candidate=None, detail=f"{candidate.version} lost its boot entry; it will be installed anew"
    )


# -- no candidate -----------------------------------------------------------------------------------------------------


def _settle_running(store: Store, host: Host, layout: Layout, device: Device) -> None:
    """No update under way: has the good version been left all the same?"""
    if not store.record.state.settled:  # cut off while it asked
        store.save(state=State.IDLE)
    good, running = store.record.good_version, device.version
    own = of_version(device.entries, running)
    if good and good != running and any(entry.spent for entry in of_version(device.entries, good)):
        reason = "it stopped booting after it had been good (its own initrd, or the loader, gave it up)"
        _left(store, host, good, reason, final=False)
    elif good != running and len(own) == 1 and own[0].blessed:
        store.save(good_version=running)
    elif good == running and len(own) == 1 and own[0].path.name == aside_name(layout, running):
        rename(own[0], blessed_name(layout, running))  # it stepped aside for a version that is not coming any more


def _left(store: Store, host: Host, version: str, reason: str, *, final: bool) -> None:
    """A version that was good is not any more."""
    journal = collect(host, store.failed, version, since_boot="")
    store.put_away(version, reason, final=final)
    store.note(Event.ROLLED_BACK, version=version, reason=reason, journal=journal)
    store.note(Event.QUARANTINED, version=version, reason=reason)
    store.save(
        state=State.ROLLED_BACK,
        candidate=None,
        good_version=store.running_version,
        detail=f"{version} was left for {store.running_version}: {reason}",
        **NOTHING_WAITS,
    )


def _settle_thought(store: Store, host: Host, device: Device, version: str, thought: Thought) -> bool:
    """A version that turned bad was left for the other slot: has the other one proved itself, or failed as well?

    False when that is not the question any more, or not yet.
    """
    others = of_version(device.entries, thought.other)
    verdict = thought.verdict(version, device.version, others)
    if verdict is Verdict.OTHER_PROVED and len(others) > 1:  # a twin: the loader cannot bless the one that runs
        verdict = Verdict.OTHER_ON_TRIAL
    match verdict:
        case Verdict.OTHER_PROVED:  # for good: it would pass its gate again, and turn bad again
            _left(store, host, version, f"second thoughts: {thought.reason}", final=True)
            thoughts.save(store.state, version, thoughts.ended(thought, Stage.OTHER_KEPT))
        case Verdict.OTHER_ON_TRIAL:
            other_on_trial(store, thought.other, version)
        case Verdict.OTHER_FAILED:
            came_back(store, version, thought, thought.other, version)
        case _:
            return not_the_question(store, version, thought, verdict)
    return True


def not_the_question(store: Store, version: str, thought: Thought, verdict: Verdict) -> bool:
    """False; what was overtaken by an update is over, what was not tried is still to come."""
    if verdict is Verdict.OVERTAKEN:
        thoughts.save(store.state, version, thoughts.ended(thought, Stage.CAME_BACK))
    return False


def other_on_trial(store: Store, other: str, label: str) -> None:
    """Record that the standby runs and has not proved itself yet; both named for people."""
    if store.record.state is not State.TRIAL:
        store.save(state=State.TRIAL, candidate=None, detail=f"{other} is tried instead of {label}")


def came_back(store: Store, version: str, thought: Thought, other: str, label: str) -> None:
    """Record that the standby failed and what was left runs again; `other` and `label` are for people."""
    reason = f"{other} did not prove itself either; {label} stays"
    store.note(Event.SECOND_THOUGHTS, version=label, reason=reason)
    store.save(state=State.IDLE, candidate=None, detail=reason)
    thoughts.save(store.state, version, thoughts.ended(thought, Stage.CAME_BACK))
