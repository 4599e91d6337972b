"""The evidence chain: whatever is dropped, doubled, reordered or rewritten shows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance_protocol.envelope import Envelope, PayloadType, parse, seal
from appliance_protocol.evidence import (
    ChainError,
    ChainFault,
    ChainHead,
    EvidenceBundle,
    follow,
    open_bundle,
    verify_chain,
)
from appliance_protocol.verdict import Verdict
from appliance_protocol.wire import decode
from tests.appliance_protocol.builders import DEVICE, Signer, a_key

CORPUS = Path(__file__).parent / "corpus"
KEYS = [a_key("device").public]


def chain(length: int) -> list[Envelope]:
    signer = Signer()
    return [signer.write() for _ in range(length)]


def faults(envelopes: list[Envelope]) -> list[ChainFault]:
    return [finding.fault for finding in verify_chain(envelopes, DEVICE, KEYS).findings]


@given(st.integers(0, 12))
def test_an_untouched_chain_is_intact(length: int) -> None:
    report = verify_chain(chain(length), DEVICE, KEYS)
    assert report.intact
    assert (report.verified, report.head.sequence) == (length, length)


@given(st.integers(2, 10), st.data())
def test_dropping_any_but_the_last_bundle_is_a_gap(length: int, data: st.DataObject) -> None:
    envelopes = chain(length)
    del envelopes[data.draw(st.integers(0, length - 2))]
    assert faults(envelopes) == [ChainFault.GAP]


@given(st.integers(2, 10), st.data())
def test_any_reordering_is_found(length: int, data: st.DataObject) -> None:
    envelopes = chain(length)
    shuffled = data.draw(st.permutations(envelopes))
    assert verify_chain(shuffled, DEVICE, KEYS).intact == (shuffled == envelopes)


@given(st.integers(1, 10), st.data())
def test_a_doubled_bundle_is_told_as_a_duplicate_or_a_fork_and_never_counted_twice(
    length: int, data: st.DataObject
) -> None:
    envelopes = chain(length)
    index = data.draw(st.integers(0, length - 1))
    envelopes.insert(index + 1, envelopes[index])
    report = verify_chain(envelopes, DEVICE, KEYS)
    assert [finding.fault for finding in report.findings] == [ChainFault.DUPLICATE]
    assert report.verified == length


def test_a_cloned_disk_that_writes_another_bundle_with_the_same_number_is_a_fork() -> None:
    envelopes = chain(3)
    clone = Signer()
    for _ in range(2):
        clone.write()
    envelopes.append(clone.write(Verdict.FAIL))
    assert faults(envelopes) == [ChainFault.FORK]


def test_a_bundle_that_names_another_predecessor_breaks_the_link() -> None:
    envelopes = chain(2)
    bundle = decode(envelopes[1].payload_bytes, EvidenceBundle)
    envelopes[1] = seal(replace(bundle, previous="f" * 64), PayloadType.EVIDENCE, a_key("device"))
    assert faults(envelopes) == [ChainFault.BROKEN_LINK]


def test_a_bundle_signed_by_another_key_is_not_in_the_chain() -> None:
    stranger = Signer(key=a_key("stranger"))
    assert faults([stranger.write()]) == [ChainFault.BAD_SIGNATURE]


def test_a_bundle_of_another_device_is_refused() -> None:
    with pytest.raises(ChainError) as refused:
        open_bundle(Signer().write(), "dev_other", KEYS)
    assert refused.value.finding.fault is ChainFault.WRONG_DEVICE


def test_one_hole_is_reported_once_and_the_rest_is_still_verified() -> None:
    envelopes = chain(6)
    del envelopes[2]
    report = verify_chain(envelopes, DEVICE, KEYS)
    assert [finding.sequence for finding in report.findings] == [4]
    assert (report.verified, report.head.sequence) == (4, 6)


def test_a_walk_may_start_in_the_middle() -> None:
    envelopes = chain(5)
    middle = verify_chain(envelopes[:2], DEVICE, KEYS).head
    assert verify_chain(envelopes[2:], DEVICE, KEYS, middle).intact


def test_following_never_moves_backwards() -> None:
    bundle, digest = open_bundle(Signer().write(), DEVICE, KEYS)
    with pytest.raises(ChainError) as refused:
        follow(ChainHead(7, "0" * 64), bundle, digest)
    assert refused.value.finding.fault is ChainFault.FORK


@pytest.mark.parametrize("path", sorted(CORPUS.glob("evidence-*.json")), ids=lambda path: path.stem)
def test_every_evidence_format_ever_written_still_verifies(path: Path) -> None:
    document = json.loads(path.read_bytes())
    envelopes = [parse(json.dumps(entry).encode()) for entry in document["bundles"]]
    report = verify_chain(envelopes, document["device_id"], KEYS)
    assert report.intact
    assert report.head == ChainHead(document["head"]["sequence"], document["head"]["digest"])


def test_the_corpus_is_there() -> None:
    assert list(CORPUS.glob("evidence-*.json"))
