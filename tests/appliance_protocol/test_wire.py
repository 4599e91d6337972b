"""Canonical JSON and the reading of documents nobody vouches for."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance_protocol.device_api import CheckIn, CheckInReply, EnrolmentRequest, EvidenceUpload
from appliance_protocol.envelope import Envelope
from appliance_protocol.evidence import EvidenceBundle
from appliance_protocol.orders import Order, OrderResult
from appliance_protocol.wire import WireError, canonical, decode, is_canonical

MODELS = [CheckIn, CheckInReply, EnrolmentRequest, EvidenceUpload, Envelope, EvidenceBundle, Order, OrderResult]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), inner, max_size=4),
    max_leaves=12,
)


def test_rfc_8785_example_has_exactly_the_published_bytes() -> None:
    # RFC 8785, section 3.2.2 to 3.2.4
    sample = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000f\nA'B\"\\\\\"/",
        "literals": [None, True, False],
    }
    expected = (
        b'{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        b'"string":"\xe2\x82\xac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    assert canonical(sample) == expected


@given(JSON)
def test_canonical_form_is_its_own_canonical_form_and_loses_nothing(value: object) -> None:
    document = canonical(value)
    assert is_canonical(document)
    assert json.loads(document, parse_int=float) == value


@pytest.mark.parametrize(
    "document",
    [
        b'{"b":1,"a":2}',
        b'{"a": 1}',
        b'{"a":1,"a":1}',
        b'{"a":1.0}',
        b'{"a":NaN}',
        b'{"a":9007199254740993}',
        b'{"a":"\\u0041"}',
        b'{"a":"\\ud800"}',
        b'{"a":1}\n',
        b'{"a":1',
        b"",
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_what_is_not_canonical_is_told(document: bytes) -> None:
    assert not is_canonical(document)


@pytest.mark.parametrize("value", [math.nan, math.inf, 2**53, "\ud800", {"a": {1, 2, float("nan")}}])
def test_what_json_cannot_carry_exactly_is_refused(value: object) -> None:
    with pytest.raises(WireError):
        canonical(value)


@pytest.mark.parametrize("model", MODELS)
@given(document=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_hostile_documents_are_one_clear_error(model: type, document: bytes) -> None:
    try:
        decode(document, model)
    except WireError as error:
        assert model.__name__ in str(error)


@pytest.mark.parametrize("document", [b"[" * 200_000, b'{"a":' * 200_000])
def test_deep_nesting_is_an_error_and_not_a_crash(document: bytes) -> None:
    with pytest.raises(WireError):
        decode(document, CheckIn)


def test_a_document_over_the_limit_is_not_even_read() -> None:
    with pytest.raises(WireError, match="at most 10 are read"):
        decode(b'{"order_id": "x"}', Order, limit=10)


def test_unknown_fields_are_ignored_and_missing_optional_ones_have_defaults() -> None:
    order = decode(
        b'{"order_id":"o","device_id":"d","type":"update","issued_at":1,"expires_at":2,"added_in_2031":{"x":[1]}}',
        Order,
    )
    assert order.parameters == {}


def test_an_error_names_the_place() -> None:
    with pytest.raises(WireError, match=r"\$\.expires_at"):
        decode(b'{"order_id":"o","device_id":"d","type":"update","issued_at":1,"expires_at":"soon"}', Order)


def test_models_may_be_read_for_the_first_time_by_many_threads_at_once() -> None:
    # msgspec by itself ends the whole process here (SIGSEGV), so it happens in a process of its own.
    program = """
import dataclasses, sys, threading
from appliance_protocol.wire import decode
sys.setswitchinterval(1e-6)
for number in range(100):
    fields = [(f"f{index}", "int", 0) for index in range(20)]
    inner = dataclasses.make_dataclass(f"Inner{number}", fields, frozen=True)
    globals()[inner.__name__] = inner
    fields.append(("inner", f"{inner.__name__} | None", None))
    model = dataclasses.make_dataclass(f"Model{number}", fields, frozen=True)
    inner.__module__ = model.__module__ = "__main__"
    barrier = threading.Barrier(6)
    def read():
        barrier.wait()
        assert decode(b'{"f0": 1}', model).f0 == 1
    threads = [threading.Thread(target=read) for _ in range(6)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
