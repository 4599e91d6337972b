"""`appliance-release lifeline`: what it writes is what docs/lifeline.md says, and what a device takes."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from appliance_release import lifeline
from appliance_release.artifacts import collect
from appliance_release.cli import main
from tests.appliance_update.simulator import boot, make_build, pe_file
from tests.lifeline.conftest import V2, V3, Keys, World

DOCUMENTED = {
    "number", "issued", "not-after", "class", "flavour", "version", "root-hash", "whole", "piece", "downgrade", "note",
    "needs",
}  # fmt: skip


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["lifeline", *map(str, arguments)])
    return done.exit_code, done.output


def test_from_the_command_line_to_a_device(world: World, keys: Keys) -> None:
    build = make_build(world.directory, V2)
    code, said = run("publish", "--site", world.site, "--secret-key", keys.secret, "--version", V2, build.directory)
    assert code == 0, said
    assert world.run("run", "--now").returncode == 0
    assert boot(world.device) == V2


def test_every_line_is_one_that_is_documented(world: World) -> None:
    world.publish(V2, downgrade=True, note="the portal's fix")
    lines = world.file.read_text("ascii").splitlines()
    assert lines[0] == "appliance-lifeline 1"
    assert {line.split()[0] for line in lines[1:]} <= DOCUMENTED
    manual = (Path(__file__).parents[2] / "docs/lifeline.md").read_text()
    for key in DOCUMENTED:
        assert f"| `{key}" in manual, key


def test_numbers_only_grow(world: World, keys: Keys) -> None:
    world.publish(V2)
    world.publish(V3)
    assert "\nnumber 2\n" in world.file.read_text()
    with pytest.raises(lifeline.LifelineError, match="published already"):
        world.publish(V3, number=2)
    world.publish(V3, number=40)
    assert lifeline.renew(world.file, keys.secret, 30, time.time()) == 41
    assert world.run("run", "--now").returncode == 0


def test_a_piece_that_is_missing_or_changed_is_found_before_a_device_finds_it(world: World, keys: Keys) -> None:
    world.publish(V2)
    assert run("verify", "--public-key", keys.public, world.file) == (0, "")
    pieces = sorted((world.site / "pieces").iterdir())
    pieces[0].write_bytes(pieces[0].read_bytes()[::-1])
    pieces[1].unlink()
    code, said = run("verify", "--public-key", keys.public, world.file)
    assert code == 1
    assert pieces[0].name in said
    assert pieces[1].name in said


def test_a_file_that_has_run_out_or_is_not_signed_is_found(world: World, keys: Keys) -> None:
    world.publish(V2, now=time.time() - 91 * 86400)
    assert "run out" in run("verify", "--public-key", keys.public, world.file)[1]
    world.file.write_text(world.file.read_text().replace("class t640", "class t641"))
    assert "not signed" in run("verify", "--public-key", keys.public, world.file)[1]


ODD = {
    "no number": (r"(?m)^number .*\n", "", "number is ''"),
    "no whole uki": (r"(?m)^whole uki.*\n", "", "The length of the uki"),
    "a demand": (r"\Z", "needs x\n", "needs x"),
    "the last piece missing": (r"(?m)^piece uki.*\n\Z", "", "do not make the whole"),
    "two classes": (r"\Z", "class t640\n", "'class' more than once"),
    "another flavour": (r"(?m)^flavour .*", "flavour nixos", "t640-nixos.lifeline"),
    "the future": (r"(?m)^(issued|not-after) .*", r"\1 4070908800", "yet to come"),
}


@pytest.mark.parametrize("name", ODD)
def test_verify_says_what_a_device_would_refuse(world: World, keys: Keys, name: str) -> None:
    pattern, replacement, words = ODD[name]
    world.publish(V2)
    world.sign_again(lambda text: re.sub(pattern, replacement, text))
    code, said = run("verify", "--public-key", keys.public, world.file)
    assert code == 1
    assert words in said


def test_verify_ignores_what_a_device_ignores(world: World, keys: Keys) -> None:
    world.publish(V2)
    world.sign_again(lambda text: text + "piece recovery what ever\npiece \npiece\n\ncolour blue\n")
    assert run("verify", "--public-key", keys.public, world.file) == (0, "")


def test_a_number_that_no_device_can_read_is_never_signed(world: World, keys: Keys) -> None:
    build = make_build(world.directory, V2)
    arguments = ("publish", "--site", world.site, "--secret-key", keys.secret, "--version", V2, build.directory)
    assert run(*arguments, "--number", 10**15)[0] == 2
    assert not world.file.exists()
    assert run(*arguments, "--number", 10**15 - 1)[0] == 0
    before = world.file.read_text()
    code, said = run("renew", "--secret-key", keys.secret, world.file)
    assert code == 2
    assert "more than 15 digits" in said
    assert world.file.read_text() == before


def test_what_devices_would_refuse_is_not_renewed(world: World, keys: Keys) -> None:
    world.publish(V2)
    world.sign_again(lambda text: text + "class t740\n")
    with pytest.raises(lifeline.LifelineError, match="'class' more than once"):
        lifeline.renew(world.file, keys.secret, 30, time.time())


def test_after_a_clock_that_was_wrong_the_publisher_says_how_to_go_on(world: World, keys: Keys) -> None:
    world.publish(V2, now=time.time() + 10**9)
    code, said = run("renew", "--secret-key", keys.secret, world.file)
    assert code == 2
    assert "--number 2" in said
    with pytest.raises(lifeline.LifelineError, match="one of two clocks is wrong"):
        world.publish(V3)
    world.file.unlink()
    world.publish(V3, number=2)
    assert run("verify", "--public-key", keys.public, world.file) == (0, "")


def test_a_kernel_image_that_calls_itself_another_version_is_not_signed(world: World, keys: Keys) -> None:
    """The boot loader orders entries by that: no later release would ever be booted."""
    build = make_build(world.directory, V2)
    wrong = pe_file(f"roothash={build.root_hash} panic=10", "9999.1.1")
    (build.directory / f"t640_{V2}.efi").write_bytes(wrong)
    code, said = run("publish", "--site", world.site, "--secret-key", keys.secret, "--version", V2, build.directory)
    assert code == 2
    assert "calls itself 't640' '9999.1.1'" in said
    assert not world.file.exists()


def test_artifacts_of_two_builds_and_odd_words_are_refused(world: World, keys: Keys) -> None:
    build = make_build(world.directory, V2, root_hash="0" * 64)
    code, said = run("publish", "--site", world.site, "--secret-key", keys.secret, "--version", V2, build.directory)
    assert code == 2
    assert "not of one build" in said
    assert not world.file.exists()
    with pytest.raises(lifeline.LifelineError, match="ASCII"):
        world.publish(V3, note="naïve")
    with pytest.raises(lifeline.LifelineError, match="device class"):
        world.publish(V3, device_class="../t640")
    for piece in (1000, 256 * 1024 * 1024):
        with pytest.raises(lifeline.LifelineError, match="4096"):
            world.publish(V3, piece=piece)


def test_compressed_artifacts_are_published_by_their_content(world: World, keys: Keys) -> None:
    import subprocess

    build = make_build(world.directory, V2)
    for path in build.directory.glob("*.raw"):
        subprocess.run(["zstd", "-q", "--rm", str(path)], check=True)
    order = lifeline.Order(V2, piece=65536, level=1)
    lifeline.publish(world.site, order, collect((build.directory,), V2), keys.secret, time.time())
    assert world.run("run", "--now").returncode == 0
    assert boot(world.device) == V2
