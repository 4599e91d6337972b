"""A site's settings on a medium, a disk, and images of them."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import tomllib
from pathlib import Path

import pytest

from appliance_flash import devices, programs, site
from appliance_flash.errors import Unusable
from tests.appliance_flash.conftest import ESP_START, call, needs_loop_devices, run

CA = """\
-----BEGIN CERTIFICATE-----
MIIBdjCCARugAwIBAgIUTUFno9iqa1MFxhPstmqOYvrbVCwwCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEdGVzdDAgFw0yNjExMjIxMTM1MDlaGA8yMTI2MTAyOTExMzUw
OVowDzENMAsGA1UEAwwEdGVzdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABEL1
TMy/qhCsMcqO0vPHKDCljVUZSth3hcjKmMZypNR+MAebSV5mO+UhLQeNC1wKER8H
hiqKl73COhUKum8tvBOjUzBRMB0GA1UdDgQWBBRAtMUuEAO/JbnY48yg3LZp0yc3
eTAfBgNVHSMEGDAWgBRAtMUuEAO/JbnY48yg3LZp0yc3eTAPBgNVHRMBAf8EBTAD
AQH/MAoGCCqGSM49BAMCA0kAMEYCIQCum2PQZpT8fYSkq0GBcq9jijxaKTCaluwQ
sF3MK43iQwIhAPMpGrDGYXGyEAuhAZdP+/88p8jDm6lB2WeGzSWcMipE
-----END CERTIFICATE-----
"""
SITE = """
[central]
url = "https://central.example.org:8443"
ca_file = "ca.pem"
[network]
address = "192.0.2.7/24"
gateway = "192.0.2.1"
dns = ["192.0.2.1", "192.0.2.2"]
ntp = ["ntp.example.org"]
[window]
start = "23:00"
end = "04:30"
time_zone = "America/New_York"
"""


@pytest.fixture
def site_file(tmp_path: Path) -> Path:
    (tmp_path / "ca.pem").write_text(CA)
    file = tmp_path / "site.toml"
    file.write_text(SITE)
    return file


@pytest.fixture
def target(image: Path, tmp_path: Path) -> Path:
    """A copy of a disk image."""
    copy = tmp_path / "copy.raw"
    run("cp", "--sparse=always", str(image), str(copy))
    return copy


def on(target: Path, name: str) -> str:
    command = ["mcopy", "-n", "-i", f"{target}@@{ESP_START}", f"::appliance-seed/{name}", "-"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout


def test_settings_and_code_lie_where_installer_and_appliance_look(target: Path, site_file: Path) -> None:
    done = call("seed", target, "--site", site_file, "--enrolment-code", "AB12-CD34", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["files"] == ["enrolment.toml", "site.network", "site.toml"]
    invitation = tomllib.loads(on(target, "enrolment.toml"))
    assert invitation["code"] == "AB12-CD34"
    assert invitation["url"] == "https://central.example.org:8443"
    assert invitation["ca"].strip() == CA.strip()
    assert tomllib.loads(on(target, "site.toml"))["window"]["time_zone"] == "America/New_York"


def test_the_agent_understands_the_invitation(target: Path, site_file: Path) -> None:
    from compliance_agent.identity import read_invitation

    assert call("seed", target, "--site", site_file, "--enrolment-code", "AB12").exit_code == 0
    invitation = read_invitation(on(target, "enrolment.toml").encode())
    assert invitation.code == "AB12"
    assert invitation.ca.startswith("-----BEGIN CERTIFICATE-----")


def test_the_updater_understands_every_key_of_the_window(tmp_path: Path) -> None:
    from appliance_update import config

    text = '[window]\nstart = "23:00"\nend = "04:30"\ntime_zone = "America/New_York"\n'
    (tmp_path / "given.toml").write_text(text + 'days = ["tue", "thu"]\nmaximum_postponement_days = 30\n')
    (tmp_path / "site.toml").write_text(site.files(site.load(tmp_path / "given.toml"), "")["site.toml"])
    found, warnings = config.load(tmp_path / "missing.toml", tmp_path / "site.toml")
    assert [line for line in warnings if "site.toml" in line] == []
    window = found.window
    assert (window.start, window.end, window.time_zone) == ("23:00", "04:30", "America/New_York")
    assert (window.days, window.maximum_postponement_days) == (("tue", "thu"), 30.0)


def test_a_fixed_address_becomes_a_file_for_the_network_manager(target: Path, site_file: Path) -> None:
    assert call("seed", target, "--site", site_file).exit_code == 0
    lines = on(target, "site.network").splitlines()
    for line in ("Address=192.0.2.7/24", "Gateway=192.0.2.1", "DNS=192.0.2.2", "NTP=ntp.example.org"):
        assert line in lines
    assert "DHCP=yes" not in lines
    assert on(target, "enrolment.toml") == ""


def test_seeding_again_replaces_all_of_it_and_clearing_removes_it(target: Path, site_file: Path) -> None:
    assert call("seed", target, "--site", site_file, "--enrolment-code", "OLD").exit_code == 0
    assert call("seed", target, "--unattended").exit_code == 0
    assert on(target, "enrolment.toml") == ""
    assert on(target, "unattended") == "install\n"
    assert call("seed", target, "--clear").exit_code == 0
    assert on(target, "unattended") == ""


def test_the_flag_to_replace_an_appliance_is_a_word_of_its_own(target: Path) -> None:
    assert call("seed", target, "--unattended", "--replace-appliance").exit_code == 0
    assert on(target, "unattended") == "replace-appliance\n"


@needs_loop_devices
def test_a_written_device_can_be_seeded(image: Path, device: Path, site_file: Path) -> None:
    assert call("write", image, device, "--force", "--yes").exit_code == 0
    assert call("seed", device, "--site", site_file, "--enrolment-code", "AB12", "--force").exit_code == 0
    assert "AB12" in on(device, "enrolment.toml")
    assert call("seed", device, "--unattended").exit_code == 4


def test_the_rest_of_the_boot_partition_stays(target: Path, site_file: Path) -> None:
    before = run("mdir", "-b", "-i", f"{target}@@{ESP_START}", "::EFI")
    assert call("seed", target, "--site", site_file).exit_code == 0
    assert run("mdir", "-b", "-i", f"{target}@@{ESP_START}", "::EFI") == before
    esp = target.with_name("esp")
    esp.write_bytes(target.read_bytes()[ESP_START : ESP_START + (34 << 20)])
    assert subprocess.run(["fsck.vfat", "-n", str(esp)], capture_output=True, check=False).returncode == 0


def test_a_compressed_image_and_one_without_a_boot_partition_are_refused(
    packed: Path, tmp_path: Path, site_file: Path
) -> None:
    assert call("seed", packed, "--site", site_file).exit_code == 5
    nothing = tmp_path / "nothing.raw"
    nothing.write_bytes(bytes(1 << 20))
    assert call("seed", nothing, "--site", site_file).exit_code == 5


@pytest.mark.parametrize(
    "arguments", [[], ["--clear", "--unattended"], ["--enrolment-code", "AB12"], ["--replace-appliance"]]
)
def test_contradictions_are_wrong_usage(target: Path, arguments: list[str]) -> None:
    assert call("seed", target, *arguments).exit_code == 2


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('[central]\nurl = "http://central"', "https"),
        ('[central]\nurll = "https://central"', "central.urll is not known"),
        ('[cental]\nurl = "https://central"', "cental is not known"),
        ('[central]\nca_file = "missing.pem"', "missing.pem"),
        ('[network]\naddress = "192.0.2.7"', "prefix"),
        ('[network]\naddress = "192.0.2.777/24"', "192.0.2.777"),
        ('[network]\ndns = ["x\\ny"]', "address"),
        ('[network]\nntp = ["a b"]', "ntp"),
        ('[window]\nstart = "2:00"\nend = "04:00"', "window.start"),
        ('[window]\nstart = "02:00"', "window.end"),
        ('[window]\ntime_zone = "Atlantis/Capital"', "Atlantis"),
        ('[window]\ndays = ["tuesday"]', "mon, tue"),
        ("[window]\nmaximum_postponement_days = 400", "0 to 366"),
        ("[window", "site.toml"),
        # What would say something else in a file that is made of it.
        ("[central]\nurl = 'https://c.example/a\"b'", "central.url"),
        ("[central]\nurl = 'https://c.example\\q'", "central.url"),
        ('[central]\nurl = "https://c.example:99999/"', "central.url"),
        ('[network]\naddress = "fe80::2/64"\ngateway = "fe80::1%eth0\\n[Route]"', "not an address"),
        ('[network]\ndns = ["fe80::1%x"]', "not an address"),
        ("[network]\nntp = ['a\"b']", "ntp"),
        ('[network]\ngateway = "192.0.2.1"', "needs network.address"),
        ('[window]\nstart = "０２:００"\nend = "05:00"', "window.start"),
        ('[window]\ntime_zone = "America"', "site.toml"),
        ('[window]\ntime_zone = ""', "site.toml"),
        (f'[window]\ntime_zone = "{"A" * 300}"', "site.toml"),
        ("#" * (64 << 10) + "\n", "larger than 65536"),
    ],
)
def test_a_mistake_in_the_site_file_is_named(tmp_path: Path, line: str, reason: str) -> None:
    file = tmp_path / "site.toml"
    file.write_text(line)
    with pytest.raises(Unusable, match=reason):
        site.load(file)


def test_a_private_key_never_leaves_by_way_of_the_authority_file(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(f"{CA}-----BEGIN PRIVATE KEY-----\n")
    file = tmp_path / "site.toml"
    file.write_text('[central]\nurl = "https://c.example"\nca_file = "ca.pem"\n')
    with pytest.raises(Unusable, match="nothing else"):
        site.load(file)


@pytest.mark.parametrize("code", ['a"b', "a\nb", "ü", "a b"])
def test_what_cannot_be_a_code_is_refused(target: Path, site_file: Path, code: str) -> None:
    assert call("seed", target, "--site", site_file, "--enrolment-code", code).exit_code == 5


def test_a_code_without_a_server_is_refused(target: Path, tmp_path: Path) -> None:
    file = tmp_path / "bare.toml"
    file.write_text("")
    assert call("seed", target, "--site", file, "--enrolment-code", "AB12").exit_code == 5


def test_a_netmask_is_written_as_a_prefix(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text('[network]\naddress = "192.0.2.7/255.255.255.0"\n')
    assert "Address=192.0.2.7/24" in site.files(site.load(file), "")["site.network"].splitlines()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "no certificates"),
        (CA * 200, "larger than 65536"),
    ],
)
def test_an_authority_file_that_no_program_takes_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "ca.pem").write_text(text)
    file = tmp_path / "site.toml"
    file.write_text('[central]\nurl = "https://c.example"\nca_file = "ca.pem"\n')
    with pytest.raises(Unusable, match=reason):
        site.load(file)


def test_a_file_larger_than_the_appliance_takes_is_not_made(site_file: Path) -> None:
    with pytest.raises(Unusable, match="takes no larger"):
        site.files(site.load(site_file), "A" * 70_000)


def test_a_made_file_that_would_read_differently_is_refused(site_file: Path) -> None:
    odd = dataclasses.replace(site.load(site_file), ca=f"{CA}\x01")
    with pytest.raises(Unusable, match="would not say"):
        site.files(odd, "AB12")


@needs_loop_devices
def test_a_device_that_something_else_holds_is_not_seeded(image: Path, device: Path) -> None:
    assert call("write", image, device, "--yes", "--force").exit_code == 0
    with devices.held(devices.find(device)):
        assert call("seed", device, "--unattended", "--force").exit_code == 4
    assert on(device, "unattended") == ""


@needs_loop_devices
def test_seeding_lets_go_of_what_is_mounted(image: Path, device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call("write", image, device, "--yes", "--force").exit_code == 0
    asked: list[str] = []
    monkeypatch.setattr(devices, "_in_use", lambda entry, proc: iter(["/media/boot"]))
    monkeypatch.setattr(devices, "_unmounted", lambda place: bool(asked.append(place)))
    assert call("seed", device, "--unattended", "--force").exit_code == 4
    assert asked == ["/media/boot"]
    assert on(device, "unattended") == ""


@needs_loop_devices
def test_what_is_read_back_comes_from_the_device_not_from_memory(
    image: Path, device: Path, site_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call("write", image, device, "--yes", "--force").exit_code == 0
    real, backing = programs.run, device_file(device)

    def forgetful(arguments: list[str]) -> subprocess.CompletedProcess[bytes]:
        if arguments[:2] == ["mcopy", "-n"]:
            content = backing.read_bytes()
            with backing.open("r+b") as file:
                file.seek(content.index(b'code = "AB12'))
                file.write(b"rubbish")
        return real(arguments)

    monkeypatch.setattr(programs, "run", forgetful)
    done = call("seed", device, "--site", site_file, "--enrolment-code", "AB12", "--force")
    assert done.exit_code == 1
    assert "reads back differently" in str(done.exception)


def device_file(device: Path) -> Path:
    return Path(run("losetup", "--noheadings", "--output", "BACK-FILE", str(device)).strip())


def test_a_program_that_hangs_is_told_in_a_sentence(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = programs.run

    def hanging(arguments: list[str]) -> subprocess.CompletedProcess[bytes]:
        if arguments[0] == "mcopy":
            raise subprocess.TimeoutExpired("mcopy", 120)
        return real(arguments)

    monkeypatch.setattr(programs, "run", hanging)
    assert call("seed", target, "--unattended").exit_code == 1
