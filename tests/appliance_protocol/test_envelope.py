"""Signed envelopes: only what a trusted key signed as this type comes out."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance_protocol.envelope import (
    EnvelopeError,
    PayloadType,
    open_as,
    open_payload,
    parse,
    peek,
    pre_authentication_encoding,
    seal,
)
from appliance_protocol.orders import Order
from appliance_protocol.wire import WireError
from tests.appliance_protocol.builders import a_key

KEY = a_key("device")
ORDER = Order("ord_1", "dev_1", "run_checks", 1.0, 2.0)


def test_pre_authentication_encoding_is_the_one_of_the_specification() -> None:
    # DSSE protocol.md, "Test vectors"
    encoded = pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_what_is_sealed_comes_back() -> None:
    envelope = parse(seal(ORDER, PayloadType.ORDER, KEY).to_bytes())
    assert open_as(envelope, PayloadType.ORDER, [KEY.public], Order) == ORDER


def test_another_type_is_refused_even_with_a_good_signature() -> None:
    envelope = seal(ORDER, PayloadType.ORDER, KEY)
    with pytest.raises(EnvelopeError, match="expected"):
        open_payload(envelope, PayloadType.CHECKIN, [KEY.public])


def test_relabelling_the_type_breaks_the_signature() -> None:
    document = json.loads(seal(ORDER, PayloadType.ORDER, KEY).to_bytes())
    document["payloadType"] = PayloadType.CHECKIN.value
    with pytest.raises(EnvelopeError, match="no valid signature"):
        open_payload(parse(json.dumps(document).encode()), PayloadType.CHECKIN, [KEY.public])


def test_a_stranger_s_signature_under_a_trusted_name_is_refused() -> None:
    document = json.loads(seal(ORDER, PayloadType.ORDER, a_key("stranger")).to_bytes())
    document["signatures"][0]["keyid"] = KEY.public.key_id
    with pytest.raises(EnvelopeError, match="no valid signature"):
        open_payload(parse(json.dumps(document).encode()), PayloadType.ORDER, [KEY.public])


def test_no_signature_and_no_trusted_key_are_refused() -> None:
    envelope = seal(ORDER, PayloadType.ORDER, KEY)
    with pytest.raises(EnvelopeError, match="trusted: none"):
        open_payload(envelope, PayloadType.ORDER, [])
    document = json.loads(envelope.to_bytes()) | {"signatures": []}
    with pytest.raises(EnvelopeError, match="signed by: none"):
        open_payload(parse(json.dumps(document).encode()), PayloadType.ORDER, [KEY.public])


def test_a_second_signature_by_a_trusted_key_is_enough() -> None:
    stranger = seal(ORDER, PayloadType.ORDER, a_key("stranger"))
    ours = seal(ORDER, PayloadType.ORDER, KEY)
    document = json.loads(ours.to_bytes())
    document["signatures"] = [json.loads(stranger.to_bytes())["signatures"][0], *document["signatures"]]
    assert open_as(parse(json.dumps(document).encode()), PayloadType.ORDER, [KEY.public], Order) == ORDER


def test_every_flipped_bit_of_the_payload_is_noticed() -> None:
    envelope = json.loads(seal(ORDER, PayloadType.ORDER, KEY).to_bytes())
    payload = base64.b64decode(envelope["payload"])
    for position in range(len(payload) * 8):
        altered = bytearray(payload)
        altered[position // 8] ^= 1 << (position % 8)
        document = envelope | {"payload": base64.b64encode(altered).decode()}
        with pytest.raises(EnvelopeError):
            open_payload(parse(json.dumps(document).encode()), PayloadType.ORDER, [KEY.public])


@given(st.binary(max_size=300))
def test_hostile_bytes_are_an_envelope_error(document: bytes) -> None:
    with pytest.raises(EnvelopeError):
        open_payload(parse(document), PayloadType.ORDER, [KEY.public])


@given(payload=st.text(max_size=40), signature=st.text(max_size=40))
def test_hostile_fields_are_an_envelope_error(payload: str, signature: str) -> None:
    document = json.dumps({
        "payloadType": PayloadType.ORDER.value,
        "payload": payload,
        "signatures": [{"keyid": KEY.public.key_id, "sig": signature}],
    }).encode()
    with pytest.raises(EnvelopeError):
        open_payload(parse(document), PayloadType.ORDER, [KEY.public])


def test_peeking_reads_without_trust_and_still_checks_the_form() -> None:
    assert peek(seal(ORDER, PayloadType.ORDER, a_key("stranger")), Order).device_id == "dev_1"
    with pytest.raises(WireError):
        peek(seal({"order_id": 3}, PayloadType.ORDER, KEY), Order)
