"""Cases 13 and 52 to 63: programs that break themselves, their state, and the network around them.

The pilot's own failures (53, 54, 56) run as processes and on the virtual T640, in tests/integration.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance_update.config import Config, Gate
from appliance_update.gate.checks import registry
from appliance_update.gate.judge import judge
from appliance_update.gate.judge import round_of as round_of_checks
from appliance_update.record import State
from tests.appliance_update.appliance import Appliance, Disturbance, after, cut, disturbed, make_appliance, make_shelf
from tests.appliance_update.databases import AGENT, opened
from tests.appliance_update.simulator import boot
from tests.faults.marks import fault
from tests.faults.outcome import Report

V1 = "2026.11.1"
V2, V3 = after(V1), after(after(V1))


@pytest.fixture
def appliance(quick: Path, report: Report) -> Iterator[Appliance]:
    made = make_appliance(make_shelf(quick), quick / "device", V1)
    yield made
    report.boots = made.boots


def holds(appliance: Appliance, report: Report, outcome: str) -> None:
    """The invariant, after the last fault."""
    appliance.check()
    newest = max((*appliance.shelf.builds, V3), key=lambda version: [int(part) for part in version.split(".")])
    appliance.advances(after(newest))
    report.outcome = outcome


def update(appliance: Appliance, version: str, *, good: bool = True, schema: int = 1) -> str:
    """Offer a version, take it, and go on until something stays up."""
    appliance.shelf.put(version)
    appliance.services.knows[version] = schema
    if good:
        appliance.good.add(version)
    appliance.run()
    return appliance.power_on()


def _places(appliance: Appliance, begins: str) -> int:
    watched = Disturbance()
    with disturbed(watched):
        appliance.run()
    return len([name for name in watched.names if name.startswith(begins)])


@fault(13)
@pytest.mark.parametrize("step", ["snapshot", "restor"])
def test_power_cut_while_state_is_snapshotted_and_restored(
    quick: Path, appliance: Appliance, report: Report, step: str
) -> None:
    """At every place of the step, each on a device of its own."""
    for at in range(40):
        device = make_appliance(appliance.shelf, quick / f"at-{at}", V1)
        device.services.hold = False  # it migrates on trial, so that the older version needs its databases back
        device.services.knows[V2] = 2
        device.shelf.offered.clear()  # what the device before ended with
        device.shelf.put(V2)
        passed = -1

        def stop(name: str, at: int = at) -> bool:
            nonlocal passed
            passed += name.startswith(step)
            return name.startswith(step) and passed == at

        with disturbed(Disturbance(error=cut, stop=stop)):
            device.run()
        met = passed >= at
        for _ in range(8):  # the first boots of the bad version, and the way back, may be cut too
            with disturbed(Disturbance(error=cut, stop=stop)):
                device.power_on()
                break
            met = True
        report.runs += 1
        report.boots += device.boots
        device.services.check_evidence()
        device.advances(after(V3))
        if not met:
            break
    else:
        raise AssertionError(f"there is no end of places that begin with {step!r}")
    assert report.runs > 3
    holds(appliance, report, "the snapshot is whole or none; a restore is done again")


@fault(52)
def test_the_agent_crashes_in_a_loop_from_the_start(appliance: Appliance, report: Report) -> None:
    assert update(appliance, V2, good=False) == V1
    assert appliance.settle().store.record.state is State.ROLLED_BACK
    holds(appliance, report, "condemned by its gate, three tries, then the old version by itself")


@fault(52, 55)
def test_the_agent_begins_to_crash_after_it_was_committed(appliance: Appliance, report: Report) -> None:
    assert update(appliance, V2) == V2
    for _ in range(6):
        appliance.look(crashing=True)
    appliance.good.discard(V2)
    assert appliance.power_on() == V1
    assert appliance.count("second_thoughts", V2) == 1
    for _ in range(6):
        appliance.look(crashing=True)
    assert appliance.power_on() == V1, "once, and not back and forth"
    holds(appliance, report, "left once for the other slot, on trial, and put away")


@fault(57, 58)
@pytest.mark.parametrize("before", [True, False], ids=["up before", "down before"])
def test_the_network_is_down_after_the_update(
    appliance: Appliance, report: Report, before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate's own rules: what is remote only advises; the version commits, and says so."""
    appliance.shelf.reachable = True
    assert update(appliance, V2) == V2
    config = Config(gate=Gate(deadline=0.0), paths=appliance.config.paths, repository="http://127.0.0.1:9/")
    checks = {name: check for name, check in registry().items() if name in ("polling", "clock")}
    assert round_of_checks(config, appliance.device.host, checks) == {}
    appliance.shelf.reachable = False
    for _ in range(3):
        appliance.run()
        assert appliance.power_on() == V2
    assert appliance.count("rolled_back", V2) == 0
    report.runs = 3
    holds(appliance, report, "no rollback: the uplink condemns no version, whether it was up before or not")


@fault(59)
def test_a_database_migration_fails_half_way(appliance: Appliance, report: Report) -> None:
    """The service's transaction ends it; the schema in place is the old one, and the older version reads it."""
    assert update(appliance, V2, schema=2) == V2
    with pytest.raises(RuntimeError):
        _migrate_and_fail(appliance)
    assert appliance.services.schema() in (1, 2)
    appliance.services.rows()
    holds(appliance, report, "one transaction: the old schema is whole, and the next start tries again")


def _migrate_and_fail(appliance: Appliance) -> None:
    with opened(appliance.device.root / AGENT) as database:
        database.execute("BEGIN IMMEDIATE")
        database.execute("ALTER TABLE rows ADD COLUMN half TEXT")
        raise RuntimeError("the power is gone, or the code is wrong")


@fault(60)
def test_a_database_migration_takes_longer_than_the_gate(appliance: Appliance, report: Report) -> None:
    """There is none while the gate judges: the schema is the old one all through the trial."""
    appliance.shelf.put(V2)
    appliance.services.knows[V2] = 2
    appliance.run()
    assert boot(appliance.device, healthy=set(), limit=1) is None
    appliance.restore()
    appliance.services.start()
    assert appliance.services.schema() == 1
    appliance.good.add(V2)
    assert appliance.power_on() == V2
    appliance.services.start()
    assert appliance.services.schema() == 2
    holds(appliance, report, "migrations wait until the version has proved itself")


@fault(61)
def test_fallback_to_a_version_with_an_older_schema(appliance: Appliance, report: Report) -> None:
    """Committed, migrated, and then left: the older version finds the databases it knows, and no evidence is lost."""
    assert update(appliance, V2, schema=2) == V2
    appliance.services.start()
    assert appliance.services.schema() == 2
    epoch = appliance.settle().store.record.security_epoch
    for _ in range(6):
        appliance.look(crashing=True)
    appliance.good.discard(V2)
    assert appliance.power_on() == V1
    assert appliance.services.schema() == 1
    assert appliance.settle().store.record.security_epoch == epoch
    holds(appliance, report, "its snapshot comes back, the newer one is kept beside it; the epoch is not raised")


@fault(62)
@pytest.mark.parametrize("unit", ["local-portal.service", "network-scanner.service"])
def test_portal_or_scanner_dead_agent_well(
    appliance: Appliance, report: Report, unit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate's unit check with a `systemctl` that tells of one dead unit: condemned, early and with its name."""
    units = ("compliance-agent.service", "network-scanner.service", "local-portal.service")
    blocks = []
    for name in units:
        state = "failed\nSubState=failed\nNRestarts=5\nResult=start-limit-hit" if name == unit else (
            "active\nSubState=running\nNRestarts=0\nResult=success"
        )  # fmt: skip
        blocks.append(f"Id={name}\nLoadState=loaded\nActiveState={state}")
    text = "\n\n".join(blocks).replace("\n", "\\n")
    program = tmp_path / "systemctl"
    program.write_text(f"#!/bin/sh\nprintf '{text}\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    checks = {"units": registry()["units"]}
    verdict = judge(Config(gate=Gate(deadline=600.0, units=units)), appliance.device.host, checks, pause=_never)
    assert not verdict.passed
    assert unit in verdict.reason
    monkeypatch.undo()
    assert update(appliance, V2, good=False) == V1
    holds(appliance, report, "condemned at once, with the unit's name")


def _never(_seconds: float) -> None:
    raise AssertionError("the gate waits for what cannot mend itself")


@fault(63)
def test_a_clean_up_while_the_version_is_on_trial(appliance: Appliance, report: Report) -> None:
    """An image has nothing to collect; what runs beside it is the updater itself, which keeps still during a trial."""
    appliance.shelf.put(V2)
    appliance.run()
    assert boot(appliance.device, healthy=set(), limit=1) is None
    before = appliance.device.ukis()
    appliance.shelf.put(V3)
    appliance.run()
    assert appliance.device.ukis() == before
    assert appliance.power_on() == V1
    holds(appliance, report, "nothing is written or removed before the trial has its end")
