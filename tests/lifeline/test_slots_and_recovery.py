"""The slot tool, the recovery's loop, the status page, the scripts themselves and the numbers they read."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import time
import tomllib
from pathlib import Path

import pytest

from appliance_update.gpt import TYPES
from appliance_update.host import LOADER_GUID
from appliance_update.layout import Role, load
from tests.appliance_update.simulator import LAYOUT, boot, relabel
from tests.lifeline.conftest import LIFELINE, PROGRAMS, V1, V2, World, make_layout

SCRIPTS = sorted(path for path in LIFELINE.iterdir() if path.is_file() and path.suffix in ("", ".sh"))
RECOVERY = "2026.10.1"


@pytest.fixture
def two_slots(world: World) -> World:
    """V1 in slot a, V2 in slot b, both proved good; V2 runs."""
    world.publish(V2)
    assert world.run("run", "--now").returncode == 0
    assert boot(world.device) == V2
    assert world.rebooted
    return world


def slots(world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    return world.run(*arguments, program="appliance-slots")


def add_recovery(world: World, counter: str = "+3") -> None:
    (world.device.uki_directory / f"t640-recovery_{RECOVERY}{counter}.efi").write_bytes(b"MZ")


def in_recovery(world: World) -> None:
    """The machine as the recovery sees it: no slot is mapped, and os-release is its own."""
    shutil.rmtree(world.root / "sys/devices/dm-0")
    for holder in world.root.glob("sys/devices/nvme0n1/*/holders/*"):
        holder.unlink()
    (world.root / "proc/cmdline").write_text("panic=10 quiet\n")
    (world.root / "etc/os-release").write_text(f"IMAGE_ID=t640-recovery\nIMAGE_VERSION={RECOVERY}\n")
    shutil.rmtree(world.root / "var/lib/appliance-update")
    shutil.rmtree(world.root / "var/lib/appliance-lifeline", ignore_errors=True)


def spend(world: World, *versions: str) -> None:
    for version in versions:
        path = world.device.uki_directory / f"t640_{version}.efi"
        path.rename(path.with_name(f"t640_{version}+0-3.efi"))


# -- the slot tool ----------------------------------------------------------------------------------------------------


def test_it_lists_what_is_in_each_slot(two_slots: World) -> None:
    add_recovery(two_slots)
    lines = slots(two_slots, "list").stdout.splitlines()
    assert lines[1].split() == ["slot", "a", V1, "standby", "proved", "good"]
    assert lines[2].split() == ["slot", "b", V2, "running", "proved", "good"]
    assert lines[3].split() == ["recovery", RECOVERY, "standby", "ready"]


def test_an_empty_slot_is_called_empty(world: World) -> None:
    assert "empty" in slots(world, "list").stdout.splitlines()[2]


def test_the_other_slot_is_booted_once_by_the_loaders_own_variable(two_slots: World) -> None:
    done = slots(two_slots, "boot", "a", "--now")
    assert done.returncode == 0, done.stderr
    raw = next((two_slots.root / "sys/firmware/efi/efivars").glob("LoaderEntryOneShot-*")).read_bytes()
    assert raw[:4] == b"\7\0\0\0"
    assert raw[4:].decode("utf-16-le") == f"t640_{V1}.efi\0"
    assert two_slots.rebooted


def test_a_slot_marked_bad_is_not_booted_while_another_is_left(two_slots: World) -> None:
    assert slots(two_slots, "mark-bad", "b").returncode == 0
    assert two_slots.device.ukis() == [f"t640_{V1}.efi", f"t640_{V2}+0-0.efi"]
    assert boot(two_slots.device) == V1
    assert slots(two_slots, "try-again", "b").returncode == 0
    assert boot(two_slots.device) == V2


def test_the_last_slot_is_never_marked_bad_unless_the_recovery_can_take_over(two_slots: World) -> None:
    slots(two_slots, "mark-bad", "a")
    refused = slots(two_slots, "mark-bad", "b")
    assert refused.returncode == 1
    assert "last one" in refused.stderr
    add_recovery(two_slots)
    assert slots(two_slots, "mark-bad", "b").returncode == 0


@pytest.mark.parametrize("arguments", [("boot", "c"), ("boot",), ("mark-bad", "x"), ("frob",)])
def test_what_it_does_not_know_it_refuses(two_slots: World, arguments: tuple[str, ...]) -> None:
    before = two_slots.device.ukis()
    assert slots(two_slots, *arguments).returncode == 2
    assert two_slots.device.ukis() == before


# -- the recovery -----------------------------------------------------------------------------------------------------


def recover(world: World, **seconds: int) -> subprocess.CompletedProcess[str]:
    times = {f"APPLIANCE_RECOVERY_{name.upper()}": str(value) for name, value in ({"pause": 0} | seconds).items()}
    return world.run("", program="appliance-recovery", **times)


def test_with_both_slots_spent_it_installs_without_any_state(two_slots: World) -> None:
    two_slots.publish("2026.12.1")
    spend(two_slots, V1, V2)
    add_recovery(two_slots, "+2-1")
    in_recovery(two_slots)
    done = recover(two_slots)
    assert two_slots.rebooted, done.stdout
    assert two_slots.device.partition(Role.DATA, "a").label == "t640_2026.12.1"  # the older one was given up
    assert f"t640-recovery_{RECOVERY}+3.efi" in two_slots.device.ukis(), "it gave itself its tries back"
    assert boot(two_slots.device) == "2026.12.1"


def test_a_slot_that_only_rotted_is_repaired_piece_by_piece(two_slots: World) -> None:
    spend(two_slots, V1, V2)
    in_recovery(two_slots)
    with two_slots.device.disk.open("r+b") as disk:
        disk.seek(two_slots.device.partition(Role.DATA, "b").start)
        disk.write(bytes(4096))
    two_slots.server.requests.clear()
    recover(two_slots)
    assert two_slots.rebooted
    assert boot(two_slots.device) == V2
    assert len([path for path, _ in two_slots.server.requests if "pieces/" in path]) == 2  # and the kernel image


def test_while_a_slot_may_boot_nothing_is_written_and_it_goes_back_after_a_while(two_slots: World) -> None:
    two_slots.publish("2026.12.1")
    in_recovery(two_slots)
    before = two_slots.device.disk.read_bytes()
    recover(two_slots)
    assert not two_slots.rebooted
    recover(two_slots, by_hand=0)
    assert two_slots.rebooted
    assert two_slots.device.disk.read_bytes() == before


def test_when_the_lifeline_brings_nothing_the_better_slot_gets_one_more_try(two_slots: World) -> None:
    two_slots.server.close()
    spend(two_slots, V1, V2)
    in_recovery(two_slots)
    recover(two_slots)
    assert not two_slots.rebooted
    recover(two_slots, second_chance=0)
    assert two_slots.rebooted
    assert two_slots.device.ukis() == [f"t640_{V1}+0-3.efi", f"t640_{V2}+1-3.efi"]


def aside(world: World, version: str, counter: str = "+0-4") -> None:
    """The updater's second thoughts: the good version's entry is spent by the updater itself."""
    path = world.device.uki_directory / f"t640_{version}.efi"
    path.rename(path.with_name(f"t640_{version}{counter}.efi"))


def test_a_good_version_that_stepped_aside_comes_back_by_itself_and_once(two_slots: World) -> None:
    two_slots.publish("2026.12.1")
    aside(two_slots, V1)
    spend(two_slots, V2)
    add_recovery(two_slots, "+2-1")
    in_recovery(two_slots)
    two_slots.server.requests.clear()
    before = two_slots.device.disk.read_bytes()
    done = recover(two_slots)
    assert two_slots.rebooted, done.stdout
    recovery = f"t640-recovery_{RECOVERY}+3.efi"
    assert two_slots.device.ukis() == sorted([f"t640_{V1}+1-4.efi", f"t640_{V2}+0-3.efi", recovery])
    assert two_slots.device.disk.read_bytes() == before
    assert two_slots.server.requests == []
    # The loader counts it, and it fails.
    (two_slots.device.uki_directory / f"t640_{V1}+1-4.efi").rename(
        two_slots.device.uki_directory / f"t640_{V1}+0-5.efi"
    )
    recover(two_slots)
    assert two_slots.rebooted
    assert boot(two_slots.device) == "2026.12.1"


@pytest.mark.parametrize("counter", ["+0-3", "+0-5"])
def test_a_version_that_failed_its_tries_does_not_come_back_before_the_lifeline_is_asked(
    two_slots: World, counter: str
) -> None:
    two_slots.server.close()
    aside(two_slots, V1, counter)
    spend(two_slots, V2)
    in_recovery(two_slots)
    recover(two_slots)
    assert two_slots.device.ukis() == [f"t640_{V1}{counter}.efi", f"t640_{V2}+0-3.efi"]
    assert not two_slots.rebooted


def test_a_version_that_stepped_aside_does_not_come_back_without_a_whole_slot(two_slots: World) -> None:
    two_slots.server.close()
    aside(two_slots, V1)
    spend(two_slots, V2)
    relabel(two_slots.device.disk, two_slots.device.layout.number(Role.VERITY, "a"), label="_empty")
    in_recovery(two_slots)
    recover(two_slots)
    assert two_slots.device.ukis() == [f"t640_{V1}+0-4.efi", f"t640_{V2}+0-3.efi"]
    assert not two_slots.rebooted


def test_an_entry_that_cannot_be_renamed_restarts_nothing_and_the_lifeline_is_asked(two_slots: World) -> None:
    two_slots.publish("2026.12.1")
    aside(two_slots, V1)
    spend(two_slots, V2)
    in_recovery(two_slots)
    shims = two_slots.directory / "shims"
    shutil.copytree(two_slots.tools, shims, symlinks=True)
    (shims / "mv").unlink()
    (shims / "mv").write_text(
        f'#!{two_slots.tools}/sh\ncase "$*" in *+1-4*) exit 1 ;; esac\nexec {(two_slots.tools / "mv").resolve()} "$@"\n'
    )
    (shims / "mv").chmod(0o755)
    done = recover(dataclasses.replace(two_slots, tools=shims))
    assert boot(two_slots.device) == "2026.12.1", done.stdout


def test_a_replay_is_refused_in_the_recovery_too(two_slots: World) -> None:
    old = two_slots.file.read_bytes(), Path(f"{two_slots.file}.minisig").read_bytes()
    two_slots.publish(V2)
    two_slots.run("run", "--now")  # has seen number 2
    two_slots.file.write_bytes(old[0])
    Path(f"{two_slots.file}.minisig").write_bytes(old[1])
    spend(two_slots, V1, V2)
    in_recovery(two_slots)
    recover(two_slots)
    assert "replayed" in two_slots.status()["detail"]


def test_the_recovery_of_the_rig_knows_what_is_past(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from t640 import lifeline as rigs
    from t640 import recovery

    monkeypatch.setattr(rigs, "files", dict)
    recovery._fill_tree(tmp_path)
    built = int((tmp_path / "usr/share/appliance-update/build-time").read_text())
    assert 1790000000 < built <= time.time()
    assert (tmp_path / "usr/lib/appliance-lifeline/appliance-recovery").exists()


def test_a_file_that_ran_out_before_the_recovery_was_built_is_refused_in_it(two_slots: World) -> None:
    two_slots.file.unlink()
    two_slots.publish("2026.12.1", number=2, now=1780000000, days=1)
    spend(two_slots, V1, V2)
    in_recovery(two_slots)
    recover(two_slots)
    assert "the past for certain" in two_slots.status()["detail"]


def test_two_disks_of_ours_are_refused_in_the_recovery(two_slots: World) -> None:
    from tests.appliance_update.simulator import add_disk

    spend(two_slots, V1, V2)
    add_disk(two_slots.device, "sda", two_slots.device.disk)
    in_recovery(two_slots)
    done = recover(two_slots)
    assert "both look like the appliance's disk" in done.stdout


def test_a_slot_without_a_whole_system_is_taken_first(two_slots: World) -> None:
    two_slots.publish("2026.12.1")
    number = two_slots.device.layout.number(Role.DATA, "b")
    relabel(two_slots.device.disk, number, label="_empty")
    spend(two_slots, V1, V2)
    in_recovery(two_slots)
    recover(two_slots)
    assert two_slots.device.partition(Role.DATA, "b").label == "t640_2026.12.1"
    assert two_slots.device.partition(Role.DATA, "a").label == f"t640_{V1}"
    assert boot(two_slots.device) == "2026.12.1"


@pytest.mark.parametrize(
    ("entry", "after"),
    [("t640-recovery_1+3.efi", "t640_2+0-1.efi"), ("t640-recovery_1+0-3.efi", "t640_2.efi")],
)
def test_the_last_slot_that_no_longer_opens_hands_over_to_a_recovery_that_may_boot(
    tmp_path: Path, entry: str, after: str
) -> None:
    directory, variables = tmp_path / "esp/EFI/Linux", tmp_path / "efivars"
    directory.mkdir(parents=True)
    variables.mkdir()
    for name in (entry, "t640_2.efi"):
        (directory / name).write_bytes(b"MZ")
    raw = b"\6\0\0\0" + "t640_2.efi\0".encode("utf-16-le")
    (variables / f"LoaderEntrySelected-{LOADER_GUID}").write_bytes(raw)
    environment = {"PATH": "/usr/bin:/bin", "APPLIANCE_EFIVARS": str(variables), "APPLIANCE_ESP": str(tmp_path / "esp")}
    subprocess.run(
        ["sh", LIFELINE.parent / "initrd/appliance-demote"], env=environment, check=True, capture_output=True
    )
    assert sorted(path.name for path in directory.iterdir()) == sorted([entry, after])


# -- the status page --------------------------------------------------------------------------------------------------


def page(world: World, request: str = "GET / HTTP/1.1\r\nHost: box\r\n\r\n") -> tuple[str, str]:
    environment = {"PATH": str(world.tools), "APPLIANCE_LIFELINE_ROOT": str(world.root),
                   "APPLIANCE_LIFELINE_LIBRARY": str(world.directory / "library")}  # fmt: skip
    done = subprocess.run(
        [str(world.tools / "sh"), str(world.directory / "library/appliance-status-page")],
        input=request.encode(), env=environment, capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    head, _, body = done.stdout.decode().partition("\r\n\r\n")
    lengths = re.findall(r"Content-Length: (\d+)", head)
    assert not body or int(lengths[0]) == len(body)
    return head, body


def test_the_page_says_who_this_is_when_nothing_else_has_said_anything(world: World) -> None:
    head, body = page(world)
    assert head.startswith("HTTP/1.0 200 OK\r\n")
    assert f"t640 {V1}" in body
    assert "The updater has said nothing" in body


def test_the_page_shows_slots_gate_and_status_and_escapes_them(two_slots: World) -> None:
    runtime = two_slots.root / "run/appliance-update"
    runtime.mkdir(exist_ok=True)
    (runtime / "status.json").write_text(
        '{"state": "trial", "detail": "<script>alert(1)</script>", "last_check_at": 1793000000.0}'
    )
    (runtime / "gate.json").write_text(
        '{"passed": false, "reason": "portal: <b>no</b> answer", "version": "2026.11.2"}'
    )
    two_slots.run()
    _, body = page(two_slots)
    assert "<script" not in body
    assert "<b>" not in body
    assert "FAILED, version 2026.11.2: portal: &lt;b&gt;no&lt;/b&gt; answer" in body
    assert f"<td>{V2}</td><td>running</td><td>proved good</td>" in body
    assert "2026-10-26" in body


def test_the_page_says_whether_the_state_is_mounted(world: World) -> None:
    mounts = world.root / "proc/self/mountinfo"
    lines = [line for line in mounts.read_text().splitlines() if line.split()[4] != "/var"]
    mounts.write_text("".join(f"{line}\n" for line in lines))
    assert "NOT MOUNTED on /var" in page(world)[1]
    lines.append("31 22 259:6 / /var rw,nosuid,nodev - ext4 /dev/nvme0n1p6 rw")
    mounts.write_text("".join(f"{line}\n" for line in lines))
    assert "<td>mounted</td>" in page(world)[1]


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        ("POST / HTTP/1.1\r\n\r\n", "405"),
        ("GET /../../etc/shadow HTTP/1.1\r\n\r\n", "404"),
        ("GET /status.json HTTP/1.1\r\n\r\n", "404"),
        ("HEAD / HTTP/1.0\r\n\r\n", "200"),
        ("GET /?x=`id` HTTP/1.0\r\n\r\n", "200"),
    ],
)
def test_there_is_one_page_and_it_is_only_read(world: World, request_: str, answer: str) -> None:
    head, body = page(world, request_)
    assert head.split()[1] == answer
    assert (body == "") == request_.startswith("HEAD")
    assert "uid=" not in body


# -- the scripts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path: Path) -> None:
    done = subprocess.run(
        ["shellcheck", "-s", "sh", "-x", "-P", str(LIFELINE), str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_script_repeats_a_number_or_a_name_of_the_disk(path: Path) -> None:
    text = "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))
    for repeated in ("t640", "3072", "roothash", "usrhash", "EFI/Linux", "'_empty'", " /boot "):
        assert repeated not in text, f"{path.name} says {repeated!r}; layout.toml does"


def test_no_script_calls_python() -> None:
    assert "python" not in "".join(PROGRAMS)
    for path in SCRIPTS:
        code = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
        assert not [line for line in code if re.search(r"\bpython3?\b", line)], path.name


@pytest.mark.parametrize("flavour", sorted(load(LAYOUT).flavour))
def test_the_fragment_is_what_layout_toml_says(flavour: str) -> None:
    layout = load(LAYOUT)
    found = make_layout().variables(tomllib.loads(LAYOUT.read_text()), flavour)
    kinds = {name: str(kind).upper() for kind, name in TYPES.items()}
    assert found["layout_data_type"] == kinds[layout.flavour[flavour].data_type]
    assert found["layout_verity_type"] == kinds[layout.flavour[flavour].verity_type]
    assert found["layout_esp_type"] == kinds["esp"]
    for role in (Role.DATA, Role.VERITY):
        for slot in "ab":
            number = layout.number(role, slot)
            assert found[f"layout_{role.value}_{slot}_number"] == str(number)
            assert found[f"layout_{role.value}_bytes"] == str(layout.partition[number - 1].size)
    assert found["layout_uki_prefix"] + V1 + found["layout_uki_suffix"] == layout.esp.uki_name.replace("@v", V1)
    assert found["layout_version_pattern"] == tomllib.loads(LAYOUT.read_text())["image"]["version_pattern"]
    assert found["layout_tries"] == str(layout.boot.tries)
    assert found["layout_root_hash_argument"] == layout.flavour[flavour].root_hash_argument


def test_the_recovery_sorts_after_the_slots_by_the_loaders_rule() -> None:
    """systemd-boot compares the sort key first, which is IMAGE_ID; the file's name begins with it."""
    raw = tomllib.loads(LAYOUT.read_text())
    recovery_id = raw["esp"]["recovery_name"].partition("_")[0]
    assert recovery_id > raw["image"]["id"]
    assert raw["esp"]["recovery_first"].endswith(f"+{raw['boot']['tries']}.efi")


def test_the_status_page_is_locked_down_and_the_units_are_sound(tmp_path: Path) -> None:
    target = tmp_path / "usr/lib/systemd/system"
    shutil.copytree(LIFELINE / "systemd", target)
    shutil.copytree(LIFELINE / "recovery", target, dirs_exist_ok=True)
    for program in ("usr/bin/appliance-lifeline", *(f"usr/lib/appliance-lifeline/{name}" for name in
                    ("appliance-status-page", "appliance-console", "appliance-recovery"))):  # fmt: skip
        path = tmp_path / program
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    for unit in Path("/usr/lib/systemd/system").glob("*.target"):
        shutil.copy(unit, target / unit.name)
    units = ["appliance-lifeline.service", "appliance-lifeline.timer", "appliance-status.socket",
             "appliance-status@x.service", "appliance-console@tty1.service", "appliance-recovery.service"]  # fmt: skip
    done = subprocess.run(
        ["systemd-analyze", "verify", f"--root={tmp_path}", "--man=no", "--recursive-errors=no", *units],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    ours = [line for line in done.stderr.splitlines() if "appliance-" in line and "Unknown key" not in line]
    assert ours == []
