"""The device's key and enrolment: made once, kept whole, never silently replaced."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance_protocol.keys import PrivateKey
from compliance_agent.enrolling import check_authority
from compliance_agent.identity import (
    ENROLMENT_FILE,
    KEY_FILE,
    Enrolment,
    Identity,
    IdentityError,
    Invitation,
    read_invitation,
    write_atomically,
)
from tests.compliance_agent.central_peer import DEVICE, make_authority

ENROLMENT = Enrolment(DEVICE, "site", "Site", "https://c.example", (PrivateKey.generate().public.text,), 1.0)


def test_the_key_is_made_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    first = Identity(tmp_path).key()
    assert Identity(tmp_path).key() == first
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o777 == 0o600


def test_two_at_once_make_one_key(tmp_path: Path) -> None:
    keys: list[PrivateKey] = []
    threads = [threading.Thread(target=lambda: keys.append(Identity(tmp_path).key())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(keys)) == 1
    assert len(keys) == 8


@pytest.mark.parametrize("content", [b"", b"not base64!", b"QUJD\n", b"\xff" * 100])
def test_a_damaged_key_is_told_and_not_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / KEY_FILE).write_bytes(content)
    with pytest.raises(IdentityError, match=r"device\.key"):
        Identity(tmp_path).key()
    assert (tmp_path / KEY_FILE).read_bytes() == content


def test_an_enrolment_is_read_back_with_its_authority(tmp_path: Path) -> None:
    authority, _ = make_authority(tmp_path / "tls")
    identity = Identity(tmp_path)
    assert identity.enrolment() is None
    kept = identity.save(ENROLMENT, authority.read_text())
    assert identity.enrolment() == kept
    assert Path(kept.ca_file).read_text() == authority.read_text()


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b"\xff", b'{"device_id": 3}', b'{"device_id":"d","site_id":"s","site_name":"n"}']
)
def test_a_damaged_enrolment_is_told_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ENROLMENT_FILE).write_bytes(content)
    with pytest.raises(IdentityError, match=r"enrolment\.json.*enrol the device again"):
        Identity(tmp_path).enrolment()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_atomically(target, b"old", 0o600)
    with pytest.raises(TypeError):
        write_atomically(target, "not bytes", 0o600)  # type: ignore[arg-type]
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (b"", "missing required field `url`"),
        (b"url = 'https://c'\n", "missing required field `code`"),
        (b"url = 'http://c.example'\ncode = 'X'\n", "is not an https:// address"),
        (b"url = 'https://c'\ncode = ' '\n", "the enrolment code is empty"),
        (b"url = 3\ncode = 'X'\n", "Expected `str`, got `int`"),
        (b"url = [", "credential compliance-agent.enrolment"),
        (b"\xff\xfe", "credential compliance-agent.enrolment"),
        (b"#" * 70_000, "larger than"),
    ],
)
def test_a_credential_that_is_no_invitation_says_why(document: bytes, words: str) -> None:
    with pytest.raises(IdentityError, match=words):
        read_invitation(document)


@given(st.binary(max_size=200))
def test_no_credential_makes_the_reader_raise_anything_else(document: bytes) -> None:
    try:
        read_invitation(document)
    except IdentityError:
        return


def test_an_address_of_this_machine_may_be_plain() -> None:
    assert Invitation("http://127.0.0.1:8000", "X").url


def test_an_authority_that_is_no_certificate_is_refused_before_anything_is_sent() -> None:
    check_authority("")
    with pytest.raises(IdentityError, match="is not PEM"):
        check_authority("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")


def test_the_command_line_run_by_root_leaves_files_of_the_service_and_follows_no_link() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    program = (
        "import sys; from pathlib import Path\n"
        "from compliance_agent.identity import Identity, become_owner\n"
        "become_owner(Path(sys.argv[1])); Identity(Path(sys.argv[1])).key()\n"
    )
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o711)
        state = Path(directory) / "state"
        state.mkdir()
        os.chown(state, 65534, 65534)
        subprocess.run([sys.executable, "-c", program, str(state)], check=True)
        assert (state / KEY_FILE).stat().st_uid == 65534
