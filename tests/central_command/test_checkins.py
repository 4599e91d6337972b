"""Once a minute a device says how it is; the server's clock and the device's key decide what is believed."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import msgspec
import pytest
import sqlalchemy as sa

from appliance_protocol import device_api
from appliance_protocol.device_api import QueueStatus, UpdateStatus
from appliance_protocol.envelope import PayloadType, seal
from appliance_protocol.inventory import ScanSummary
from appliance_protocol.keys import PrivateKey
from appliance_protocol.verdict import Score
from central_command import fleet
from central_command.audit import Actor
from central_command.settings import Settings
from central_command.tables import devices, incidents, sites
from tests.central_command.rig import Central, DeviceClient, Refused, do


def row_of(device: DeviceClient) -> dict[str, object]:
    return dict(device.central.query(sa.select(devices).where(devices.c.id == device.device_id))[0])


def incidents_of(device: DeviceClient) -> dict[str, int]:
    rows = device.central.query(sa.select(incidents).where(incidents.c.device_id == device.device_id))
    return {row["kind"]: row["times"] for row in rows}


def test_what_the_device_says_is_what_the_fleet_shows(central: Central) -> None:
    device = central.device()
    scan = ScanSummary("scan1", 1.0, 2.0, "10.77.0.0/24", 9, 4000, counts={"printer": 2})
    device.check_in(
        score=Score(12, 16), queue=QueueStatus(7, 100.0), slot="b", scan=scan,
        update=UpdateStatus("downloading", "2026.11.2", "40 %", "2026.11.1"),
    )
    row = row_of(device)
    assert (row["conforming"], row["counted"], row["queue_pending"], row["slot"]) == (12, 16, 7, "b")
    assert (row["update_state"], row["update_version"]) == ("downloading", "2026.11.2")
    assert '"10.77.0.0/24"' in str(row["report"])


def test_a_replayed_checkin_is_refused_and_remembered(central: Central) -> None:
    device = central.device()
    body = seal(device.checkin_payload(), PayloadType.CHECKIN, device.key).to_bytes()
    assert device.post(device_api.CHECKIN, body).status_code == 200
    central.change(sa.update(devices).where(devices.c.id == device.device_id).values(last_seen_at=time.time() - 600))
    again = device.post(device_api.CHECKIN, body)
    assert again.status_code == 409 and again.json()["last_number"] == 1
    assert incidents_of(device) == {"replayed-checkin": 1}
    assert time.time() - float(str(row_of(device)["last_seen_at"])) > 500, "a replay is no sign of life"
    assert device.check_in().answers == 2


def test_a_request_repeated_because_its_reply_was_lost_is_refused_without_raising_an_alarm(central: Central) -> None:
    device = central.device()
    body = seal(device.checkin_payload(), PayloadType.CHECKIN, device.key).to_bytes()
    assert [device.post(device_api.CHECKIN, body).status_code for _ in range(2)] == [200, 409]
    assert incidents_of(device) == {}


def test_an_older_checkin_that_was_held_back_is_refused(central: Central) -> None:
    device = central.device()
    held = seal(device.checkin_payload(hostname="old"), PayloadType.CHECKIN, device.key).to_bytes()
    device.check_in()
    assert device.post(device_api.CHECKIN, held).status_code == 409
    assert row_of(device)["hostname"] == "t640-front" and incidents_of(device) == {"replayed-checkin": 1}


def test_one_checkin_sent_many_times_at_once_is_taken_once(central: Central) -> None:
    device = central.device()
    body = seal(device.checkin_payload(), PayloadType.CHECKIN, device.key).to_bytes()
    codes: list[int] = []

    def send() -> None:
        twin = DeviceClient(central, key=device.key)
        codes.append(twin.post(device_api.CHECKIN, body).status_code)

    threads = [threading.Thread(target=send) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == [200] + [409] * 9


def test_many_devices_at_once_each_get_their_own_answer(central: Central) -> None:
    fleet_of_20 = [central.device(hostname=f"t640-{number}") for number in range(20)]
    errors: list[BaseException] = []

    def work(device: DeviceClient) -> None:
        try:
            for _ in range(5):
                device.check_in()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(device,)) for device in fleet_of_20]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert all(row_of(device)["last_number"] == 5 for device in fleet_of_20)


def test_a_checkin_signed_by_another_key_is_refused_and_noted(central: Central) -> None:
    device = central.device()
    forged = seal(device.checkin_payload(), PayloadType.CHECKIN, PrivateKey.generate()).to_bytes()
    assert device.post(device_api.CHECKIN, forged).status_code == 401
    assert row_of(device)["last_number"] == 0
    assert incidents_of(device) == {"bad-signature": 1}
    device.post(device_api.CHECKIN, forged)
    assert incidents_of(device) == {"bad-signature": 1}, "a stranger may not write to the database at will"


def test_one_device_cannot_speak_for_another(central: Central) -> None:
    device, other = central.device(), central.device()
    said = replace(device.checkin_payload(), device_id=other.device_id)
    body = seal(said, PayloadType.CHECKIN, device.key).to_bytes()
    assert device.post(device_api.CHECKIN, body).status_code == 401
    assert row_of(other)["last_number"] == 0


def test_an_unknown_device_is_told_so_without_losing_anything(central: Central) -> None:
    stranger = DeviceClient(central, device_id="dev_unknown")
    answer = stranger.post(
        device_api.CHECKIN, seal(stranger.checkin_payload(), PayloadType.CHECKIN, stranger.key).to_bytes()
    )
    assert answer.status_code == 401 and "Keep what you have" in answer.json()["detail"]


def test_a_retired_device_is_refused(central: Central) -> None:
    device = central.device()
    device.check_in()

    async def retire() -> None:
        async with central.database() as database, database.write() as connection:
            await fleet.retire(connection, Actor("tester"), device.device_id)

    do(retire())
    with pytest.raises(Refused) as refused:
        device.check_in()
    assert refused.value.status == 403


def test_the_servers_clock_decides_who_is_alive_and_the_skew_is_shown(central: Central) -> None:
    device = central.device()
    device.skew = -1e9
    device.check_in()
    row = row_of(device)
    assert abs(float(str(row["last_seen_at"])) - time.time()) < 60
    assert abs(float(str(row["clock_skew"])) + 1e9) < 60


@pytest.mark.parametrize("silent, expected", [(None, "never"), (179, "online"), (181, "late"), (901, "offline")])
def test_liveness_by_seconds_of_silence(silent: float | None, expected: str) -> None:
    now = 1e9
    assert fleet.liveness("active", None if silent is None else now - silent, now, 60) == expected


def test_the_database_counts_liveness_as_the_code_does(central: Central) -> None:
    for silent in (None, 0, 100, 400, 5000):
        device = central.device()
        seen = None if silent is None else time.time() - silent
        central.change(sa.update(devices).where(devices.c.id == device.device_id).values(last_seen_at=seen))

    async def work() -> tuple[dict[str, int], list[fleet.DeviceView]]:
        async with central.database() as database, database.read() as connection:
            settings = Settings()
            return await fleet.counts(connection, settings), await fleet.every(connection, settings, limit=10**6)

    counts, views = do(work())
    for state in ("never", "online", "late", "offline"):
        assert counts[state] == sum(view.liveness == state for view in views) > 0


def test_the_assigned_release_of_the_site_is_told_unless_the_device_has_one(central: Central) -> None:
    device = central.device()
    site_id = row_of(device)["site_id"]
    central.change(sa.update(sites).where(sites.c.id == site_id).values(assigned_version="2026.11.7"))
    assert device.check_in().assigned_version == "2026.11.7"
    central.change(sa.update(devices).where(devices.c.id == device.device_id).values(assigned_version="2026.12.1"))
    assert device.check_in().assigned_version == "2026.12.1"


def test_the_reply_carries_the_evidence_head_the_server_has(central: Central) -> None:
    device = central.device()
    device.upload(device.bundle(), device.bundle())
    assert device.check_in().evidence_head == device.head


@pytest.mark.parametrize("news", [
    {"number": 0}, {"number": 2**53}, {"number": -5}, {"score": Score(3, 2)}, {"queue": QueueStatus(2**63)},
])
def test_numbers_a_database_cannot_keep_are_refused(central: Central, news: dict[str, object]) -> None:
    device = central.device()
    body = msgspec.json.encode(device.checkin_payload(**news))
    answer = device.post(device_api.CHECKIN, device.sealed(PayloadType.CHECKIN, body))
    assert answer.status_code == 422 and answer.headers["content-type"] == "application/problem+json"


def test_hostile_text_is_stored_without_what_could_harm_a_screen(central: Central) -> None:
    device = central.device()
    device.check_in(hostname="a\x00b\x1b[31m\u202e<script>" + "x" * 5000, slot="\x07a")
    row = row_of(device)
    name = str(row["hostname"])
    assert "\x00" not in name and "\x1b" not in name and "\u202e" not in name and len(name) <= 120
    assert row["slot"] == "a"


def test_a_device_that_asks_too_often_is_told_to_wait(strict_central: Central) -> None:
    device = strict_central.device()
    for _ in range(3):
        device.check_in()
    body = seal(device.checkin_payload(), PayloadType.CHECKIN, device.key).to_bytes()
    answer = device.post(device_api.CHECKIN, body)
    assert answer.status_code == 429 and int(answer.headers["retry-after"]) > 0
