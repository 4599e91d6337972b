"""The way to Central Command: signed requests out, verified replies in, and a clear word for every failure.

Every reply is signed by the server's key and names what it answers, so that a captive portal, a TLS inspection box or
a replayed answer can at worst delay. Everything in here blocks and runs in a thread.
"""

from __future__ import annotations

import re
import time
from typing import TypeVar

import tenacity

from appliance_protocol import device_api
from appliance_protocol.device_api import CheckIn, CheckInReply, EnrolmentReply, EnrolmentRequest, Problem
from appliance_protocol.envelope import Envelope, EnvelopeError, PayloadType, open_payload, parse, seal
from appliance_protocol.keys import KeyFormatError, PrivateKey, PublicKey
from appliance_protocol.orders import OrderResult
from appliance_protocol.wire import MAX_DOCUMENT, WireError, decode
from compliance_agent import __version__
from compliance_agent.config import CentralConfig
from compliance_agent.facts.clock import EARLIEST
from compliance_agent.identity import Enrolment, Invitation
from compliance_agent.transport import open_session, requests

Reply = TypeVar("Reply")
TRIES = 3
"""Tries of one request when the connection breaks; a refusal is never tried again."""
DEADLINE = 60.0
"""Seconds one request may take with all its tries, reading included."""
PROBLEM = "application/problem+json"
HEADERS = {
    "User-Agent": f"compliance-agent/{__version__}",
    "Content-Type": "application/json",
    "Accept": f"application/json, {PROBLEM}",
}


class CentralError(RuntimeError):
    """Central Command was not reached, or did not say yes; the message says what happened and what to do."""


class Unreachable(CentralError):
    """The server was not reached: something stands between, or its certificate does not hold."""


class Broken(Unreachable):
    """The connection did not come about or broke: worth another try at once."""


class Busy(CentralError):
    """The server or a gateway before it cannot answer now; the next round asks again, not this one."""


class Refused(CentralError):
    """The server understood and said no. `status` is the HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Untrusted(CentralError):
    """An answer that the server did not sign, or that answers something else."""


class Central:
    """Central Command as one device sees it."""

    def __init__(self, config: CentralConfig, url: str, ca_file: str, key: PrivateKey) -> None:
        self._config = config
        self._url = url.rstrip("/")
        self._key = key
        self._session = open_session(
            self._url, proxy=config.proxy, ca_file=config.ca_file or ca_file, headers=HEADERS
        )

    def close(self) -> None:
        """Let go of the connections."""
        self._session.close()

    def enrol(self, request: EnrolmentRequest) -> EnrolmentReply:
        """Ask to belong to a site. The reply is signed by a key it names itself: TLS and the code vouch for it.

        Raises `CentralError`.
        """
        envelope = self._post(device_api.ENROL, seal(request, PayloadType.ENROLMENT, self._key))
        try:
            claimed = decode(envelope.payload_bytes, EnrolmentReply)
            keys = tuple(PublicKey.from_text(text) for text in claimed.server_keys)
        except (WireError, KeyFormatError) as error:
            raise Untrusted(f"{self._url}: the answer to the enrolment cannot be read: {error}") from error
        return self._verified(envelope, keys, EnrolmentReply)

    def check_in(self, checkin: CheckIn, enrolment: Enrolment) -> CheckInReply:
        """Say how the device is. Raises `CentralError`; `Untrusted` for a reply to another check-in."""
        envelope = self._post(device_api.CHECKIN, seal(checkin, PayloadType.CHECKIN, self._key))
        reply = self._verified(envelope, enrolment.keys, CheckInReply, enrolment.device_id)
        if reply.answers != checkin.number:
            raise Untrusted(
                f"{self._url}: a reply to check-in {reply.answers} came for check-in {checkin.number}: "
                "something on the way repeats old answers"
            )
        return reply

    def send_evidence(self, upload: device_api.EvidenceUpload, enrolment: Enrolment) -> device_api.EvidenceReceipt:
        """Hand over bundles. Raises `CentralError`."""
        envelope = self._post(device_api.EVIDENCE, seal(upload, PayloadType.EVIDENCE_UPLOAD, self._key))
        return self._verified(envelope, enrolment.keys, device_api.EvidenceReceipt, enrolment.device_id)

    def send_result(self, result: OrderResult, enrolment: Enrolment) -> device_api.Acknowledgement:
        """Say what became of an order. Raises `CentralError`."""
        envelope = self._post(device_api.ORDER_RESULT, seal(result, PayloadType.ORDER_RESULT, self._key))
        return self._verified(envelope, enrolment.keys, device_api.Acknowledgement, enrolment.device_id)

    def _verified(
        self, envelope: Envelope, keys: tuple[PublicKey, ...], model: type[Reply], device_id: str | None = None
    ) -> Reply:
        try:
            reply = decode(open_payload(envelope, PayloadType.REPLY, keys), model)
        except WireError as error:
            raise Untrusted(f"{self._url}: the answer is not Central Command's: {error}") from error
        said = getattr(reply, "device_id", "")
        if device_id is not None and said != device_id:
            raise Untrusted(f"{self._url}: the answer is for device {said[:80]!r}, this is {device_id!r}")
        return reply

    def _post(self, path: str, envelope: Envelope) -> Envelope:
        started = time.monotonic()
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(TRIES) | tenacity.stop_after_delay(DEADLINE / 2),
            wait=tenacity.wait_random_exponential(multiplier=0.5, max=5),
            retry=tenacity.retry_if_exception_type(Broken),
            reraise=True,
        )
        return retrying(self._attempt, path, envelope.to_bytes(), started + DEADLINE)

    def _attempt(self, path: str, body: bytes, deadline: float) -> Envelope:
        try:
            with self._session.post(
                self._url + path,
                data=body,
                timeout=(self._config.connect_timeout, self._config.read_timeout),
                allow_redirects=False,
                stream=True,
            ) as response:
                return self._read(response, _body(response, deadline))
        except OSError as error:  # every exception of requests is one; it lets a ca_file that is not there pass as one
            raise explain(self._url, error) from error

    def _read(self, response: requests.Response, document: bytes) -> Envelope:
        status, kind = response.status_code, response.headers.get("Content-Type", "").split(";")[0].strip().lower()
        where = _line(response.headers.get("Location", ""))[:200]
        if (where and 300 <= status < 400) or status == 511 or kind == "text/html":
            raise Unreachable(
                f"{self._url}: a web page answered in place of Central Command (HTTP {status}"
                f"{', to ' + where if where else ''}); a captive portal or a proxy's login stands between: "
                "exempt this device from it"
            )
        if status >= 400:
            raise _refusal(self._url, status, kind, document)
        try:
            return parse(document)
        except EnvelopeError as error:
            raise Untrusted(f"{self._url}: HTTP {status} with an unreadable answer: {error}") from error


def _body(response: requests.Response, deadline: float) -> bytes:
    """The response's body, bounded in size and in time."""
    chunks: list[bytes] = []
    total = 0
    for chunk in response.iter_content(65536):
        chunks.append(chunk)
        total += len(chunk)
        if total > MAX_DOCUMENT:
            raise Untrusted(f"an answer of more than {MAX_DOCUMENT} bytes is not read")
        if time.monotonic() > deadline:
            raise Broken(f"{response.url}: the answer trickles in too slowly")
    return b"".join(chunks)


def _refusal(url: str, status: int, kind: str, document: bytes) -> CentralError:
    if kind != PROBLEM and status in (407, 502, 503, 504):
        return Busy(f"{url}: HTTP {status} from a proxy or gateway on the way")
    problem = Problem(title=document[:200].decode(errors="replace") or "no reason given")
    if kind == PROBLEM:
        try:
            problem = decode(document, Problem)
        except WireError as error:
            problem = Problem(title=f"unreadable problem details ({error})")
    said = ": ".join(filter(None, (_line(problem.title), _line(problem.detail))))
    if status >= 500 or status == 429:
        return Busy(f"{url}: Central Command cannot answer now (HTTP {status}): {said}")
    return Refused(f"{url}: Central Command refused (HTTP {status}): {said}", status)


def _line(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)[:500].strip()


def explain(url: str, error: OSError) -> CentralError:
    """What went wrong on the way, in words."""
    cause = str(error)
    if isinstance(error, requests.exceptions.SSLError) or not isinstance(error, requests.RequestException):
        if time.time() < EARLIEST:
            hint = f"the clock says {time.strftime('%Y-%m-%d', time.gmtime())}; certificates count once it is set"
        elif "expired" in cause or "not yet valid" in cause:
            hint = "check the appliance's clock first, then the server's certificate"
        else:
            hint = "a TLS inspection box stands between, or the device needs the authority's certificate (ca_file)"
        return Unreachable(f"{url}: the TLS certificate does not hold ({_reason(cause)}); {hint}")
    if isinstance(error, requests.exceptions.ProxyError):
        return Unreachable(f"{url}: the proxy does not let us through ({_reason(cause)}); check central.proxy")
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return Broken(f"{url}: nothing answered in time; is outgoing traffic to it allowed?")
    if isinstance(error, requests.exceptions.Timeout) or "Read timed out" in cause:  # in a body: a ConnectionError
        return Broken(f"{url}: the answer did not come in time")
    if "resolve" in cause or "getaddrinfo" in cause or "Name or service" in cause:
        return Broken(f"{url}: its name is not known here; check DNS and the uplink")
    return Broken(f"{url}: no connection ({_reason(cause)}); check the uplink")


def _reason(cause: str) -> str:
    """The reason out of urllib3's messages, without the connection's place in memory."""
    inner = re.sub(r"<[^<>]* at 0x[0-9a-f]+>: ", "", cause.rsplit("Caused by ", 1)[-1]).rstrip(")")
    return _line(inner)[:300]


def invite(config: CentralConfig, invitation: Invitation, ca_file: str, key: PrivateKey) -> Central:
    """The way to the Central Command an invitation names."""
    return Central(config, invitation.url, ca_file, key)
