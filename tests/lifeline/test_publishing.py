"""`appliance-release lifeline`: what it writes is what docs/lifeline.md says, and what a device takes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from appliance_release import lifeline
from appliance_release.artifacts import collect
from appliance_release.cli import main
from tests.appliance_update.simulator import boot, make_build
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
    world.publish(V2, days=-1)
    assert "run out" in run("verify", "--public-key", keys.public, world.file)[1]
    world.file.write_text(world.file.read_text().replace("class t640", "class t641"))
    assert "not signed" in run("verify", "--public-key", keys.public, world.file)[1]


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
    with pytest.raises(lifeline.LifelineError, match="4096"):
        world.publish(V3, piece=1000)


def test_compressed_artifacts_are_published_by_their_content(world: World, keys: Keys) -> None:
    import subprocess

    build = make_build(world.directory, V2)
    for path in build.directory.glob("*.raw"):
        subprocess.run(["zstd", "-q", "--rm", str(path)], check=True)
    order = lifeline.Order(V2, piece=65536, level=1)
    lifeline.publish(world.site, order, collect((build.directory,), V2), keys.secret, time.time())
    assert world.run("run", "--now").returncode == 0
    assert boot(world.device) == V2
