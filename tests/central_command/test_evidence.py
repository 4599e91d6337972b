"""Evidence is taken once, in order, for ever; what does not fit is refused with a reason and remembered."""

from __future__ import annotations

import threading

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from appliance_protocol.clock import ClockReading, ClockState
from appliance_protocol.envelope import PayloadType, parse, peek, seal
from appliance_protocol.evidence import ChainHead, EvidenceBundle, verify_chain
from appliance_protocol.keys import PrivateKey
from central_command import verification
from central_command.tables import evidence
from tests.central_command.rig import Central, DeviceClient, Refused, check_result, do
from tests.central_command.test_checkins import incidents_of


def stored(device: DeviceClient) -> list[int]:
    query = sa.select(evidence.c.sequence).where(evidence.c.device_id == device.device_id).order_by(evidence.c.sequence)
    return [row["sequence"] for row in device.central.query(query)]


def verdict(device: DeviceClient) -> verification.Verification:
    async def work() -> verification.Verification:
        async with device.central.database() as database, database.read() as connection:
            return await verification.verify(connection, device.device_id)

    result: verification.Verification = do(work())
    return result


def test_bundles_are_stored_in_order_and_the_receipt_says_how_far(central: Central) -> None:
    device = central.device()
    receipt = device.upload(*[device.bundle() for _ in range(5)])
    assert (receipt.accepted, receipt.duplicates, receipt.refused) == (5, 0, ())
    assert receipt.head == device.head and stored(device) == [1, 2, 3, 4, 5]


def test_what_is_stored_is_byte_for_byte_what_was_signed(central: Central) -> None:
    device = central.device()
    bundles = [device.bundle() for _ in range(3)]
    device.upload(*bundles)
    query = sa.select(evidence.c.envelope).where(evidence.c.device_id == device.device_id)
    rows = central.query(query.order_by(evidence.c.sequence))
    assert [parse(row["envelope"].encode()) for row in rows] == bundles
    assert verify_chain(bundles, device.device_id, [device.key.public]).intact


def test_sending_again_is_harmless(central: Central) -> None:
    device = central.device()
    bundles = [device.bundle() for _ in range(3)]
    device.upload(*bundles)
    receipt = device.upload(*bundles, device.bundle())
    assert (receipt.accepted, receipt.duplicates, receipt.refused) == (1, 3, ())
    assert stored(device) == [1, 2, 3, 4] and incidents_of(device) == {}


def test_a_gap_is_refused_and_remembered_once_however_many_bundles_stand_behind_it(central: Central) -> None:
    device = central.device()
    device.upload(device.bundle())
    device.bundle()
    late = [device.bundle() for _ in range(4)]
    for _ in range(2):
        receipt = device.upload(*late)
        assert receipt.accepted == 0 and receipt.head.sequence == 1
        assert len(receipt.refused) == 4 and "gap" in receipt.refused[0]
    assert incidents_of(device) == {"evidence-gap": 2}


def test_what_stands_before_a_gap_is_kept(central: Central) -> None:
    device = central.device()
    first = device.bundle()
    device.bundle()
    receipt = device.upload(first, device.bundle())
    assert receipt.accepted == 1 and len(receipt.refused) == 1 and stored(device) == [1]


def test_a_rewritten_bundle_is_a_fork_and_the_first_one_stays(central: Central) -> None:
    device = central.device()
    first = device.bundle()
    device.upload(first)
    other = device.bundle(check_result(reason="something else"), head=ChainHead())
    receipt = device.upload(other)
    assert receipt.accepted == 0 and "fork" in receipt.refused[0]
    assert incidents_of(device) == {"evidence-fork": 1}
    row = central.query(sa.select(evidence).where(evidence.c.device_id == device.device_id))[0]
    assert parse(row["envelope"].encode()) == first


def test_a_bundle_that_names_another_predecessor_is_refused(central: Central) -> None:
    device = central.device()
    device.upload(device.bundle())
    receipt = device.upload(device.bundle(head=ChainHead(1, "f" * 64)))
    assert "broken-link" in receipt.refused[0] and incidents_of(device) == {"evidence-broken-link": 1}


def test_a_bundle_signed_by_another_key_is_refused(central: Central) -> None:
    device = central.device()
    bundle = parse(device.bundle(head=ChainHead()).to_bytes())
    forged = seal(peek(bundle, EvidenceBundle), PayloadType.EVIDENCE, PrivateKey.generate())
    receipt = device.upload(forged)
    assert "bad-signature" in receipt.refused[0] and incidents_of(device) == {"evidence-bad-signature": 1}


def test_another_devices_bundle_has_no_place_in_this_chain(central: Central) -> None:
    device = central.device()
    receipt = device.upload(device.bundle(head=ChainHead(), device_id="dev_somebody_else"))
    assert "wrong-device" in receipt.refused[0] and stored(device) == []


@pytest.mark.parametrize("sequence", [0, -1])
def test_bundles_are_numbered_from_one(central: Central, sequence: int) -> None:
    device = central.device()
    receipt = device.upload(device.bundle(head=ChainHead(), sequence=sequence))
    assert len(receipt.refused) == 1 and stored(device) == []


def test_more_bundles_than_an_upload_may_have_are_refused_as_a_whole(central: Central) -> None:
    device = central.device()
    with pytest.raises(Refused) as refused:
        device.upload(*[device.bundle() for _ in range(51)])
    assert refused.value.status == 422 and stored(device) == []


def test_concurrent_uploads_cannot_fork_the_stored_chain(central: Central) -> None:
    device = central.device()
    common = [device.bundle() for _ in range(4)]
    # Two different fifth bundles, as after a disk was restored from a backup: exactly one of them may be taken.
    rivals = [device.bundle(check_result(reason=f"branch {name}"), head=device.head) for name in "ab"]
    gate = threading.Barrier(8)
    receipts = []

    def send(number: int) -> None:
        twin = DeviceClient(central, key=device.key, device_id=device.device_id, server_key=device.server_key)
        gate.wait()
        receipts.append(twin.upload(*common, rivals[number % 2]))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(receipt.accepted for receipt in receipts) == 5
    assert {receipt.head for receipt in receipts} == {receipts[0].head}
    assert stored(device) == [1, 2, 3, 4, 5]
    assert verdict(device).outcome is verification.Outcome.OK
    assert incidents_of(device) == {"evidence-fork": 4}


@pytest.mark.parametrize("statement", [
    sa.update(evidence).values(digest="f" * 64), sa.delete(evidence),
])
def test_the_database_itself_refuses_to_change_or_delete_evidence(central: Central, statement: sa.Executable) -> None:
    device = central.device()
    device.upload(device.bundle())
    with pytest.raises(DBAPIError, match="insert-only"):
        central.change(statement)
    assert stored(device) == [1]


def test_evidence_with_the_clock_at_1970_is_taken_and_marked(central: Central) -> None:
    device = central.device()
    device.upload(device.bundle(clock=ClockReading(12.0, 5.0, "boot", ClockState.UNSYNCHRONISED)))
    row = central.query(sa.select(evidence).where(evidence.c.device_id == device.device_id))[0]
    assert (row["device_at"], row["clock_state"]) == (12.0, "unsynchronised")


def test_an_empty_chain_is_unverifiable_not_intact(central: Central) -> None:
    assert verdict(central.device()).outcome is verification.Outcome.UNVERIFIABLE
