"""What the lifeline does not take, and what it does not touch: each with its reason in the status."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance_update.layout import Role
from tests.appliance_update.simulator import add_disk, make_build, relabel
from tests.appliance_update.web_server import WebServer
from tests.lifeline.conftest import V1, V2, V3, World, make_keys

pytestmark = pytest.mark.exhaustive

RAN_OUT = time.time() - 91 * 86400
"""What was published then held until yesterday."""


def refused(world: World, code: int, words: str, *arguments: str) -> None:
    before = world.device.disk.read_bytes(), world.device.ukis()
    done = world.run(*(arguments or ("run", "--now")))
    assert done.returncode == code, done.stdout + done.stderr
    assert words in world.status()["detail"]
    assert (world.device.disk.read_bytes(), world.device.ukis()) == before
    assert not world.rebooted


# -- the file ---------------------------------------------------------------------------------------------------------


def test_a_file_signed_with_another_key_is_refused(world: World, tmp_path: Path) -> None:
    mine, world.keys = world.keys, make_keys(tmp_path / "other")
    world.publish(V2)
    refused(world, 4, "not signed with a key of this device")
    shutil.copy(world.keys.public, world.root / "usr/share/appliance-lifeline/keys/next.pub")
    assert world.run("run", "--now").returncode == 0, "the key of a rotation is taken beside the old one"
    world.keys = mine


def test_a_changed_file_is_refused(world: World) -> None:
    world.publish(V2)
    world.file.write_text(world.file.read_text().replace("number 1\n", "number 9\n"))
    refused(world, 4, "not signed")


def test_a_captive_portal_is_not_taken_for_a_lifeline(world: World) -> None:
    world.publish(V2)
    world.server.login_page = True
    refused(world, 4, "captive portal")


def test_a_captive_portal_between_file_and_pieces_writes_nothing(world: World) -> None:
    world.publish(V2)
    world.server.login_page, world.server.only = True, "pieces/"
    before = world.device.content(Role.DATA, "b", 300_000)
    assert world.run("run", "--now").returncode in (3, 4)  # a page longer than the piece is not even fetched whole
    assert world.status()["state"] in ("unreachable", "refused")
    assert world.device.content(Role.DATA, "b", 300_000) == before
    assert world.device.ukis() == [f"t640_{V1}.efi"]


def test_an_older_number_than_ever_seen_is_a_replay_also_when_the_state_is_lost(world: World) -> None:
    world.publish(V2)
    old = world.file.read_bytes(), Path(f"{world.file}.minisig").read_bytes()
    world.publish(V3)
    world.publish(V1)  # number 3: nothing to do, and yet remembered
    assert world.run("run", "--now").returncode == 0
    world.file.write_bytes(old[0])
    Path(f"{world.file}.minisig").write_bytes(old[1])
    shutil.rmtree(world.root / "var/lib/appliance-lifeline")
    refused(world, 4, "replayed")
    shutil.rmtree(world.device.esp / "loader")
    world.settings["FLOOR"] = "2"  # what the image was built with
    refused(world, 4, "replayed")


def test_a_file_that_ran_out_is_refused_when_the_clock_is_set_by_the_network(world: World) -> None:
    world.publish(V2, now=RAN_OUT)
    world.set_clock()
    refused(world, 4, "ran out on")


def test_a_clock_that_nobody_set_does_not_strand_the_device(world: World) -> None:
    world.publish(V2, now=RAN_OUT)
    assert world.run("run", "--now").returncode == 0
    assert world.device.ukis() == [f"t640_{V1}.efi", f"t640_{V2}+3.efi"]


def test_a_file_that_ran_out_before_the_image_was_built_is_refused_on_any_clock(world: World) -> None:
    world.publish(V2, now=RAN_OUT)
    (world.root / "usr/share/appliance-update/build-time").write_text(f"{int(time.time()) + 5}\n")
    refused(world, 4, "the past for certain")


EDITS = {
    "another class": ("class t640", "class t740", "not for a t640"),
    "another flavour": ("flavour standin", "flavour nixos", "not for flavour"),
    "another format": ("appliance-lifeline 1", "appliance-lifeline 2", "does not know"),
    "a demand of a newer format": ("flavour standin", "flavour standin\nneeds zebra", "needs zebra"),
    "two versions": ("version ", "version 2026.11.9\nversion ", "'version' more than once"),
    "no number": ("number 1\n", "", "no number"),
    "a version like a path": (f"version {V2}", "version ../../etc", "names no version"),
    "a short root hash": ("root-hash ", "root-hash 0", "names no root hash"),
    "a gap": ("piece data 65536 ", "piece data 131072 ", "leave a gap"),
    "a piece from elsewhere": (" pieces/", " ../pieces/", "not allowed"),
    "a piece of another host": (" pieces/", " http://evil/", "not allowed"),
    "a whole that is too long": ("whole data ", "whole data 9", "room for"),
    "no text": ("flavour standin", "flavour standin\nnote \x07", "other bytes"),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_signed_file_that_does_not_fit_is_refused(world: World, name: str) -> None:
    before, after, words = EDITS[name]
    world.publish(V2)
    text = world.file.read_text()
    assert before in text
    world.sign(text.replace(before, after, 1))
    refused(world, 4, words)


def test_what_is_not_known_is_ignored(world: World) -> None:
    world.publish(V2)
    text = world.file.read_text().replace(
        "version ", "colour blue\nwhole recovery 1 x\npiece recovery what ever\nversion ", 1
    )
    world.sign(text.replace("class t640\n", "class t740 t640 t840\n"))
    assert world.run("run", "--now").returncode == 0
    assert world.device.ukis() == [f"t640_{V1}.efi", f"t640_{V2}+3.efi"]


def replaced(key: str, value: object) -> Callable[[str], str]:
    return lambda text: re.sub(rf"(?m)^{key} .*$", f"{key} {value}", text)


@pytest.mark.parametrize("clock_is_set", [True, False])
def test_a_file_issued_in_the_future_closes_the_channel_to_no_later_one(world: World, clock_is_set: bool) -> None:
    world.publish(V1)
    if clock_is_set:
        world.set_clock()
    world.sign_again(lambda text: replaced("issued", 4070908800)(replaced("not-after", 4078684800)(text)))
    assert world.run("run", "--now").returncode == 0  # its number holds; what runs is offered
    world.sign_again(replaced("issued", int(time.time())))
    world.publish(V2)
    assert world.run("run", "--now").returncode == 0
    assert world.device.ukis() == [f"t640_{V1}.efi", f"t640_{V2}+3.efi"]


def test_a_time_server_from_before_the_image_was_built_is_not_believed(world: World) -> None:
    world.publish(V2, now=time.time() + 10 * 86400)
    world.set_clock()
    (world.root / "usr/share/appliance-update/build-time").write_text(f"{int(time.time()) + 5 * 86400}\n")
    assert world.run("run", "--now").returncode == 0


def test_a_remembered_number_with_zeros_before_it_still_holds_off_a_replay(world: World) -> None:
    world.publish(V2)
    (world.device.esp / "loader").mkdir(exist_ok=True)
    (world.device.esp / "loader/appliance-lifeline").write_text("number=0007\nissued=0\ninstalled=0\n")
    refused(world, 4, "this device has seen 7")


def test_a_piece_whose_signed_content_is_false_is_never_written(world: World) -> None:
    world.publish(V2)
    before = world.device.content(Role.VERITY, "b", 4096)
    world.sign_again(lambda text: re.sub(r"(?m)^(piece verity 0 \d+) \w+", rf"\1 {'0' * 64}", text))
    assert world.run("run", "--now").returncode == 4
    assert "does not unpack to what was signed" in world.status()["detail"]
    assert world.device.content(Role.VERITY, "b", 4096) == before
    assert not world.rebooted


def test_a_kernel_image_for_another_slot_is_never_armed(world: World) -> None:
    from appliance_release import lifeline as publisher
    from appliance_release.artifacts import collect

    build = make_build(world.directory, V2)
    other = make_build(world.directory / "other", V2, size=200_000)
    artifacts = collect((build.directory,), V2)
    mixed = [one if one.role != "uki" else collect((other.directory,), V2)[2] for one in artifacts]
    order = publisher.Order(V2, piece=65536)
    found = publisher.root_hash
    try:  # a publisher that does not look
        publisher.root_hash = lambda _artifacts: (build.root_hash, "standin")
        publisher.publish(world.site, order, mixed, world.keys.secret, time.time())
    finally:
        publisher.root_hash = found
    assert world.run("run", "--now").returncode == 4
    assert "names the root hash" in world.status()["detail"]
    assert world.device.ukis() == [f"t640_{V1}.efi"]


def secure_boot(world: World, value: bytes) -> None:
    variables = world.root / "sys/firmware/efi/efivars"
    variables.mkdir(parents=True, exist_ok=True)
    (variables / "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c").write_bytes(b"\x06\0\0\0" + value)


@pytest.mark.parametrize(("on", "signed", "status"), [(1, False, 4), (1, True, 0), (0, False, 0)])
def test_where_secure_boot_is_on_a_kernel_image_without_a_signature_is_not_armed(
    world: World, on: int, signed: bool, status: int
) -> None:
    build = make_build(world.directory, V2)
    if signed:
        kernel = build.directory / f"t640_{V2}.efi"
        raw = bytearray(kernel.read_bytes())
        raw[0x80 + 172 : 0x80 + 176] = (1528).to_bytes(4, "little")  # the certificate table's size; whose, is not asked
        kernel.write_bytes(raw)
    secure_boot(world, bytes([on]))
    world.publish(V2, build)
    assert world.run("run", "--now").returncode == status
    assert (f"t640_{V2}+3.efi" in world.device.ukis()) == (status == 0)
    if status:
        assert "is not signed; sign it" in world.status()["detail"]


# -- versions ---------------------------------------------------------------------------------------------------------


def test_an_older_version_is_only_taken_when_the_file_says_so(world: World) -> None:
    world.publish("2026.10.9")
    refused(world, 0, "older than")
    world.publish("2026.10.9", downgrade=True)
    assert world.run("run", "--now").returncode == 0
    assert world.device.ukis() == ["t640_2026.10.9+3.efi", f"t640_{V1}.efi"]


@pytest.mark.parametrize("version", [V1, "2026.11.01"])
def test_what_runs_is_not_installed_again(world: World, version: str) -> None:
    world.publish(version)
    refused(world, 0, "which is what runs")


@pytest.mark.parametrize(("words", "code"), [("no", 0), ("yes ", 0), ("yes\ndowngrade yes", 4)])
def test_only_one_plain_yes_permits_a_downgrade(world: World, words: str, code: int) -> None:
    world.publish("2026.10.9")
    world.sign_again(lambda text: text.replace("class ", f"downgrade {words}\nclass ", 1))
    refused(world, code, "does not say downgrade" if code == 0 else "more than once")


# -- the device -------------------------------------------------------------------------------------------------------


def test_a_system_on_trial_is_left_to_its_gate(world: World) -> None:
    world.publish(V2)
    path = world.device.uki_directory / f"t640_{V1}.efi"
    path.rename(path.with_name(f"t640_{V1}+2-1.efi"))
    refused(world, 0, "on trial")


def test_the_updater_at_work_is_not_disturbed(world: World) -> None:
    world.publish(V2)
    handle = os.open(world.root / "run/appliance-update/lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        refused(world, 7, "at work")
    finally:
        os.close(handle)


def test_a_mounted_standby_slot_is_refused(world: World) -> None:
    world.publish(V2)
    number = world.device.layout.number(Role.DATA, "b")
    mounts = world.root / "proc/self/mountinfo"
    mounts.write_text(mounts.read_text() + f"40 1 259:{number} / /mnt ro - erofs /dev/nvme0n1p{number} ro\n")
    refused(world, 5, "is mounted")


def test_a_standby_slot_held_by_a_mapper_is_refused(world: World) -> None:
    world.publish(V2)
    number = world.device.layout.number(Role.VERITY, "b")
    (world.root / f"sys/devices/nvme0n1/nvme0n1p{number}/holders/dm-9").symlink_to("nowhere")
    refused(world, 5, "in use by dm-9")


def test_two_slots_with_the_running_identity_are_refused(world: World) -> None:
    world.publish(V2)
    for role in (Role.DATA, Role.VERITY):
        own = world.device.partition(role, "a")
        relabel(world.device.disk, world.device.layout.number(role, "b"), uuid=own.uuid)
    refused(world, 5, "both slots carry")


def test_a_running_system_that_lies_elsewhere_than_its_root_hash_says_is_refused(world: World) -> None:
    world.publish(V2)
    for role in (Role.DATA, Role.VERITY):
        mine, other = (world.device.partition(role, slot).uuid for slot in "ab")
        relabel(world.device.disk, world.device.layout.number(role, "a"), uuid=other)
        relabel(world.device.disk, world.device.layout.number(role, "b"), uuid=mine)
    refused(world, 5, "other partitions")


def test_a_partition_of_another_size_is_refused(world: World) -> None:
    world.publish(V2)
    number = world.device.layout.number(Role.DATA, "b")
    relabel(world.device.disk, number, size=world.device.partition(Role.DATA, "b").size - 4096)
    refused(world, 5, "layout.toml says")


def test_a_second_disk_with_the_same_labels_is_not_written(world: World) -> None:
    world.publish(V2)
    other = add_disk(world.device, "sda", world.device.disk)
    before = other.read_bytes()
    assert world.run("run", "--now").returncode == 0
    assert other.read_bytes() == before
    assert world.device.partition(Role.DATA, "b").label == f"t640_{V2}"


def test_a_system_without_a_slot_is_refused(world: World) -> None:
    world.publish(V2)
    (world.root / "proc/cmdline").write_text("quiet\n")
    refused(world, 5, "without a root hash")


def test_without_address_or_key_it_is_off(world: World) -> None:
    world.settings["URLS"] = ""
    assert world.run().returncode == 0
    assert world.status()["state"] == "off"
    world.settings.clear()
    shutil.rmtree(world.root / "usr/share/appliance-lifeline/keys")
    assert world.run().returncode == 0
    assert "no public key" in world.status()["detail"]


def test_its_configuration_is_read_and_never_run(world: World) -> None:
    world.publish(V2)
    world.settings["URLS"] = f"$(touch {world.root}/ran) `touch {world.root}/ran` {world.server.url}"
    assert world.run("run", "--now").returncode == 0
    assert not (world.root / "ran").exists()


def test_the_next_address_is_asked_when_one_does_not_answer(world: World) -> None:
    world.publish(V2)
    world.settings["URLS"] = f"http://127.0.0.1:9/ {world.server.url}"
    assert world.run("run", "--now").returncode == 0
    assert world.device.ukis() == [f"t640_{V1}.efi", f"t640_{V2}+3.efi"]


@dataclass
class Addresses:
    """Another address before the good one."""

    first: WebServer
    site: Path


@pytest.fixture
def two_addresses(world: World) -> Iterator[Addresses]:
    world.publish(V2)
    site = world.directory / "first-site"
    shutil.copytree(world.site, site)
    first = WebServer(site)
    world.settings["URLS"] = f"{first.url} {world.server.url}"
    yield Addresses(first, site)
    first.close()


def installed(world: World, version: str = V2) -> None:
    done = world.run("run", "--now")
    assert done.returncode == 0, done.stdout
    assert world.device.ukis() == [f"t640_{V1}.efi", f"t640_{version}+3.efi"]


def break_login_page(addresses: Addresses) -> None:
    addresses.first.login_page = True


def break_redirect(addresses: Addresses) -> None:
    addresses.first.redirect = "https://elsewhere.example/"


def break_other_file(addresses: Addresses) -> None:
    """Half a site: another file, and no signature."""
    path = addresses.site / "t640-standin.lifeline"
    path.write_text(path.read_text().replace("number 1", "number 2"))
    Path(f"{path}.minisig").unlink()


def break_cut_file(addresses: Addresses) -> None:
    """Bytes of something else, and the line breaks: what is there must not be gone on with from another address."""
    (addresses.site / "t640-standin.lifeline").write_text("x" * 400)
    addresses.first.cut_after = 50


def break_short_pieces(addresses: Addresses) -> None:
    for path in (addresses.site / "pieces").iterdir():
        path.write_bytes(path.read_bytes()[:-5])


def break_cut_pieces(addresses: Addresses) -> None:
    for path in (addresses.site / "pieces").iterdir():
        path.write_bytes(b"x" * path.stat().st_size)
    addresses.first.cut_after, addresses.first.only = 50, "pieces/"


@pytest.mark.parametrize(
    "fault",
    [break_login_page, break_redirect, break_other_file, break_cut_file, break_short_pieces, break_cut_pieces],
    ids=lambda fault: fault.__name__,
)
def test_an_address_that_answers_wrongly_does_not_hide_the_next_one(
    world: World, two_addresses: Addresses, fault: Callable[[Addresses], None]
) -> None:
    fault(two_addresses)
    installed(world)


def test_an_address_that_has_no_pieces_is_asked_for_one_and_not_for_each(
    world: World, two_addresses: Addresses
) -> None:
    shutil.rmtree(two_addresses.site / "pieces")
    installed(world)
    asked = [path for path, _ in two_addresses.first.requests if "pieces/" in path]
    assert len(asked) == 1
    assert len({path for path, _ in world.server.requests if "pieces/" in path}) > 1


def test_of_two_addresses_the_one_with_the_higher_number_counts(world: World, two_addresses: Addresses) -> None:
    world.publish(V3)
    installed(world, V3)


def test_a_higher_number_that_is_refused_does_not_hide_a_lower_one(world: World, two_addresses: Addresses) -> None:
    good = world.file.read_bytes(), Path(f"{world.file}.minisig").read_bytes()
    world.sign_again(lambda text: replaced("number", 9)(text) + "needs zebra\n")
    for path, content in zip((world.file, Path(f"{world.file}.minisig")), good, strict=True):
        shutil.copy(path, two_addresses.site / path.name)
        path.write_bytes(content)
    installed(world)
    assert "needs zebra" in (world.root / "var/lib/appliance-lifeline/log").read_text()


def test_an_address_with_last_years_number_is_passed_over(world: World, two_addresses: Addresses) -> None:
    world.publish(V3)
    world.settings["FLOOR"] = "2"
    installed(world, V3)


def test_the_refusal_of_a_signed_file_is_told_before_that_of_a_login_page(
    world: World, two_addresses: Addresses
) -> None:
    two_addresses.first.login_page = True
    world.settings["FLOOR"] = "5"
    refused(world, 4, "this device has seen 5")


def test_an_address_that_redirects_has_not_answered(world: World) -> None:
    world.publish(V2)
    world.server.redirect = "https://elsewhere.example/"
    refused(world, 3, "no server answered")


def test_a_file_above_the_limit_is_refused_also_when_its_length_is_not_said(world: World) -> None:
    """curl knows the limit only by the length; here a stand-in for it lets one byte more through."""
    world.publish(V2)
    world.sign_again(lambda text: text + "note " + "x" * (1024 * 1024 - len(text) - 5) + "\n")
    assert world.file.stat().st_size == 1024 * 1024 + 1
    shims = world.directory / "shims"
    shutil.copytree(world.tools, shims, symlinks=True)
    (shims / "curl").unlink()
    (shims / "curl").write_text(
        f"#!{world.tools}/sh\nlast=\nfor word; do shift\n"
        '[ "$last" = --max-filesize ] && word=1048577\nset -- "$@" "$word"; last=$word; done\n'
        f'exec {(world.tools / "curl").resolve()} "$@"\n'
    )
    (shims / "curl").chmod(0o755)
    refused(dataclasses.replace(world, tools=shims), 3, "more than 1048576 bytes")


UNUSABLE = [
    ("METADATA_HOURS", "-1"), ("HOURS", "08"), ("HOURS", "-1"), ("HOURS", "3d"), ("FLOOR", "007"),
    ("BYTES_PER_SECOND", "1k"), ("WINDOW", "25:00-29:00"),
    ("WINDOW", "02:60-03:00"), ("WINDOW", "24:00-02:00"), ("WINDOW", "2:00-3:00"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), UNUSABLE)
def test_a_configuration_that_cannot_be_used_is_said_with_its_key(world: World, key: str, value: str) -> None:
    world.publish(V2)
    world.settings[key] = value
    refused(world, 2, f"{key} is '{value}'", "run")
    assert f"{key} is '{value}'" in (world.root / "var/lib/appliance-lifeline/log").read_text()


def test_a_configuration_that_cannot_be_used_takes_nothing_from_a_lifeline_at_work(world: World) -> None:
    runtime = world.root / "run/appliance-lifeline"
    part = runtime.joinpath("work", "piece")
    part.parent.mkdir(parents=True)
    part.touch()
    world.settings["HOURS"] = "08"
    with (runtime / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert world.run().returncode == 7
    assert part.exists()


@pytest.mark.parametrize("window", ["02:00-02:00", "00:00-24:00", "12:00-12:00"])
def test_a_window_of_the_whole_day_is_always_open(world: World, window: str) -> None:
    world.publish(V2)
    world.settings["WINDOW"] = window
    installed(world)
    assert world.rebooted


def test_no_server_at_all_is_said_and_costs_nothing(world: World) -> None:
    world.server.close()
    refused(world, 3, "no server answered")


def test_a_server_that_forgets_ranges_or_hangs_up_is_enough(world: World) -> None:
    world.publish(V2)
    world.server.ranges, world.server.cut_after, world.server.cuts, world.server.only = False, 700, 3, "pieces/"
    assert world.run("run", "--now").returncode == 0, world.status()


# -- when it engages --------------------------------------------------------------------------------------------------


def test_a_contact_puts_the_count_back(world: World) -> None:
    world.publish(V2)
    world.silent_for(71)
    assert world.run().returncode == 0
    (world.root / "var/lib/appliance-update/last-contact").touch()
    (world.root / "proc/uptime").write_text(f"{75 * 3600}.0 0.0\n")
    assert world.run().returncode == 0
    assert world.status()["state"] == "standing-by"


def test_hours_of_running_count_over_restarts_when_the_clock_is_no_use(world: World) -> None:
    world.publish(V2)
    (world.root / "usr/share/appliance-update/build-time").write_text(f"{int(time.time()) + 10**8}\n")  # clock: 1970
    for boot in ("one", "two", "three"):
        (world.root / "proc/sys/kernel/random/boot_id").write_text(f"{boot}\n")
        (world.root / "proc/uptime").write_text(f"{25 * 3600}.0 0.0\n")
        assert world.run().returncode in (0, 4)
    assert world.status()["state"] != "standing-by"


def test_a_clock_that_jumps_ahead_still_leaves_the_updater_its_first_hour(world: World) -> None:
    world.publish(V2)
    contact = world.root / "var/lib/appliance-update/last-contact"
    contact.touch()
    os.utime(contact, (time.time() - 10 * 86400,) * 2)
    (world.root / "proc/uptime").write_text("120.0 0.0\n")
    assert world.run().returncode == 0
    assert "first hour" in world.status()["detail"]
    assert world.server.requests == []
