"""A real server over TLS, a real database of either kind, and a device written from the protocol alone."""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import contextlib
import datetime
import ipaddress
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import requests
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from appliance_protocol import device_api
from appliance_protocol.clock import ClockReading, ClockState
from appliance_protocol.device_api import CheckIn, CheckInReply, EnrolmentReply, EnrolmentRequest, EvidenceReceipt
from appliance_protocol.envelope import (
    Envelope,
    PayloadType,
    Signature,
    open_as,
    parse,
    peek,
    pre_authentication_encoding,
    seal,
)
from appliance_protocol.evidence import ChainHead, EvidenceBundle, EvidenceCause, Release, payload_digest
from appliance_protocol.keys import PrivateKey, PublicKey
from appliance_protocol.orders import Order, OrderResult, OrderState
from appliance_protocol.verdict import CheckResult, Citation, Coverage, Framework, Score, Verdict
from central_command import accounts, migrate, sites
from central_command.accounts import Role
from central_command.audit import Actor
from central_command.cli import main
from central_command.database import Database

PROGRAM = Path(sys.executable).with_name("central-command")
PASSWORD = "a long enough password"
RELEASE = Release("t640", "2026.11.1", "sha256:ab")
TESTER = Actor("tester")


def do(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine from a plain test, also where another loop runs in this thread (playwright's)."""
    box: list[Any] = []
    def run() -> None:
        try:
            box.append(asyncio.run(work))
        except BaseException as error:
            box.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(box[0], BaseException):
        raise box[0]
    return box[0]


# --- certificates -----------------------------------------------------------------------------------------------------


@dataclass
class Certificates:
    """A certificate authority of the test, and one certificate for 127.0.0.1 and localhost."""

    ca: Path
    cert: Path
    key: Path


def make_certificates(folder: Path) -> Certificates:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = _builder(name, name, ca_key.public_key()).add_extension(x509.BasicConstraints(True, 0), True).sign(
        ca_key, hashes.SHA256()
    )
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    names = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    )
    cert = _builder(subject, name, key.public_key()).add_extension(names, False).sign(ca_key, hashes.SHA256())
    made = Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key")
    made.ca.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    made.cert.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    made.key.write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ))
    return made


def _builder(subject: x509.Name, issuer: x509.Name, key: Any) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
        .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
    )


def new_session(certificates: Certificates) -> requests.Session:
    """A client that trusts the test's authority alone, whatever proxy or bundle the environment names."""
    session = requests.Session()
    session.trust_env = False
    session.verify = str(certificates.ca)
    return session


# --- databases --------------------------------------------------------------------------------------------------------


class Postgres:
    """PostgreSQL from the distribution's package, in a folder of its own, as a user without privileges."""

    def __init__(self) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
        self.programs = found[-1] if found else Path("/nonexistent")
        self.folder = Path(tempfile.mkdtemp(prefix="cc-pg-", dir="/tmp"))
        self._user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
        self._run("initdb", "-D", f"{self.folder}/data", "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8",
                  "--locale=C.UTF-8")
        # fsync off: no test pulls the plug of the database's machine, and the tests' disk is slow.
        (self.folder / "data" / "postgresql.auto.conf").write_text(
            f"unix_socket_directories = '{self.folder}'\nlisten_addresses = ''\nfsync = off\nmax_connections = 120\n"
        )
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), *arguments]
        if os.geteuid() == 0:
            command = ["runuser", "-u", self._user, "--", *command]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd="/")

    def start(self) -> None:
        self._run("pg_ctl", "-D", f"{self.folder}/data", "-w", "-l", f"{self.folder}/log", "start")

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "-D", f"{self.folder}/data", "-w", "-m", mode, "stop")

    def new_url(self) -> str:
        name = f"test_{secrets.token_hex(6)}"
        self._run("createdb", "-h", str(self.folder), "-U", "postgres", name)
        return f"postgresql://postgres@/{name}?host={self.folder}"

    def close(self) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)


# --- the server -------------------------------------------------------------------------------------------------------

GENEROUS = """
[limits]
address_rate = 100000.0
address_burst = 100000
device_rate = 100000.0
device_burst = 100000
enrolment_failures = 100000
login_failures = 100000
body_seconds = 2.0
"""


@dataclass
class Central:
    """One Central Command: its data directory, its database, and, while it runs, its process."""

    data: Path
    database_url: str
    certificates: Certificates
    config: str = GENEROUS
    url: str = ""
    process: subprocess.Popen[str] | None = None
    logins: dict[Role, tuple[dict[str, str], str]] = field(default_factory=dict)

    def arguments(self) -> list[str]:
        (self.data.parent / f"{self.data.name}.toml").write_text(self.config)
        return [str(PROGRAM), "--config", str(self.data.parent / f"{self.data.name}.toml"), "--data", str(self.data)]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "DATABASE_URL": self.database_url}

    def start(self, port: int = 0) -> Central:
        log = (self.data.parent / f"{self.data.name}.log").open("a")
        tls = ["--tls-cert", str(self.certificates.cert), "--tls-key", str(self.certificates.key)]
        self.process = subprocess.Popen(
            [*self.arguments(), "serve", "--host", "127.0.0.1", "--port", str(port), *tls],
            stdout=subprocess.PIPE, stderr=log, text=True, env=self.environment(),
        )
        log.close()
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("listening on "), f"{line!r}; {self.log()[-2000:]}"
        self.url = line.removeprefix("listening on ").strip()
        return self

    def log(self) -> str:
        return (self.data.parent / f"{self.data.name}.log").read_text()

    def kill(self) -> None:
        """SIGKILL: what a power cut or the kernel's memory killer does."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self.process is None:
            return
        self.process.send_signal(how)
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None

    def cli(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.arguments(), *arguments], input=stdin, capture_output=True, text=True, env=self.environment(),
            timeout=60,
        )

    def cli_here(self, *arguments: str) -> Result:
        """The same command inside this process, which saves the start of another."""
        arguments = tuple(self.arguments()[1:]) + arguments
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            # In a thread: another test module's event loop (playwright's) may run in this one.
            return pool.submit(CliRunner().invoke, main, arguments, env=self.environment()).result()

    # What a test needs to know or to have made without a second process.

    def prepare(self) -> Central:
        self.data.mkdir(parents=True, exist_ok=True)

        async def work() -> None:
            async with self.database() as database:
                await migrate.upgrade(database)
                async with database.write() as connection:
                    for role in Role:
                        await accounts.create(connection, TESTER, role.value, PASSWORD, role)

        do(work())
        return self

    @contextlib.asynccontextmanager
    async def database(self) -> Any:
        database = Database(self.database_url)
        try:
            yield database
        finally:
            await database.close()

    def new_code(self, site: str | None = None, lifetime: float = 3600.0) -> str:
        async def work() -> str:
            async with self.database() as database, database.write() as connection:
                place = await (
                    sites.create(connection, TESTER, f"Clinic {secrets.token_hex(4)}") if site is None
                    else sites.find(connection, site)
                )
                return (await sites.create_code(connection, TESTER, place, lifetime))[1]

        return str(do(work()))

    def query(self, statement: Any) -> list[Any]:
        async def work() -> list[Any]:
            async with self.database() as database, database.read() as connection:
                return list((await connection.execute(statement)).mappings())

        return list(do(work()))

    def change(self, statement: Any) -> None:
        async def work() -> None:
            async with self.database() as database, database.write() as connection:
                await connection.execute(statement)

        do(work())

    def device(self, **about: Any) -> DeviceClient:
        """A new device, enrolled."""
        device = DeviceClient(self, **about)
        device.enrol(self.new_code())
        return device


# --- the device -------------------------------------------------------------------------------------------------------


class Refused(Exception):
    """The server's problem document."""

    def __init__(self, response: requests.Response) -> None:
        super().__init__(f"{response.status_code}: {response.text}")
        self.status = response.status_code
        self.content_type = response.headers.get("content-type", "")
        self.problem = response.json() if "json" in self.content_type else {}


@dataclass
class DeviceClient:
    """What an appliance's agent does on the wire, in its smallest form."""

    central: Central
    hostname: str = "t640-front"
    key: PrivateKey = field(default_factory=PrivateKey.generate)
    device_id: str = ""
    server_key: PublicKey | None = None
    number: int = 0
    head: ChainHead = field(default_factory=ChainHead)
    macs: tuple[str, ...] = ()
    skew: float = 0.0

    def __post_init__(self) -> None:
        self.session = new_session(self.central.certificates)

    def post(self, path: str, body: bytes) -> requests.Response:
        return self.session.post(self.central.url + path, data=body, timeout=20)

    def say(self, path: str, kind: PayloadType, payload: object, model: Any) -> Any:
        """One request; the reply is believed only when the server's key has signed it."""
        response = self.post(path, seal(payload, kind, self.key).to_bytes())
        if response.status_code != 200:
            raise Refused(response)
        envelope = parse(response.content)
        assert self.server_key is not None
        return open_as(envelope, PayloadType.REPLY, [self.server_key], model)

    def sealed(self, kind: PayloadType, body: bytes) -> bytes:
        """Any bytes at all, correctly signed: what a broken or conquered appliance can send."""
        signature = base64.b64encode(self.key.sign(pre_authentication_encoding(kind.value, body))).decode()
        signed = (Signature(self.key.public.key_id, signature),)
        return Envelope(kind.value, base64.b64encode(body).decode(), signed).to_bytes()

    def request(self, code: str) -> EnrolmentRequest:
        return EnrolmentRequest(
            code=code, public_key=self.key.public.text, hostname=self.hostname, release=RELEASE,
            agent_version="2026.11.0", hardware=device_api.Hardware("HP", "t640 Thin Client", "8CC1"),
            mac_addresses=self.macs,
        )

    def enrol(self, code: str) -> EnrolmentReply:
        body = seal(self.request(code), PayloadType.ENROLMENT, self.key).to_bytes()
        response = self.post(device_api.ENROL, body)
        if response.status_code != 200:
            raise Refused(response)
        envelope = parse(response.content)
        claimed: EnrolmentReply = open_as(envelope, PayloadType.REPLY, [self.server_key_of(envelope)], EnrolmentReply)
        self.server_key, self.device_id = PublicKey.from_text(claimed.server_keys[0]), claimed.device_id
        return claimed

    @staticmethod
    def server_key_of(envelope: Envelope) -> PublicKey:
        """The first reply is trusted because TLS is: it names the key that it is itself signed with."""
        return PublicKey.from_text(peek(envelope, EnrolmentReply).server_keys[0])

    def clock(self) -> ClockReading:
        return ClockReading(time.time() + self.skew, time.monotonic(), "boot", ClockState.SYNCHRONISED)

    def checkin_payload(self, **news: Any) -> CheckIn:
        self.number += 1
        said = CheckIn(
            device_id=self.device_id, number=self.number, clock=self.clock(), uptime=60.0, hostname=self.hostname,
            release=RELEASE, slot="a", agent_version="2026.11.0", score=Score(15, 16),
            queue=device_api.QueueStatus(0), evidence_head=self.head, ip_addresses=("10.77.0.5",),
        )
        return replace(said, **news)

    def check_in(self, **news: Any) -> CheckInReply:
        said = self.checkin_payload(**news)
        reply: CheckInReply = self.say(device_api.CHECKIN, PayloadType.CHECKIN, said, CheckInReply)
        assert (reply.device_id, reply.answers) == (self.device_id, said.number)
        return reply

    def orders(self, reply: CheckInReply) -> list[Order]:
        assert self.server_key is not None
        return [open_as(envelope, PayloadType.ORDER, [self.server_key], Order) for envelope in reply.orders]

    def bundle(self, *results: CheckResult, head: ChainHead | None = None, **news: Any) -> Envelope:
        """The next bundle after `head` (this device's own, which it then moves)."""
        start = self.head if head is None else head
        said = replace(EvidenceBundle(
            device_id=self.device_id, sequence=start.sequence + 1, previous=start.digest, cause=EvidenceCause.CHANGE,
            clock=self.clock(), release=RELEASE, agent_version="2026.11.0", policy_digest="0" * 64, schedule="PT1H",
            results=results or (check_result(), check_result("firewall", Verdict.FAIL, "no default deny")),
        ), **news)
        envelope = seal(said, PayloadType.EVIDENCE, self.key)
        if head is None:
            self.head = ChainHead(said.sequence, payload_digest(envelope.payload_bytes))
        return envelope

    def upload(self, *bundles: Envelope) -> EvidenceReceipt:
        upload = device_api.EvidenceUpload(self.device_id, bundles)
        receipt: EvidenceReceipt = self.say(
            device_api.EVIDENCE, PayloadType.EVIDENCE_UPLOAD, upload, EvidenceReceipt
        )
        return receipt

    def result(self, order_id: str, state: OrderState, message: str = "done", **news: Any) -> bool:
        said = replace(OrderResult(self.device_id, order_id, state, message, time.time(), {"n": "1"}), **news)
        answer = self.say(device_api.ORDER_RESULT, PayloadType.ORDER_RESULT, said, device_api.Acknowledgement)
        return bool(answer.duplicate)


def check_result(
    check_id: str = "clock", verdict: Verdict = Verdict.PASS, reason: str = "within 5 ms", age: float = 0.0
) -> CheckResult:
    now = time.time() - age
    return CheckResult(
        check_id, check_id.title(), verdict, reason, now, now + 3600, "chronyc tracking", "sha256:00",
        (Citation(Framework.HIPAA, "164.312(b)", "Audit controls", Coverage.PARTIAL, True),),
        "that the log is read", {"offset": "0.005"}, "look at the time server",
    )


# --- a person at a browser, without the browser -----------------------------------------------------------------------


class Person:
    """A session at the dashboard as a browser would hold it: cookies, Origin, the form's CSRF token."""

    def __init__(self, central: Central, role: Role | None = Role.ADMIN, *, fresh: bool = False) -> None:
        self.central = central
        self.session = new_session(central.certificates)
        self.session.headers["Accept"] = "text/html"
        self._csrf = ""
        if role is None:
            return
        # Argon2id is slow on purpose; tests that do not end the session share one login a role.
        if fresh or role not in central.logins:
            assert self.log_in(role.value, PASSWORD).status_code == 303
        if not fresh:
            cookies, self._csrf = central.logins.get(role) or (dict(self.session.cookies), self.csrf)
            central.logins[role] = (cookies, self._csrf)
            self.session.cookies.update(cookies)

    def log_in(self, name: str, password: str, **more: Any) -> requests.Response:
        return self.post("/login", {"name": name, "password": password}, **more)

    def get(self, path: str) -> requests.Response:
        return self.session.get(self.central.url + path, allow_redirects=False, timeout=20)

    def post(
        self, path: str, fields: dict[str, str] | None = None, *, origin: str | None = None
    ) -> requests.Response:
        return self.session.post(
            self.central.url + path, data=fields or {"": ""}, allow_redirects=False, timeout=20,
            headers={"Origin": self.central.url if origin is None else origin},
        )

    @property
    def csrf(self) -> str:
        if not self._csrf:
            self._csrf = self.get("/sites").text.split('name="csrf" value="', 1)[1].split('"', 1)[0]
        return self._csrf

    def submit(self, path: str, **fields: str) -> requests.Response:
        return self.post(path, {"csrf": self.csrf, **fields})
