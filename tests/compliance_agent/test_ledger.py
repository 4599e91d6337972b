"""Evidence survives what happens to appliances: kill -9, full disks, torn files, clocks, servers that forget."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import os
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance_protocol.clock import ClockReading, ClockState
from appliance_protocol.envelope import Envelope
from appliance_protocol.evidence import ChainHead, EvidenceBundle, EvidenceCause, Release
from appliance_protocol.keys import PrivateKey
from appliance_protocol.wire import decode
from compliance_agent.database import StoreError, StoreFull
from compliance_agent.evidence_writer import sign, sign_again
from compliance_agent.identity import Enrolment, Identity
from compliance_agent.ledger import Ledger, Sealed
from compliance_agent.verifying import Judgement, verify
from tests.compliance_agent.central_peer import DEVICE

ROOT = Path(__file__).parents[2]
KEY = PrivateKey.generate()


def draft(text: str = "") -> EvidenceBundle:
    clock = ClockReading(1_790_000_000.0, 10.0, "boot", ClockState.SYNCHRONISED)
    release = Release("t640", "2026.11.0")
    return EvidenceBundle(DEVICE, 0, "", EvidenceCause.CHANGE, clock, release, text, "policy", "PT1H", ())


def seal_onto(text: str = "") -> object:
    def seal(head: ChainHead) -> Sealed:
        return sign(dataclasses.replace(draft(text), sequence=head.sequence + 1, previous=head.digest), KEY)

    return seal


def filled(path: Path, count: int) -> Ledger:
    ledger = Ledger(path)
    for _ in range(count):
        ledger.append(DEVICE, seal_onto())  # type: ignore[arg-type]
    return ledger


def judged(ledger: Ledger, first: int = 1) -> Judgement:
    outcome = verify(ledger.envelopes(DEVICE), DEVICE, KEY.public, ledger.adopted(DEVICE), first)
    return outcome.judgement


def sequences(envelopes: list[Envelope]) -> list[int]:
    return [decode(envelope.payload_bytes, EvidenceBundle).sequence for envelope in envelopes]


def test_bundles_are_numbered_from_one_and_each_names_the_one_before(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "evidence.db", 3)
    assert sequences(list(ledger.envelopes(DEVICE))) == [1, 2, 3]
    assert judged(ledger) is Judgement.OK


def test_the_database_itself_refuses_to_rewrite_a_bundle(tmp_path: Path) -> None:
    filled(tmp_path / "evidence.db", 1).database.close()
    connection = sqlite3.connect(tmp_path / "evidence.db")
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute("UPDATE evidence SET envelope = x'00'")


def test_pruning_takes_only_what_was_sent_long_ago_and_never_the_newest(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "evidence.db", 5)
    ledger.mark_sent(DEVICE, 3, at=100.0)
    assert ledger.prune(DEVICE, sent_before=101.0) == 3
    assert sequences(list(ledger.envelopes(DEVICE))) == [4, 5]
    ledger.mark_sent(DEVICE, 5, at=100.0)
    ledger.prune(DEVICE, sent_before=101.0)
    assert sequences(list(ledger.envelopes(DEVICE))) == [5]
    assert ledger.append(DEVICE, seal_onto()).sequence == 6  # type: ignore[arg-type]
    assert judged(ledger, first=5) is Judgement.OK


def test_an_upload_stays_small_but_never_empty(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "evidence.db")
    for _ in range(3):
        ledger.append(DEVICE, seal_onto("x" * 700_000))  # type: ignore[arg-type]
    assert sequences(ledger.unsent(DEVICE, 0, 50)) == [1]
    assert sequences(ledger.unsent(DEVICE, 2, 50)) == [3]


@settings(max_examples=20, deadline=None)
@given(sent=st.integers(0, 4), server=st.integers(0, 9), written=st.integers(0, 5))
def test_a_ledger_set_back_continues_the_servers_chain_with_everything_unsent(
    tmp_path_factory: pytest.TempPathFactory, sent: int, server: int, written: int
) -> None:
    ledger = filled(tmp_path_factory.mktemp("ledger") / "evidence.db", sent + written)
    ledger.mark_sent(DEVICE, sent, at=1.0)
    head = ChainHead(sent + server, "a" * 64)
    moved = ledger.rebase(DEVICE, head, lambda bundle, onto: sign_again(bundle, onto, KEY), at=2.0)
    assert moved >= written
    after = [s for s in sequences(list(ledger.envelopes(DEVICE))) if s > head.sequence]
    assert after == list(range(head.sequence + 1, head.sequence + 1 + moved))
    assert ledger.head(DEVICE).sequence == head.sequence + moved
    first = next(iter(ledger.envelopes(DEVICE, head.sequence + 1)), None)
    if first is not None:
        assert decode(first.payload_bytes, EvidenceBundle).previous == head.digest


def test_a_damaged_ledger_is_put_aside_and_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "evidence.db"
    path.write_bytes(b"this is no database" * 300)
    ledger = filled(path, 1)
    assert judged(ledger) is Judgement.OK
    assert ledger.database.set_aside is not None
    assert (tmp_path / "evidence.db.damaged").read_bytes().startswith(b"this is no database")


def test_check_in_numbers_only_grow(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "evidence.db")
    floors = [0, 0, 50, 3, 1_790_000_000, 7]
    numbers = [ledger.next_number("checkin", floor) for floor in floors]
    ledger.database.close()
    numbers.append(Ledger(tmp_path / "evidence.db").next_number("checkin", 0))
    assert numbers == sorted(set(numbers))


def test_kill_nine_in_the_middle_of_writing_loses_no_acknowledged_bundle(tmp_path: Path) -> None:
    for name in ("state", "runtime"):
        (tmp_path / name).mkdir()
    identity = Identity(tmp_path / "state")
    key = identity.key()
    enrolment = Enrolment(DEVICE, "site", "Site", "https://127.0.0.1:1", (KEY.public.text,), 0.0)
    identity.save(enrolment, "")
    acknowledged: dict[int, str] = {}
    for _ in range(5):
        command = [sys.executable, "-m", "tests.compliance_agent.hasty_agent", str(tmp_path)]
        environment = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout is not None
        wanted = len(acknowledged) + random.randint(1, 40)
        for line in process.stdout:
            sequence, digest = line.split()
            acknowledged[int(sequence)] = digest
            if len(acknowledged) >= wanted:
                break
        process.send_signal(signal.SIGKILL)
        for line in process.stdout.read().splitlines():
            if len(line.split()) == 2 and len(line.split()[1]) == 64:
                acknowledged[int(line.split()[0])] = line.split()[1]
        process.wait()
    ledger = Ledger(tmp_path / "state/evidence.db")
    outcome = verify(ledger.envelopes(DEVICE), DEVICE, key.public)
    assert outcome.judgement is Judgement.OK
    for sequence, digest in acknowledged.items():
        assert ledger.digest_at(DEVICE, sequence) == digest


def test_a_full_disk_refuses_new_bundles_keeps_the_old_and_recovers(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"\0" * 500_000)
    ledger = Ledger(small_disk / "evidence.db")
    written = 0
    with pytest.raises(StoreFull, match="the state disk is full"):
        while True:
            ledger.append(DEVICE, seal_onto("x" * 20_000))  # type: ignore[arg-type]
            written += 1
    assert written > 0
    assert judged(ledger) is Judgement.OK
    assert ledger.head(DEVICE).sequence == written
    assert len(ledger.unsent(DEVICE, 0, 50)) == written  # what is there can still be sent
    with pytest.raises(StoreFull):
        ledger.append(DEVICE, seal_onto("x" * 20_000))  # type: ignore[arg-type]
    ballast.unlink()
    assert ledger.append(DEVICE, seal_onto("x" * 20_000)).sequence == written + 1  # type: ignore[arg-type]
    assert judged(ledger) is Judgement.OK


def test_a_start_with_a_full_disk_is_told_and_recovers(small_disk: Path) -> None:
    filled(small_disk / "evidence.db", 2).database.close()
    ballast = small_disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(b"\0" * 4096):
            pass
    ledger = Ledger(small_disk / "evidence.db")
    with pytest.raises(StoreError, match="full"):
        ledger.append(DEVICE, seal_onto())  # type: ignore[arg-type]
    ballast.unlink()
    assert ledger.append(DEVICE, seal_onto()).sequence == 3  # type: ignore[arg-type]
    assert judged(ledger) is Judgement.OK


def test_a_disk_that_cannot_be_read_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "evidence.db").mkdir()
    with pytest.raises(StoreError, match=r"evidence\.db: unable to open database file"):
        Ledger(tmp_path / "evidence.db").head(DEVICE)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_changed_bit_is_found(data: st.DataObject) -> None:
    head, envelopes = ChainHead(), []
    for _ in range(3):
        sealed = seal_onto()(head)  # type: ignore[operator]
        head = ChainHead(sealed.bundle.sequence, sealed.digest)
        envelopes.append(sealed.envelope)
    victim = data.draw(st.integers(0, 2))
    raw = bytearray(envelopes[victim].payload_bytes)
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    forged = dataclasses.replace(envelopes[victim], payload=base64.b64encode(bytes(raw)).decode())
    envelopes[victim] = forged
    assert verify(envelopes, DEVICE, KEY.public).judgement is Judgement.TAMPERED


@pytest.mark.parametrize(
    ("order", "judgement"),
    [
        ([0, 1, 2, 3], Judgement.OK),
        ([0, 2, 3], Judgement.INCOMPLETE),
        ([1, 2, 3], Judgement.INCOMPLETE),
        ([0, 1, 1, 2], Judgement.INCOMPLETE),
        ([0, 2, 1, 3], Judgement.TAMPERED),
        ([], Judgement.UNVERIFIABLE),
    ],
)
def test_dropped_doubled_and_reordered_bundles_are_told_apart(order: list[int], judgement: Judgement) -> None:
    head, envelopes = ChainHead(), []
    for _ in range(4):
        sealed = seal_onto()(head)  # type: ignore[operator]
        head = ChainHead(sealed.bundle.sequence, sealed.digest)
        envelopes.append(sealed.envelope)
    assert verify([envelopes[index] for index in order], DEVICE, KEY.public).judgement is judgement


def test_evidence_of_another_key_is_tampering(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "evidence.db", 2)
    assert verify(ledger.envelopes(DEVICE), DEVICE, PrivateKey.generate().public).judgement is Judgement.TAMPERED


def test_a_ledger_whose_evidence_is_missing_is_no_empty_one_and_makes_up_none(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "evidence.db", 1)
    with ledger.database.transaction() as database:
        database.execute("DROP TABLE evidence")
    for use in (lambda: ledger.entries(DEVICE), lambda: ledger.append(DEVICE, seal_onto())):  # type: ignore[arg-type]
        with pytest.raises(StoreError, match="no such table: evidence"):
            use()
