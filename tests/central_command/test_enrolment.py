"""A device joins once, with one code, whatever the network does to the messages."""

from __future__ import annotations

import base64
import threading
from dataclasses import replace

import pytest
import sqlalchemy as sa

from appliance_protocol import device_api
from appliance_protocol.envelope import PayloadType, seal
from appliance_protocol.keys import PrivateKey
from central_command.tables import audit, devices, enrolment_codes
from tests.central_command.conftest import STRICT, MakeCentral
from tests.central_command.rig import Central, DeviceClient, Refused


def test_a_device_enrols_and_checks_in(central: Central) -> None:
    device = DeviceClient(central, macs=("AA-BB-CC-00-11-22", "aabb.cc00.1122", "nonsense"))
    reply = device.enrol(central.new_code())
    assert reply.site_name.startswith("Clinic") and reply.checkin_interval == 60
    assert device.check_in().answers == 1
    row = central.query(sa.select(devices).where(devices.c.id == device.device_id))[0]
    assert row["mac_addresses"] == '["aa:bb:cc:00:11:22"]'
    assert row["last_number"] == 1 and row["version"] == "2026.11.1"


def test_a_code_may_be_typed_in_any_of_the_ways_people_type(central: Central) -> None:
    code = central.new_code().lower().replace("-", " ").replace("0", "o").replace("1", "l")
    assert DeviceClient(central).enrol(code).device_id


def test_a_code_enrols_one_device_only(central: Central) -> None:
    code = central.new_code()
    DeviceClient(central).enrol(code)
    with pytest.raises(Refused) as refused:
        DeviceClient(central).enrol(code)
    assert refused.value.status == 403
    assert refused.value.content_type == "application/problem+json"


def test_two_devices_racing_for_one_code_get_one_enrolment(central: Central) -> None:
    code = central.new_code()
    racers = [DeviceClient(central) for _ in range(8)]
    won: list[str] = []
    refused: list[int] = []
    gate = threading.Barrier(len(racers))

    def race(device: DeviceClient) -> None:
        gate.wait()
        try:
            won.append(device.enrol(code).device_id)
        except Refused as error:
            refused.append(error.status)

    threads = [threading.Thread(target=race, args=(device,)) for device in racers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and refused == [403] * 7


def test_a_lost_reply_costs_nothing_the_same_key_and_code_get_the_same_answer(central: Central) -> None:
    device, code = DeviceClient(central), central.new_code()
    first = device.enrol(code)
    again = device.enrol(code)
    assert (again.device_id, again.site_id) == (first.device_id, first.site_id)
    count = sa.select(sa.func.count().label("n")).where(devices.c.public_key == device.key.public.text)
    assert central.query(count)[0]["n"] == 1


def test_the_same_key_asking_many_times_at_once_becomes_one_device(central: Central) -> None:
    device, code = DeviceClient(central), central.new_code()
    ids: set[str] = set()
    threads = [
        threading.Thread(target=lambda: ids.add(DeviceClient(central, key=device.key).enrol(code).device_id))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 1


def test_a_known_device_with_a_fresh_code_moves_and_keeps_its_id_and_evidence(central: Central) -> None:
    device = central.device()
    device.upload(device.bundle())
    before = device.device_id
    reply = device.enrol(central.new_code())
    assert reply.device_id == before
    assert device.check_in().evidence_head.sequence == 1
    row = central.query(sa.select(devices).where(devices.c.id == before))[0]
    assert row["site_id"] == reply.site_id


def test_an_expired_code_is_refused(central: Central) -> None:
    with pytest.raises(Refused) as refused:
        DeviceClient(central).enrol(central.new_code(lifetime=-1))
    assert refused.value.status == 403


def test_a_request_not_signed_by_the_key_it_names_is_refused_and_leaves_the_code_unused(central: Central) -> None:
    code, device = central.new_code(), DeviceClient(central)
    forged = seal(device.request(code), PayloadType.ENROLMENT, PrivateKey.generate())
    assert device.post(device_api.ENROL, forged.to_bytes()).status_code == 400
    assert device.enrol(code).device_id


def test_another_message_signed_by_the_device_does_not_pass_for_an_enrolment(central: Central) -> None:
    device, code = DeviceClient(central), central.new_code()
    other = seal(device.request(code), PayloadType.CHECKIN, device.key)
    assert device.post(device_api.ENROL, other.to_bytes()).status_code == 400


def test_the_code_is_not_kept_in_the_database(central: Central) -> None:
    code = central.new_code()
    rows = central.query(sa.select(enrolment_codes))
    bare = code.replace("-", "")
    assert all(bare not in str(value) and code not in str(value) for row in rows for value in row.values())


def test_the_enrolment_is_in_the_audit_log(central: Central) -> None:
    device = central.device()
    entry = central.query(sa.select(audit).where(audit.c.target == device.device_id))[0]
    assert entry["action"] == "device.enrol" and entry["actor"] == f"device:{device.device_id}"


def test_a_key_written_in_another_base64_spelling_is_the_same_key(central: Central) -> None:
    device, code = DeviceClient(central), central.new_code()
    first = device.enrol(code)
    text = device.key.public.text
    # 32 bytes leave two unused bits in the last character: three other letters decode to the same key.
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    twin = text[:-2] + alphabet[alphabet.index(text[-2]) ^ 1] + "="
    request = replace(device.request(code), public_key=twin)
    reply = device.post(device_api.ENROL, seal(request, PayloadType.ENROLMENT, device.key).to_bytes())
    assert reply.status_code == 200 and first.device_id.encode() in base64.b64decode(
        reply.json()["payload"]
    )


def test_guessing_codes_is_stopped_after_a_few_tries(make_central: MakeCentral) -> None:
    strict = make_central("sqlite", STRICT).start()
    device = DeviceClient(strict)
    seen = []
    for _ in range(5):
        with pytest.raises(Refused) as refused:
            device.enrol("0000-0000-0000-0000")
        seen.append(refused.value.status)
    assert seen == [403, 403, 403, 429, 429]
    with pytest.raises(Refused):
        device.enrol(strict.new_code())
    strict.stop()
