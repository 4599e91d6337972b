"""A small real Central Command: HTTPS with a certificate of its own authority, the protocol's envelopes, one device.

It is a peer, not a mock: it verifies what it gets with the protocol's own code, and it can be told to misbehave.
"""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from appliance_protocol.device_api import (
    Acknowledgement,
    CheckIn,
    CheckInReply,
    EnrolmentReply,
    EnrolmentRequest,
    EvidenceReceipt,
    EvidenceUpload,
    Problem,
)
from appliance_protocol.envelope import Envelope, PayloadType, open_payload, parse, seal
from appliance_protocol.evidence import ChainError, ChainFault, ChainHead, follow, open_bundle
from appliance_protocol.keys import PrivateKey, PublicKey
from appliance_protocol.orders import Order, OrderResult
from appliance_protocol.wire import canonical, decode

DEVICE, SITE, CODE = "dev-test-1", "site-test-1", "ABCD-EFGH-JKMN-PQRS"
Raw = tuple[int, str, bytes]
"""Status, content type and body of an answer that is not the protocol's."""


class CentralPeer:
    """The server, its memory, and the switches for its moods."""

    def __init__(self, directory: Path) -> None:
        self.key = PrivateKey.generate()
        self.device_key: PublicKey | None = None
        self.ca_file, chain = make_authority(directory)
        self.checkins: list[CheckIn] = []
        self.bundles: list[Envelope] = []
        self.head = ChainHead()
        self.orders: list[Envelope] = []
        self.results: list[OrderResult] = []
        self.faults: list[ChainFault] = []
        self.assigned_version = ""
        self.clock: Callable[[], float] = time.time
        self.mood: Callable[[str], Raw | None] = lambda path: None
        """Asked before each answer: something in place of it, or None."""
        self.mangle: Callable[[str, Envelope], Envelope] = lambda path, envelope: envelope
        """The answer, changed on its way."""
        self.lose_answer: Callable[[str], bool] = lambda path: False
        """Do the work, and let the connection break before the answer."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def order(self, order_id: str, kind: str, *, key: PrivateKey | None = None, **changes: object) -> None:
        """Put an order into the next replies, until its result arrives."""
        now = self.clock()
        values: dict[str, object] = {
            "order_id": order_id,
            "device_id": DEVICE,
            "type": kind,
            "issued_at": now,
            "expires_at": now + 3600,
            "parameters": {},
        }
        order = Order(**(values | changes))  # type: ignore[arg-type]
        self.orders.append(seal(order, PayloadType.ORDER, key or self.key))

    def answer(self, path: str, envelope: Envelope) -> object:
        if path == "/device/v1/enrol":
            return self._enrol(envelope)
        assert self.device_key is not None
        kinds = {"checkin": PayloadType.CHECKIN, "evidence": PayloadType.EVIDENCE_UPLOAD}
        kind = kinds.get(path.rpartition("/")[2], PayloadType.ORDER_RESULT)
        payload = open_payload(envelope, kind, [self.device_key])
        if kind is PayloadType.CHECKIN:
            checkin = decode(payload, CheckIn)
            self.checkins.append(checkin)
            return CheckInReply(
                DEVICE, checkin.number, self.clock(), tuple(self.orders), self.assigned_version, self.head, 60
            )
        if kind is PayloadType.EVIDENCE_UPLOAD:
            return self._take(decode(payload, EvidenceUpload))
        result = decode(payload, OrderResult)
        self.results.append(result)
        return Acknowledgement(DEVICE)

    def _enrol(self, envelope: Envelope) -> EnrolmentReply | Problem:
        request = decode(envelope.payload_bytes, EnrolmentRequest)
        key = PublicKey.from_text(request.public_key)
        open_payload(envelope, PayloadType.ENROLMENT, [key])
        if request.code.replace("-", "").upper() != CODE.replace("-", "") or self.device_key not in (None, key):
            return Problem("the enrolment code is not valid", 403, "ask for a new one")
        self.device_key = key
        return EnrolmentReply(DEVICE, SITE, "Test clinic", (self.key.public.text,), self.clock(), 60)

    def _take(self, upload: EvidenceUpload) -> EvidenceReceipt:
        accepted = duplicates = 0
        refused = []
        assert self.device_key is not None
        for envelope in upload.bundles:
            bundle, digest = open_bundle(envelope, DEVICE, [self.device_key])
            known = {decode(kept.payload_bytes, type(bundle)).sequence: kept for kept in self.bundles}
            if bundle.sequence in known and known[bundle.sequence] == envelope:
                duplicates += 1
                continue
            try:
                self.head = follow(self.head, bundle, digest)
            except ChainError as error:
                self.faults.append(error.finding.fault)
                refused.append(str(error))
                break
            self.bundles.append(envelope)
            accepted += 1
        return EvidenceReceipt(DEVICE, self.head, accepted, duplicates, tuple(refused))

    def _handler(peer) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                mood = peer.mood(self.path)
                if mood is not None:
                    return self._send(*mood)
                answer = peer.answer(self.path, parse(body))
                if peer.lose_answer(self.path):
                    self.close_connection = True
                    return None
                if isinstance(answer, Problem):
                    return self._send(answer.status, "application/problem+json", canonical(answer))
                envelope = peer.mangle(self.path, seal(answer, PayloadType.REPLY, peer.key))
                return self._send(200, "application/json", envelope.to_bytes())

            def _send(self, status: int, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                if 300 <= status < 400:
                    self.send_header("Location", "http://portal.example/login")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                pass

        return Handler


def make_authority(directory: Path, begins: float = -1, ends: float = 30) -> tuple[Path, Path]:
    """An authority's certificate, and a chain with key for 127.0.0.1; valid from and until, in days from now."""
    directory.mkdir(parents=True, exist_ok=True)
    authority_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])
    now = datetime.datetime.now(datetime.UTC)

    def build(subject: x509.Name, key: ec.EllipticCurvePrivateKey, ca: bool) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(days=min(begins, ends)))
            .not_valid_after(now + datetime.timedelta(days=ends))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
            )
        )
        if ca:
            usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(usage, critical=True)
        else:
            names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(authority_key, hashes.SHA256())

    ca_file, chain = directory / "ca.pem", directory / "server.pem"
    ca_file.write_bytes(build(name, authority_key, True).public_bytes(serialization.Encoding.PEM))
    leaf = build(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "central")]), server_key, False)
    private = server_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain.write_bytes(leaf.public_bytes(serialization.Encoding.PEM) + private)
    return ca_file, chain
