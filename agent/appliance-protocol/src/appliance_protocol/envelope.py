"""Signed envelopes: DSSE (https://github.com/secure-systems-lab/dsse, protocol v1.0.0) with Ed25519.

Every message of a device and every order of Central Command travels in one. The receiver acts on the payload it
verified and on nothing that stood beside it.
"""

from __future__ import annotations

import base64
import binascii
import enum
from collections.abc import Iterable
from dataclasses import dataclass

from appliance_protocol.keys import PrivateKey, PublicKey
from appliance_protocol.wire import MAX_DOCUMENT, Model, WireError, canonical, decode


class EnvelopeError(WireError):
    """An envelope that is malformed, of the wrong type, or not signed by a key that may sign it."""


class PayloadType(enum.StrEnum):
    """What an envelope carries; part of what is signed, so that one message never passes for another."""

    ENROLMENT = "application/vnd.appliance.enrolment.v1+json"
    CHECKIN = "application/vnd.appliance.checkin.v1+json"
    EVIDENCE = "application/vnd.appliance.evidence.v1+json"
    EVIDENCE_UPLOAD = "application/vnd.appliance.evidence-upload.v1+json"
    ORDER = "application/vnd.appliance.order.v1+json"
    ORDER_RESULT = "application/vnd.appliance.order-result.v1+json"
    REPLY = "application/vnd.appliance.reply.v1+json"


@dataclass(frozen=True)
class Signature:
    """One signature: the name of the key, and the signature in base64."""

    keyid: str
    sig: str


@dataclass(frozen=True)
class Envelope:
    """A DSSE envelope as it stands on the wire; `payload` and signatures are base64."""

    payloadType: str
    payload: str
    signatures: tuple[Signature, ...]

    def to_bytes(self) -> bytes:
        """The envelope as canonical JSON."""
        return canonical(self)

    @property
    def payload_bytes(self) -> bytes:
        """The payload, not yet trusted. Raises `EnvelopeError` when it is not base64."""
        return _unbase64(self.payload, "payload")


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """What is signed: DSSE's PAE, which binds type and payload by their lengths."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def seal(payload: object, payload_type: PayloadType, key: PrivateKey) -> Envelope:
    """Sign a wire model. Raises `WireError` when it has no canonical form."""
    raw = canonical(payload)
    signature = key.sign(pre_authentication_encoding(payload_type, raw))
    return Envelope(
        payloadType=payload_type.value,
        payload=base64.b64encode(raw).decode(),
        signatures=(Signature(key.public.key_id, base64.b64encode(signature).decode()),),
    )


def parse(document: bytes, *, limit: int = MAX_DOCUMENT) -> Envelope:
    """Read an envelope without trusting it. Raises `EnvelopeError` when it is not one."""
    try:
        return decode(document, Envelope, limit=limit)
    except WireError as error:
        raise EnvelopeError(str(error)) from error


def open_payload(envelope: Envelope, payload_type: PayloadType, keys: Iterable[PublicKey]) -> bytes:
    """The payload bytes, once one of `keys` is shown to have signed them as `payload_type`.

    Raises `EnvelopeError` when the type differs, no known key signed, or the signature is wrong.
    """
    if envelope.payloadType != payload_type.value:
        raise EnvelopeError(f"expected {payload_type.value}, the envelope says {envelope.payloadType[:100]!r}")
    raw = envelope.payload_bytes
    message = pre_authentication_encoding(payload_type, raw)
    known = {key.key_id: key for key in keys}
    for signature in envelope.signatures[:16]:
        key = known.get(signature.keyid)
        if key is not None and key.verifies(message, _unbase64(signature.sig, "signature")):
            return raw
    named = ", ".join(signature.keyid[:60] for signature in envelope.signatures[:4]) or "none"
    trusted = ", ".join(known) or "none"
    raise EnvelopeError(f"no valid signature by a trusted key (signed by: {named}; trusted: {trusted})")


def open_as(envelope: Envelope, payload_type: PayloadType, keys: Iterable[PublicKey], model: type[Model]) -> Model:
    """`open_payload`, then `decode`. Raises `EnvelopeError` or `WireError`."""
    return decode(open_payload(envelope, payload_type, keys), model)


def peek(envelope: Envelope, model: type[Model]) -> Model:
    """Read the payload *before* its signature is checked, only to learn whose key to check it with.

    Raises `WireError`. Nothing but that look-up may depend on the answer.
    """
    return decode(envelope.payload_bytes, model)


def _unbase64(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise EnvelopeError(f"{what} is not base64") from error


__all__ = [
    "Envelope", "EnvelopeError", "PayloadType", "Signature", "open_as", "open_payload", "parse", "peek",
    "pre_authentication_encoding", "seal",
]
