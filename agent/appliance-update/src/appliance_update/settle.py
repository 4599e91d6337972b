"""After a boot: what became of the trial. Facts decide (what runs, what the boot entries say); the record helps."""

from __future__ import annotations

from appliance_update.device import Device, DeviceError, inspect
from appliance_update.entries import Entry, of_version
from appliance_update.failed_boot import collect, last_gate_failure
from appliance_update.history import Event
from appliance_update.host import Host
from appliance_update.layout import Layout
from appliance_update.record import State
from appliance_update.store import Store


def settle(store: Store, host: Host, layout: Layout) -> Device | None:
    """Recognise commit or rollback, record it, refresh the status. Raises `OSError` when it cannot be written.

    Returns the inspected device, or None when it cannot be told; then nothing is concluded.
    """
    store.running_version = host.image_version
    try:
        device = store.device = inspect(host, layout)
    except DeviceError as error:
        store.device = None
        store.save(detail=str(error))
        return None
    kept = store.record
    if kept.candidate and not kept.state.settled:
        _settle_candidate(store, host, device)
    else:
        _settle_running(store, host, device)
    store.publish()
    return device


def _settle_candidate(store: Store, host: Host, device: Device) -> None:
    candidate = store.record.candidate
    assert candidate is not None
    own = of_version(device.entries, candidate.version)
    if device.version == candidate.version:
        if len(own) == 1 and own[0].blessed:
            _commit(store, candidate.version)
        else:
            _on_trial(store, host, own)
    elif any(entry.spent for entry in own):
        _rolled_back(store, host, candidate.version, own)
    elif store.record.state in (State.ARMED, State.TRIAL):
        _still_armed(store, host, own)


def _commit(store: Store, version: str) -> None:
    store.note(Event.COMMITTED, version=version)
    store.save(
        state=State.COMMITTED,
        candidate=None,
        good_version=version,
        detail=f"{version} proved itself and is the good version",
    )


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


def _settle_running(store: Store, host: Host, device: Device) -> None:
    """No update under way: has the good version been left all the same?"""
    good, running = store.record.good_version, device.version
    own = of_version(device.entries, running)
    if good and good != running and any(entry.spent for entry in of_version(device.entries, good)):
        reason = "it stopped booting after it had been good (its own initrd, or the loader, gave it up)"
        journal = collect(host, store.failed, good, since_boot="")
        store.put_away(good, reason)
        store.note(Event.ROLLED_BACK, version=good, reason=reason, journal=journal)
        store.note(Event.QUARANTINED, version=good, reason=reason)
        store.save(
            state=State.ROLLED_BACK,
            candidate=None,
            good_version=running,
            detail=f"{good} was left for {running}: {reason}",
        )
    elif good != running and len(own) == 1 and own[0].blessed:
        store.save(good_version=running)
