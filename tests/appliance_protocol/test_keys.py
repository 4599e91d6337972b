"""Keys: the published vectors, and what happens to a key file."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance_protocol.keys import KeyFormatError, PrivateKey, PublicKey


def test_rfc_8032_first_vector() -> None:
    # RFC 8032, section 7.1, TEST 1
    key = PrivateKey(bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
    assert key.public.raw.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    signature = key.sign(b"")
    assert signature.hex() == (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )
    assert key.public.verifies(b"", signature)


def test_a_saved_key_is_readable_only_by_its_owner_and_comes_back(tmp_path: Path) -> None:
    key = PrivateKey.generate()
    key.save(tmp_path / "device.key")
    assert stat.S_IMODE((tmp_path / "device.key").stat().st_mode) == 0o600
    assert PrivateKey.load(tmp_path / "device.key") == key
    assert [path.name for path in tmp_path.iterdir()] == ["device.key"]


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    PrivateKey.generate().save(tmp_path / "device.key")
    with pytest.raises(FileExistsError):
        PrivateKey.generate().save(tmp_path / "device.key")


@pytest.mark.parametrize("content", [b"", b"AAAA", b"\x00" * 44, b"not base64!", b"A" * 10_000])
def test_a_damaged_key_file_is_an_error_that_says_what_to_do(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "device.key").write_bytes(content)
    with pytest.raises(KeyFormatError, match="enrol"):
        PrivateKey.load(tmp_path / "device.key")


def test_a_private_key_does_not_show_itself_in_logs() -> None:
    key = PrivateKey.generate()
    assert key.seed.hex() not in repr(key)
    assert key.public.key_id in repr(key)


@given(st.text())
def test_any_text_is_a_public_key_or_a_clear_error(text: str) -> None:
    try:
        assert PublicKey.from_text(text).text == text
    except KeyFormatError as error:
        assert "public key" in str(error)


@given(st.binary(max_size=100), st.binary(max_size=80))
def test_a_made_up_signature_never_verifies(message: bytes, signature: bytes) -> None:
    assert not PrivateKey(b"\x01" * 32).public.verifies(message, signature)
