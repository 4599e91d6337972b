"""The gate, the rehearsal and their last resorts under the image's own systemd, in seconds: images as containers.

The same faults with loader, counter and slots are in test_pilot_replay.py. Here the slots are left out of the gate,
because a container has none, and a reboot is the container's end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import pytest

from t640 import releases, variants
from t640.container import Container
from t640.errors import Missing
from t640.image import build
from tests.faults.marks import fault
from tests.faults.outcome import Report, Stage
from tests.integration.conftest import VERSION, versions

pytestmark = pytest.mark.vm

PATIENCE = 300.0


def files(**changes: str) -> Mapping[str, str]:
    """The gate's configuration for a host without slots, with time enough on a busy machine."""
    text = releases.recipe(VERSION).files[releases.CONFIG_FILE]
    lines = [line for line in text.splitlines() if not line.startswith("deadline")]
    at = lines.index("[gate]") + 1
    patient = [*lines[:at], "slots = false", "deadline = 240.0", *lines[at:]]
    return {releases.CONFIG_FILE: "\n".join(patient) + "\n", **changes}


def container(version: str, variant: str = "good", *, counter: str = "+2-1") -> Container:
    image = build(releases.recipe(version, variant))
    try:
        return Container(image, files(), counter=counter)
    except Missing as error:
        pytest.skip(str(error))


@pytest.fixture
def good() -> Iterator[Container]:
    with container(VERSION) as machine:
        machine.wait_until_succeeds("systemctl is-active multi-user.target", PATIENCE)
        yield machine


def test_a_good_image_passes_its_gate_rehearsal_included(good: Container) -> None:
    good.succeed("systemctl start boot-health.service", PATIENCE)
    verdict = json.loads(good.succeed("cat /run/appliance-update/gate.json"))
    print(f"the gate took {verdict['seconds']} s")
    assert (verdict["passed"], verdict["counted"], verdict["failures"]) == (True, True, {})
    report = json.loads(good.succeed("cat /run/appliance-update/rehearsal.json"))
    assert report["passed"], report
    assert "compliance-agent-rehearse.service" in [stage["name"] for stage in report["stages"]]


def test_the_rehearsal_leaves_request_box_evidence_and_the_running_agent_alone(good: Container) -> None:
    main = good.succeed("systemctl show -P MainPID compliance-agent.service")
    good.succeed("systemctl start appliance-update-rehearse.service", PATIENCE)
    assert good.succeed("ls /run/appliance-update/requests").strip() == ""
    assert good.succeed("systemctl show -P MainPID compliance-agent.service") == main
    good.succeed("test -S /run/compliance-agent/api.sock")
    good.succeed("test ! -e /var/lib/appliance-update/rehearsal")
    good.succeed("test -e /var/lib/appliance-update/last-contact")


@pytest.mark.parametrize(
    ("variant", "said"),
    [
        pytest.param("pilot-agent", "mcp_api_key_file", marks=fault(53)),
        pytest.param("missing-key", "update_channel", marks=fault(56)),
        pytest.param("blind-updater", "unknown fields", marks=fault(54)),
        pytest.param("bad-health", "local-portal.service", marks=fault(62)),
        pytest.param("no-python", "is not good; rebooting", marks=fault(54)),
    ],
)
def test_a_bad_release_ends_its_boot_and_says_why_on_the_console(variant: str, said: str, report: Report) -> None:
    report.stage = Stage.CONTAINER
    report.outcome = f"{variants.get(variant).title}: its boot ends by itself, with the reason on the console"
    with container(versions()[1], variant) as machine:
        machine.wait_until_succeeds("systemctl is-active multi-user.target", PATIENCE)
        machine.execute("systemctl start --no-block boot-health.service")
        machine.wait_until_ended(PATIENCE)
        console = machine.console()
    assert said in console, console[-2000:]
    assert "boot-health-reboot:" in console


def test_with_nothing_better_to_boot_a_release_without_python_stays_up_and_calls_the_lifeline() -> None:
    with container(versions()[1], "no-python", counter="+0-4") as machine:
        machine.wait_until_succeeds("systemctl is-active multi-user.target", PATIENCE)
        machine.execute("systemctl start --no-block boot-health.service")
        machine.wait_until_succeeds("test -s /var/lib/appliance-update/updater-broken", PATIENCE)
        assert not machine.ended


@fault(55)
def test_an_updater_that_stops_working_after_the_commit_calls_the_lifeline(good: Container) -> None:
    good.succeed("rm -f /run/appliance-update/trial; mv /usr/bin/appliance-update /usr/bin/gone")
    good.execute("systemctl start appliance-update-rehearse.service")
    good.wait_until_succeeds("test -s /var/lib/appliance-update/updater-broken", PATIENCE)
    good.succeed("mv /usr/bin/gone /usr/bin/appliance-update")
    good.succeed("systemctl start appliance-update-rehearse.service", PATIENCE)
    good.succeed("test ! -e /var/lib/appliance-update/updater-broken")
