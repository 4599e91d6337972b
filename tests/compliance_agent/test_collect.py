"""The collector reads what only root may, tells no secret, and says what it could not read."""

from __future__ import annotations

import dataclasses
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance_protocol.clock import ClockReading, ClockState
from appliance_protocol.wire import canonical
from compliance_agent.collect import attempt, collect, command, earlier, read_certificates, read_esp, sudoers, write
from compliance_agent.collect_accounts import parse_key, password_state, read_accounts
from compliance_agent.collect_listeners import read_listeners
from compliance_agent.errors import CheckError
from compliance_agent.privileged import FACTS_FILE, PasswordState, PrivilegedFacts, Reading, read_facts
from tests.compliance_agent.central_peer import make_authority

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
FINGERPRINT = "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU"


@pytest.fixture
def box(tmp_path: Path) -> Path:
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "passwd").write_text(
        "root:x:0:0:root:/root:/bin/bash\n# comment\n"
        "ops:x:1000:1000::/home/ops:/bin/sh\nold:x:1001:1001::/home/old:/bin/sh\n"
    )
    (etc / "shadow").write_text("root:!:1::::::\nops:$y$j9T$secret$hash:1::::::\n")
    (etc / "group").write_text("root:x:0:\nwheel:x:10:ops,old\nops:x:1000:\n")
    keys = tmp_path / "home/ops/.ssh"
    keys.mkdir(parents=True)
    (keys / "authorized_keys").write_text(f'# c\nfrom="10.0.0.1" {KEY} ops@laptop\nnot a key\n')
    return tmp_path


def test_accounts_come_with_their_password_state_groups_and_keys(box: Path) -> None:
    root, ops, old = read_accounts(box)
    assert (root.password, ops.password, old.password) == (
        PasswordState.LOCKED,
        PasswordState.SET,
        PasswordState.UNKNOWN,
    )
    assert (ops.groups, root.groups) == (("wheel",), ())
    key, bad = ops.keys
    assert (key.fingerprint, key.kind, key.comment, key.options) == (
        FINGERPRINT,
        "ssh-ed25519",
        "ops@laptop",
        'from="10.0.0.1"',
    )
    assert (bad.fingerprint, bad.error) == ("", "a line that is not a key")


def test_no_hash_and_no_unread_line_leaves_the_collector(box: Path) -> None:
    (box / "home/old/.ssh").mkdir(parents=True)
    (box / "home/old/.ssh/authorized_keys").symlink_to(box / "etc/shadow")
    document = canonical(read_accounts(box)).decode()
    assert "secret" not in document
    assert "not a key" in document  # the error's own words, not the line's


def test_keys_are_looked_for_where_sshd_does(box: Path) -> None:
    declared = box / "etc/ssh/authorized_keys.d"
    declared.mkdir(parents=True)
    (declared / "root").write_text(KEY)
    assert [key.file for key in read_accounts(box)[0].keys] == ["/etc/ssh/authorized_keys.d/root"]
    assert read_accounts(box, "authorizedkeysfile /nowhere/%u\n")[0].keys == ()


def test_a_pipe_in_place_of_a_key_file_does_not_hang_the_collector(box: Path) -> None:
    (box / "home/old/.ssh").mkdir(parents=True)
    os.mkfifo(box / "home/old/.ssh/authorized_keys")
    assert "not a regular file" in read_accounts(box)[2].error


@given(st.text(max_size=200))
def test_no_line_makes_the_key_parser_raise(line: str) -> None:
    parse_key("file", line)


@pytest.mark.parametrize(
    ("field", "state"),
    [("", "empty"), ("!", "locked"), ("*", "locked"), ("!$6$x", "locked"), ("$y$j9T$a", "set"), ("x", "set")],
)
def test_the_password_field_is_read_as_shadow_5_means_it(field: str, state: str) -> None:
    assert password_state(field) == state


def test_a_damaged_passwd_is_an_error_and_not_an_empty_list(box: Path) -> None:
    (box / "etc/passwd").write_text("root:x\n")
    accounts, error = attempt(lambda: read_accounts(box), ())
    assert accounts == ()
    assert "a line with 2 fields" in error


def test_a_listening_socket_is_found_with_its_program() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        found = [item for item in read_listeners() if item.port == port]
    assert [(item.protocol, item.address) for item in found] == [("tcp", "127.0.0.1")]
    assert found[0].program == Path("/proc/self/comm").read_text().strip()


def test_a_command_that_is_missing_fails_or_hangs_has_a_reason_and_no_output() -> None:
    assert command("no-such-program-here").error == "no-such-program-here is not installed"
    failed = command("sh", "-c", "echo half; echo broken >&2; exit 3")
    assert (failed.output, failed.error) == ("", "ended with 3: broken")


def test_a_failed_reading_is_never_taken_for_an_empty_one() -> None:
    with pytest.raises(CheckError, match="nft: not installed"):
        Reading("nft", error="not installed").text()
    with pytest.raises(CheckError, match="did not collect 'moon'"):
        PrivilegedFacts(ClockReading(0, 0, "", ClockState.UNKNOWN)).reading("moon")


def test_sudoers_lose_their_comments_and_keep_their_includes(box: Path) -> None:
    (box / "etc/sudoers.d").mkdir()
    (box / "etc/sudoers").write_text("# c\n\nroot ALL=(ALL) ALL\n#includedir /etc/sudoers.d\n#1000 ALL=ALL\n")
    (box / "etc/sudoers.d/ops").write_text("ops ALL=ALL\n")
    lines = sudoers(box).output.splitlines()
    assert lines == ["root ALL=(ALL) ALL", "#includedir /etc/sudoers.d", "#1000 ALL=ALL", "ops ALL=ALL"]


def test_the_esp_is_looked_into(box: Path) -> None:
    assert read_esp(box).error.startswith("no EFI system partition is mounted")
    (box / "efi/EFI/Linux").mkdir(parents=True)
    (box / "efi/EFI/BOOT").mkdir()
    (box / "efi/EFI/Linux/t640_2026.11.0.efi").write_bytes(b"x" * 10)
    (box / "efi/EFI/BOOT/bootx64.efi").write_bytes(b"x")
    esp = read_esp(box)
    assert (esp.mount_point, esp.files, esp.fallback_present) == ("/efi", {"t640_2026.11.0.efi": 10}, True)
    assert esp.total >= esp.free > 0


def test_the_portals_certificates_are_told_without_their_keys(box: Path) -> None:
    make_authority(box / "var/lib/local-portal")
    (box / "var/lib/local-portal/broken.pem").write_text("not a certificate")
    broken, ca, server = read_certificates(box)
    assert (ca.path, server.path) == ("/var/lib/local-portal/ca.pem", "/var/lib/local-portal/server.pem")
    assert 0 < server.not_before < server.not_after
    assert broken.error
    assert "PRIVATE" not in canonical((broken, ca, server)).decode()


def test_a_certificate_that_is_the_same_as_last_time_is_not_parsed_again(box: Path) -> None:
    make_authority(box / "var/lib/local-portal")
    first = read_certificates(box)
    known = [dataclasses.replace(one, subject="from last time") for one in first]
    assert [one.subject for one in read_certificates(box, known)] == ["from last time"] * 2
    make_authority(box / "var/lib/local-portal")
    renewed = read_certificates(box, known)
    assert "from last time" not in [one.subject for one in renewed]
    assert {one.digest for one in renewed}.isdisjoint(one.digest for one in first)


@pytest.mark.parametrize("left", [None, b"", b"{", b'{"format": 1}', b"[]"])
def test_whatever_the_last_run_left_the_next_one_collects(tmp_path: Path, left: bytes | None) -> None:
    path = tmp_path / "facts.json"
    if left is not None:
        path.write_bytes(left)
    assert earlier(path) is None
    assert collect(before=earlier(path)).listeners_error == ""


def test_what_was_collected_is_read_back_by_the_unprivileged_side(tmp_path: Path) -> None:
    path = tmp_path / FACTS_FILE.lstrip("/")
    path.parent.mkdir(parents=True)
    collected = collect()
    write(collected, path)
    assert path.stat().st_mode & 0o777 == 0o640
    assert read_facts(collected.collected, tmp_path) == collected


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"boot_id": "another"}, "is from before the last boot"),
        ({"monotonic": 5000.0}, "is 4000 s old, at most 900 s count"),
    ],
)
def test_old_facts_are_not_facts(tmp_path: Path, change: dict[str, object], words: str) -> None:
    now = ClockReading(1_790_000_000.0, 1000.0, "boot", ClockState.SYNCHRONISED)
    path = tmp_path / FACTS_FILE.lstrip("/")
    path.parent.mkdir(parents=True)
    write(PrivilegedFacts(now), path)
    with pytest.raises(CheckError, match=words):
        read_facts(dataclasses.replace(now, **change), tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"collected": 1}', b"x" * (5 << 20)])
def test_missing_or_damaged_facts_say_where_to_look(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / FACTS_FILE.lstrip("/")
    path.parent.mkdir(parents=True)
    if content is not None:
        path.write_bytes(content)
    now = ClockReading(0.0, 0.0, "boot", ClockState.UNKNOWN)
    with pytest.raises(CheckError, match="journalctl -u compliance-agent-collect"):
        read_facts(now, tmp_path)
