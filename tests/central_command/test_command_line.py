"""What an administrator types, and what comes back: sentences, JSON, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa

from central_command.tables import audit
from tests.central_command.conftest import MakeCentral
from tests.central_command.rig import PASSWORD, Central, DeviceClient, Person


@pytest.mark.exhaustive
def test_from_an_empty_machine_to_an_enrolled_device_by_commands_alone(make_central: MakeCentral) -> None:
    central = make_central("sqlite")
    assert central.cli("migrate").stdout == "database schema: 0001, nothing to do\n"
    made = central.cli("user", "create", "maria", "--role", "admin", stdin=f"{PASSWORD}\n")
    assert made.returncode == 0 and "can log in" in made.stdout
    assert central.cli("site", "create", "Clinic North").returncode == 0
    code = json.loads(central.cli("enrolment-code", "create", "--site", "Clinic North", "--json").stdout)["code"]
    central.start()
    assert Person(central, None).log_in("maria", PASSWORD).status_code == 303
    device = DeviceClient(central)
    device.enrol(code)
    device.check_in()
    listed = json.loads(central.cli("device", "list", "--json").stdout)
    assert [(view["id"], view["liveness"], view["site_name"]) for view in listed] == [
        (device.device_id, "online", "Clinic North")
    ]
    made = central.cli("order", "create", device.device_id, "run_checks", "--json")
    order, = device.orders(device.check_in())
    assert json.loads(made.stdout)["id"] == order.order_id
    assert json.loads(central.cli("device", "show", device.device_id, "--json").stdout)["orders"][0]["attempts"] == 1
    actions = {row["action"] for row in central.query(sa.select(audit))}
    assert {"user.create", "site.create", "enrolment-code.create", "order.run_checks"} <= actions
    central.stop()


def test_evidence_is_exported_and_verified_without_the_database(central: Central, tmp_path: Path) -> None:
    device = central.device()
    device.upload(*[device.bundle() for _ in range(4)])
    path = tmp_path / "chain.jsonl"
    assert central.cli_here("evidence", "verify", device.device_id).exit_code == 0
    assert central.cli_here("evidence", "export", device.device_id, "-o", str(path)).exit_code == 0
    whole = path.read_text().splitlines()
    expected = {
        0: whole, 1: [*whole[:2], whole[2].replace('"payload":"ey', '"payload":"eX'), *whole[3:]],
        2: [*whole[:2], *whole[3:]], 3: ["nonsense"],
    }
    for code, lines in expected.items():
        path.write_text("\n".join(lines) + "\n")
        tried = central.cli_here("evidence", "verify", "--file", str(path))
        assert tried.exit_code == code, (code, tried.output)
    path.write_text("\n".join(whole[:-1]) + "\n")
    assert central.cli_here("evidence", "verify", "--file", str(path)).exit_code == 2, "a cut-off tail is incomplete"


@pytest.mark.parametrize("arguments, code, word", [
    (["site", "create", ""], 1, "needs a name"), (["device", "show", "dev_none"], 1, "no device"),
    (["order", "create", "dev_none", "run_checks"], 1, "no device"), (["order", "create", "x", "reboot"], 2, "reboot"),
    (["enrolment-code", "create", "--site", "nowhere"], 1, "site list"), (["user", "unlock", "nobody"], 1, "no user"),
    (["evidence", "verify", "dev_none"], 3, ""), (["evidence", "verify"], 2, "name a device"),
])
def test_what_cannot_be_done_is_a_sentence_and_an_exit_code(
    sqlite_central: Central, arguments: list[str], code: int, word: str
) -> None:
    tried = sqlite_central.cli_here(*arguments)
    assert tried.exit_code == code and word in tried.output and isinstance(tried.exception, SystemExit)


def test_an_unreachable_or_unknown_database_is_exit_code_3_and_shows_no_password(make_central: MakeCentral) -> None:
    central = make_central("sqlite")
    for url in ("postgresql://me:secret@127.0.0.1:1/central", "mysql://me:secret@h/x", "not a url secret"):
        central.database_url = url
        tried = central.cli_here("device", "list")
        assert tried.exit_code == 3 and "secret" not in tried.output and isinstance(tried.exception, SystemExit)
