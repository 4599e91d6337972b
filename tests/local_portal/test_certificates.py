"""The site's own CA: trusted for this appliance only, and right whatever the clock says."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from local_portal import authority
from local_portal.certificates import DAY, SANE_CLOCK, CertificateError, Certificates, Order
from local_portal.names import Names, current, own_addresses

NAMES = Names(("appliance.local", "localhost", "t640"), ("10.77.0.5", "127.0.0.1", "::1"))
LATER = SANE_CLOCK + 40 * DAY


def issue(directory: Path, now: float = LATER, names: Names = NAMES) -> Certificates:
    authority.issue(Order(str(directory), names, now))
    return Certificates(directory)


def verify(files: Certificates, name: str, at: float, *, kind: str = "hostname", leaf: Path | None = None) -> str:
    """What OpenSSL says of a leaf: nothing when it is content."""
    done = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-attime", str(int(at)), f"-verify_{kind}", name,
         "-CAfile", str(files.ca), str(leaf or files.chain)], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stderr


@pytest.mark.parametrize(("kind", "name"), [("hostname", "appliance.local"), ("hostname", "t640"), ("ip", "10.77.0.5")])
def test_openssl_accepts_the_leaf_for_the_appliances_names_and_addresses(tmp_path: Path, kind: str, name: str) -> None:
    assert verify(issue(tmp_path), name, LATER, kind=kind) == ""


def test_a_leaf_that_the_ca_signs_for_anybody_else_is_worthless(tmp_path: Path) -> None:
    files = issue(tmp_path)
    key = serialization.load_pem_private_key(files.ca_key.read_bytes(), None)
    ca = x509.load_pem_x509_certificate(files.ca.read_bytes())
    stolen = (
        x509.CertificateBuilder().subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bank.example")]))
        .issuer_name(ca.subject).public_key(key.public_key()).serial_number(7)
        .not_valid_before(datetime.fromtimestamp(LATER - DAY, UTC))
        .not_valid_after(datetime.fromtimestamp(LATER, UTC) + timedelta(days=9))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("bank.example")]), critical=False)
        .sign(key, hashes.SHA256()))
    path = tmp_path / "stolen.pem"
    path.write_bytes(stolen.public_bytes(serialization.Encoding.PEM))
    assert "permitted subtree violation" in verify(files, "bank.example", LATER, leaf=path)


def test_a_name_the_ca_may_not_vouch_for_is_left_out_and_said(tmp_path: Path) -> None:
    issue(tmp_path)
    files = issue(tmp_path, names=Names((*NAMES.dns, "new-name"), (*NAMES.addresses, "203.0.113.9", "192.168.7.7")))
    leaf = files.leaf()
    assert leaf is not None and leaf.left_out == ("new-name", "203.0.113.9")
    assert verify(files, "192.168.7.7", LATER, kind="ip") == ""


def test_another_address_is_vouched_for_when_it_was_there_at_first_start(tmp_path: Path) -> None:
    files = issue(tmp_path, names=Names(NAMES.dns, ("203.0.113.9",)))
    assert verify(files, "203.0.113.9", LATER, kind="ip") == ""


def test_made_in_1970_it_already_holds_for_a_browser_whose_clock_is_right(tmp_path: Path) -> None:
    files = issue(tmp_path, now=7.0)
    assert verify(files, "appliance.local", LATER) == ""
    assert files.due(NAMES, 8.0) == ""


def test_once_the_clock_is_set_the_leaf_is_renewed_and_the_ca_stays(tmp_path: Path) -> None:
    files = issue(tmp_path, now=7.0)
    before = files.fingerprint()
    assert files.ensure(NAMES, LATER) == "the clock has been set since"
    leaf = files.leaf()
    assert leaf is not None and leaf.not_after - LATER < 91 * DAY
    assert files.fingerprint() == before and files.ensure(NAMES, LATER) == ""


@pytest.mark.parametrize(("now", "names", "reason"), [
    (LATER + 55 * DAY, NAMES, ""),
    (LATER + 60 * DAY, NAMES, "expires within 30 days"),
    (LATER + 500 * DAY, NAMES, "expires within 30 days"),
    (LATER - 5 * DAY, NAMES, "clock that ran ahead"),
    (LATER, Names(NAMES.dns, ("10.77.0.6",)), "new name or address"),
    (LATER, Names(NAMES.dns, ("127.0.0.1",)), ""),
    (3.0, NAMES, ""),
])
def test_a_leaf_is_renewed_when_it_must_be_and_only_then(tmp_path: Path, now: float, names: Names, reason: str) -> None:
    found = issue(tmp_path).due(names, now)
    assert reason in found and bool(reason) == bool(found)


def test_private_keys_are_for_their_owner_only(tmp_path: Path) -> None:
    files = issue(tmp_path)
    assert [path.stat().st_mode & 0o777 for path in (files.ca_key, files.chain, files.ca)] == [0o600, 0o600, 0o644]


@pytest.mark.parametrize("damage", [b"", b"garbage", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_damaged_ca_key_is_an_error_that_says_what_to_do_and_is_never_replaced(tmp_path: Path, damage: bytes) -> None:
    files = issue(tmp_path)
    files.ca_key.write_bytes(damage)
    files.chain.unlink()
    with pytest.raises(CertificateError, match=r"move ca\.key and ca\.crt away"):
        files.ensure(NAMES, LATER)
    assert files.ca_key.read_bytes() == damage


def test_a_power_cut_between_ca_certificate_and_key_heals_itself(tmp_path: Path) -> None:
    files = issue(tmp_path)
    files.ca_key.unlink()
    assert files.ensure(NAMES, LATER)
    assert verify(files, "appliance.local", LATER) == ""


def test_a_torn_description_only_means_a_new_leaf(tmp_path: Path) -> None:
    files = issue(tmp_path)
    files.description.write_bytes(files.description.read_bytes()[:20])
    assert files.ensure(NAMES, LATER) == "there is no complete certificate"
    assert files.leaf() is not None


def test_a_state_directory_that_is_gone_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="no certificate could be issued"):
        Certificates(tmp_path / "gone").ensure(NAMES, LATER)


def test_the_fingerprint_is_the_one_openssl_shows(tmp_path: Path) -> None:
    files = issue(tmp_path)
    shown = subprocess.run(["openssl", "x509", "-in", str(files.ca), "-noout", "-fingerprint", "-sha256"],
                           capture_output=True, text=True, check=True).stdout
    assert shown.strip().split("=")[1] == files.fingerprint()


def test_a_python_client_with_strict_flags_shakes_hands(tmp_path: Path) -> None:
    import time
    files = issue(tmp_path, now=time.time())
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.chain)
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=lambda: server.wrap_socket(theirs, server_side=True).close())
    thread.start()
    client = ssl.create_default_context(cafile=str(files.ca))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    with client.wrap_socket(ours, server_hostname="appliance.local") as connection:
        assert connection.version() in ("TLSv1.2", "TLSv1.3")
    thread.join()


def test_the_kernels_tables_give_every_address(tmp_path: Path) -> None:
    (tmp_path / "fib_trie").write_text(
        "Main:\n  |-- 0.0.0.0\n     /0 universe UNICAST\nLocal:\n        |-- 10.77.0.5\n           /32 host LOCAL\n"
        "        |-- 10.77.0.255\n           /32 link BROADCAST\n        |-- 127.0.0.0\n              /8 host LOCAL\n"
        "              |-- 127.0.0.1\n                 /32 host LOCAL\n")
    (tmp_path / "if_inet6").write_text("fe8000 cut off\nfe80000000000000505400fffe123456 02 40 20 80     eth0\n")
    assert {str(address) for address in own_addresses(tmp_path)} == {
        "10.77.0.5", "127.0.0.1", "fe80::5054:ff:fe12:3456"}


def test_without_the_kernels_tables_loopback_is_still_known(tmp_path: Path) -> None:
    assert current((), tmp_path / "nowhere").addresses == ("127.0.0.1", "::1")
