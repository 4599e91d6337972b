"""What checks read from the kernel, nft and certificates, against the real thing where this machine has it."""

from __future__ import annotations

import contextlib
import datetime
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from appliance_protocol.verdict import Verdict
from compliance_agent.checks import _nftables, _sockets
from compliance_agent.checks._inputs import Inputs
from compliance_agent.checks.base import Host
from compliance_agent.checks.certificate_expiry import CertificateExpiry
from compliance_agent.checks.listening_sockets import ListeningSockets
from compliance_agent.checks.settings import CheckSettings
from compliance_agent.config import Config
from compliance_agent.errors import CheckError
from tests.compliance_agent.checks import recorded

REPOSITORY = Path(__file__).parents[3]


def this_machine(**settings: object) -> Host:
    """The machine the test runs on, with no bus and no collector."""
    host = recorded.host(recorded.Case(), Path("/"))
    return replace(host, config=Config(checks=CheckSettings(**settings)))  # type: ignore[arg-type]


@contextlib.contextmanager
def bound(family: int, kind: int, address: str, *, only_v6: bool = True) -> Iterator[int]:
    """A socket that listens on a free port of `address`."""
    with socket.socket(family, kind) as opened:
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(only_v6))
        opened.bind((address, 0))
        if kind == socket.SOCK_STREAM:
            opened.listen()
        yield opened.getsockname()[1]


LISTENERS = [
    (socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1", "tcp", True),
    (socket.AF_INET, socket.SOCK_STREAM, "0.0.0.0", "tcp", False),
    (socket.AF_INET, socket.SOCK_DGRAM, "127.0.0.1", "udp", True),
    (socket.AF_INET6, socket.SOCK_STREAM, "::1", "tcp", True),
    (socket.AF_INET6, socket.SOCK_STREAM, "::", "tcp", False),
    (socket.AF_INET6, socket.SOCK_STREAM, "::ffff:127.0.0.1", "tcp", True),
    (socket.AF_INET6, socket.SOCK_STREAM, "::ffff:0.0.0.0", "tcp", False),
    (socket.AF_INET6, socket.SOCK_DGRAM, "::1", "udp", True),
]


@pytest.mark.parametrize(("family", "kind", "address", "protocol", "loopback"), LISTENERS, ids=lambda value: str(value))
def test_a_socket_this_test_opens_is_found_where_it_listens(
    family: int, kind: int, address: str, protocol: str, loopback: bool
) -> None:
    with bound(family, kind, address, only_v6=not address.startswith("::ffff:")) as port:
        found = [
            one for one in _sockets.listening(Inputs(this_machine())) if (one.protocol, one.port) == (protocol, port)
        ]
    assert [one.loopback for one in found] == [loopback]
    # An IPv4 wildcard given to an IPv6 socket is kept as ::ffff:0.0.0.0 and reaches every IPv4 interface.
    assert str(found[0].address) == str(_sockets.ipaddress.ip_address(address))


def test_a_connected_udp_socket_and_an_accepted_connection_do_not_listen() -> None:
    with bound(socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1") as port:
        client = socket.create_connection(("127.0.0.1", port))
        asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        asking.connect(("127.0.0.1", port))
        local = {client.getsockname()[1], asking.getsockname()[1]}
        try:
            ports = {one.port for one in _sockets.listening(Inputs(this_machine()))}
        finally:
            client.close()
            asking.close()
    assert port in ports
    assert not local & ports


def test_a_port_opened_behind_the_declared_list_fails_the_check_until_it_is_declared() -> None:
    with bound(socket.AF_INET, socket.SOCK_STREAM, "0.0.0.0") as port:
        others = {one.name for one in _sockets.listening(Inputs(this_machine()))} - {f"tcp/{port}"}
        surprised = ListeningSockets().run(this_machine(listening=tuple(others)))
        declared = ListeningSockets().run(this_machine(listening=(*others, f"tcp/{port}")))
    assert (surprised.verdict, declared.verdict) == (Verdict.FAIL, Verdict.PASS)
    assert f"tcp/{port}" in surprised.reason


@given(st.text(max_size=300))
def test_any_text_in_place_of_the_socket_table_is_an_error_or_has_no_sockets(text: str) -> None:
    with contextlib.suppress(CheckError):
        assert _sockets.parse(text, "tcp", "0A") == []


# -- nft ---------------------------------------------------------------------------------------------------------------

BASE = """table {family} t {{
  chain base {{
    type filter hook {hook} priority filter; policy {policy};
    {rules}
  }}
  {more}
}}
"""


def ruleset(policy: str = "drop", rules: str = "", more: str = "", family: str = "inet", hook: str = "input") -> str:
    return BASE.format(policy=policy, rules=rules, more=more, family=family, hook=hook)


USUAL = 'iifname "lo" accept; ct state established,related accept; ct state invalid drop; tcp dport 443 accept;'
RULESETS = {
    "default deny": (ruleset(rules=USUAL), {"IPv4", "IPv6"}, False),
    "default deny by a last rule": (ruleset("accept", USUAL + "counter reject;"), {"IPv4", "IPv6"}, False),
    "default accept": (ruleset("accept", USUAL), set(), False),
    "nothing loaded": ("", set(), False),
    "undone by the first rule": (ruleset(rules="counter accept;" + USUAL), set(), False),
    "undone through a chain": (ruleset(rules="jump other;", more="chain other {\n accept\n }"), set(), False),
    "a chain that returns undoes nothing": (
        ruleset(rules="jump other;", more="chain other {\n return\n }"),
        {"IPv4", "IPv6"},
        False,
    ),
    "new connections let in": (ruleset(rules="ct state new,established accept;"), set(), False),
    "new connections let in by a map": (
        ruleset(rules="ct state vmap { established : accept, new : accept };"),
        set(),
        False,
    ),
    "all but invalid let in": (ruleset(rules="ct state != invalid accept;"), set(), False),
    "IPv4 only": (ruleset(family="ip"), {"IPv4"}, False),
    "one table a family": (ruleset(family="ip") + ruleset(family="ip6"), {"IPv4", "IPv6"}, False),
    "output closed, input open": (ruleset(hook="output"), set(), False),
    "every UDP port open": (ruleset(rules="meta l4proto { tcp, udp } accept;"), {"IPv4", "IPv6"}, True),
    "the whole LAN interface open": (ruleset(rules='iifname "eth0" accept;'), {"IPv4", "IPv6"}, True),
    "everybody by address": (ruleset(rules="meta nfproto ipv4 accept;"), {"IPv4", "IPv6"}, True),
    "loopback as a set": (ruleset(rules="iifname { lo } accept;"), {"IPv4", "IPv6"}, False),
}


def listed(text: str) -> str:
    """`nft -j list ruleset` in a network namespace that holds only `text`, and that ends with the command."""
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", "nft -f - && nft -j list ruleset"],
        input=text.encode(),
        check=True,
        capture_output=True,
        timeout=20,
    )
    return done.stdout.decode()


@pytest.mark.netns
@pytest.mark.parametrize(("text", "dropped", "wide"), RULESETS.values(), ids=RULESETS.keys())
def test_a_real_ruleset_is_understood(text: str, dropped: set[str], wide: bool) -> None:
    policy = _nftables.input_policy(listed(text))
    assert set(policy.dropped) == dropped
    assert bool(policy.wide) is wide


@pytest.mark.netns
def test_the_virtual_appliance_ships_a_ruleset_that_conforms() -> None:
    file = REPOSITORY / "vm-tests/t640/mkosi/mkosi.extra/etc/nftables.conf"
    policy = _nftables.input_policy(listed(file.read_text()))
    assert policy.dropped == ("IPv4", "IPv6")
    assert policy.wide == ()
    assert "tcp/443" in policy.open_ports


# -- certificates ------------------------------------------------------------------------------------------------------


def certificate(name: str, begins: float, ends: float, *, authority: bool = False) -> bytes:
    """A self-signed certificate that is valid from and until so many days from the time of the recordings."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.fromtimestamp(recorded.NOW.wall, datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=begins))
        .not_valid_after(now + datetime.timedelta(days=ends))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


LEAF, AUTHORITY = certificate("leaf", -30, 60), certificate("authority", -30, 60, authority=True)
FILES = {
    "a leaf with 60 days left": (LEAF, Verdict.PASS, "valid"),
    "an authority with 60 days left": (AUTHORITY, Verdict.FAIL, "runs out in 60 days"),
    "a chain is as good as its worst": (LEAF + AUTHORITY, Verdict.FAIL, "authority"),
    "a leaf with 3 days left": (certificate("leaf", -30, 3), Verdict.FAIL, "runs out in 3 days"),
    "an expired leaf": (certificate("leaf", -30, -1), Verdict.FAIL, "ran out on 2026-11-20"),
    "a leaf of tomorrow": (certificate("leaf", 1, 60), Verdict.FAIL, "not valid before 2026-11-22"),
    "a leaf cut short": (LEAF[: len(LEAF) // 2], Verdict.ERROR, "cannot be read"),
    "a leaf behind garbage": (b"\xff\x00 garbage\n" + LEAF, Verdict.PASS, "valid"),
    "no certificate": (b"-----BEGIN PRIVATE KEY-----\n", Verdict.ERROR, "holds 0 certificates"),
}


@pytest.mark.parametrize(("content", "verdict", "reason"), FILES.values(), ids=FILES.keys())
def test_real_certificates_are_judged_by_their_own_dates(
    content: bytes, verdict: Verdict, reason: str, tmp_path: Path
) -> None:
    case = recorded.Case(settings=CheckSettings(certificates=("/etc/tls/site.pem",)), privileged={})
    recorded.write(tmp_path, "/etc/tls/site.pem", content)
    with recorded.box(case, tmp_path) as host:
        finding = recorded.look(CertificateExpiry(), host)
    assert finding.verdict is verdict, finding.reason
    assert reason in finding.reason
