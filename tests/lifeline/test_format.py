"""One table of files, read by the device's shell and by the publisher: docs/lifeline.md, and who follows it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance_release.lifeline import LifelineError, read
from tests.lifeline.conftest import World, make_world

A, B, C, D, E, F = (letter * 64 for letter in "abcdef")
LINES = [
    "appliance-lifeline 1",
    "number 5",
    "issued 1795000000",
    "not-after 1999999999",
    "class t640",
    "flavour standin",
    "version 2026.11.2",
    f"root-hash {A}",
    f"whole verity 4096 {B}",
    f"piece verity 0 4096 {B} pieces/v.zst 100 {C}",
    f"whole data 69632 {D}",
    f"piece data 0 65536 {D} pieces/d0.zst 1000 {E}",
    f"piece data 65536 4096 {D} pieces/d1.zst 90 {E}",
    f"whole uki 5000 {F}",
    f"piece uki 0 5000 {F} pieces/u.zst 400 {A}",
]
TEXT = "\n".join(LINES) + "\n"
MIB = 1024 * 1024
LAST_PIECE = LINES[12].split(" ")
ONCE = ("number", "issued", "not-after", "class", "flavour", "version", "root-hash")


def changed(before: str, after: str) -> str:
    assert before in TEXT, before
    return TEXT.replace(before, after, 1)


def added(*lines: str) -> str:
    return "\n".join([*LINES[:8], *lines, *LINES[8:], ""])


def piece(column: int, value: str) -> str:
    words = [*LAST_PIECE]
    words[column] = value
    return changed(LINES[12], " ".join(words))


def sized(role: str, length: int, step: int) -> str:
    kept = [line for line in LINES if line.split()[1] != role]
    offsets = range(0, length, step)
    pieces = [f"piece {role} {at} {min(step, length - at)} {D} p/{at} 9 {E}" for at in offsets]
    return "\n".join([*kept, f"whole {role} {length} {D}", *pieces, ""])


TAKEN = {
    "the file itself": TEXT,
    "no last newline": TEXT[:-1],
    "an empty line": added(""),
    "every line in another order": "\n".join([LINES[0], *sorted(LINES[1:], key=lambda line: line[:5] != "piece"), ""]),
    "an unknown key": added("colour blue", "colour red", "numbers 7", "class-x y"),
    "an unknown role": added("whole recovery 1 x", "piece recovery what ever", "piece datax 0 1"),
    "keys without a value": added(
        "colour", "number", "class", "needs", "downgrade", "piece", "whole data", "piece uki"
    ),
    "a line that begins with a space": added(" number 6"),
    "several notes": added("note a", "note b", 'note ~ \\n $(x) `y` "'),
    "further words of a piece": changed(LINES[12], LINES[12] + " more words"),
    "more spaces in a piece": changed("piece data 65536 4096", "piece data  65536   4096"),
    "more classes": changed("class t640", "class t740 t640"),
    "more spaces between classes": changed("class t640", "class t740  t640 "),
    "a downgrade": added("downgrade yes"),
    "no downgrade": added("downgrade no"),
    "the highest number": changed("number 5", "number 999999999999999"),
    "issued at the end": changed("issued 1795000000", "issued 1999999999"),
    "zeros in a version": changed("version 2026.11.2", "version 2026.01.00002"),
    "a longest version": changed("version 2026.11.2", "version 9999.99.99999"),
    "hidden names": changed("pieces/d1.zst", ".p/-d1"),
    "a piece of 128 MiB": changed(" 90 ", f" {128 * MIB} "),
    "a uki of 512 MiB": sized("uki", 512 * MIB, 64 * MIB),
    "a whole MiB": TEXT + "note " + "x" * (MIB - len(TEXT) - 6) + "\n",
}
REFUSED = {
    "nothing": "",
    "another first line": changed("lifeline 1", "lifeline 01"),
    "no first line": TEXT.removeprefix(LINES[0] + "\n"),
    "a newline first": "\n" + TEXT,
    "other line ends": TEXT.replace("\n", "\r\n"),
    "a tab": changed("class t640", "class\tt640"),
    "a zero byte": added("note a\0b"),
    "a byte above 126": added("note a\x7fb"),
    "a byte above 127": added("note a\xe9b"),
    "a demand": added("needs x"),
    "a demand without a word": added("needs "),
    "a demand in the last line": TEXT + "needs x",
    "downgrade twice": added("downgrade yes", "downgrade yes"),
    **{f"no {key}": "\n".join(line for line in LINES if line.partition(" ")[0] != key) for key in ONCE},
    **{f"{key} twice": TEXT + next(line for line in LINES if line.startswith(key)) for key in ONCE},
    **{f"no value of {key}": changed(f"\n{key} ", f"\n{key}  ").replace(f"{key}  ", f"{key} \nx ") for key in ONCE},
    **{f"two spaces after {key}": changed(f"\n{key} ", f"\n{key}  ") for key in ONCE if key != "class"},
    **{f"a word after {key}": "\n".join(line + " x" * line.startswith(f"{key} ") for line in LINES)
       for key in ONCE if key != "class"},
    **{f"whole {role} twice": TEXT + next(line for line in LINES if line.startswith(f"whole {role}"))
       for role in ("verity", "data", "uki")},
    **{f"line {index} missing": "\n".join(LINES[:index] + LINES[index + 1 :]) for index in range(8, len(LINES))},
    **{f"the number {text!r}": changed("number 5", f"number {text}")
       for text in ("0", "05", "+5", "-5", "0x5", "5.0", "5e3", "1000000000000000", "$((5))")},
    **{f"the end {text!r}": changed("not-after 1999999999", f"not-after {text}") for text in ("01999999999", "never")},
    "an end before the beginning": changed("issued 1795000000", "issued 2000000000"),
    **{f"the version {text!r}": changed("version 2026.11.2", f"version {text}")
       for text in ("2026.11", "2026.11.2.3", "2026.011.2", "1.2.3", "20260.11.2", "2026.11.100000", "2026..2",
                    "2026.11.2a", "2026.11.2+3", "../../etc", "99999999999999999999.1.1")},
    **{f"the root hash {text[:2]}{len(text)}": changed(f"root-hash {A}", f"root-hash {text}")
       for text in (A.upper(), A[1:], A + "a", "g" + A[1:])},
    **{f"the offset {text!r}": piece(2, text) for text in ("065536", "0200000", "61440", "65537", "0", "-65536", "x")},
    **{f"the length {text!r}": piece(3, text)
       for text in ("0", "04096", "010000", "4095", "4097", "0x1000", "134217729", "x", "08")},
    **{f"the hash {text[:2]}{len(text)}": piece(4, text) for text in (D.upper(), D[1:], D + "0")},
    **{f"the name {text!r}": piece(5, text)
       for text in ("/etc/passwd", "../x", "a/../b", "a/..", "a..b", "...", ".", "./a", "a/.", "a//b", "a/", "a/./b",
                    "http://x/y", "a%2eb", "a\\b", "a?b", "a~b", "a+b", "a:b")},
    **{f"the stored length {text!r}": piece(6, text) for text in ("0", "090", "134217729", "-90", "x")},
    **{f"a piece of {count} words": changed(LINES[12], " ".join(LAST_PIECE[:count])) for count in range(3, 8)},
    "a whole with zeros": changed("whole uki 5000", "whole uki 05000"),
    "a first offset with zeros": changed("piece data 0 ", "piece data 00 "),
    "a first piece with zeros": changed("piece data 0 65536", "piece data 0 065536"),
    "an empty whole": changed("whole uki 5000", "whole uki 0"),
    "a whole that is longer": changed("whole data 69632", "whole data 73728"),
    "pieces in another order": changed(f"{LINES[11]}\n{LINES[12]}", f"{LINES[12]}\n{LINES[11]}"),
    "a gap": added(f"piece data 0 0 {D} p/x 9 {E}"),
    "an offset between blocks": changed("data 0 65536", "data 0 65535").replace("data 65536 4096", "data 65535 4097"),
    "a uki above 512 MiB": sized("uki", 512 * MIB + 1, 64 * MIB),
    "a piece above 128 MiB": sized("uki", 128 * MIB + 1, 128 * MIB + 1),
}  # fmt: skip
ONLY_A_DEVICE_REFUSES = {
    "a verity tree above its slot": sized("verity", MIB + 4096, MIB),
    "data above its slot": sized("data", MIB + 1, MIB),
    **{f"the class {text!r}": changed("class t640", f"class {text}")
       for text in ("t740", "T640", "t64", "t6400", "*", "t?40", ".*")},
    **{f"the flavour {text!r}": changed("flavour standin", f"flavour {text}") for text in ("nixos", "Standin", "*")},
}  # fmt: skip


@pytest.fixture(scope="module")
def shell(
    tmp_path_factory: pytest.TempPathFactory, keys: object, tools: Path
) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """The program itself, up to where it looks at its arguments, and then nothing but the reading of a file."""
    world: World = make_world(tmp_path_factory.mktemp("format"), keys, tools)  # type: ignore[arg-type]
    world.server.close()
    library = world.directory / "library"
    program, _, _ = (library / "appliance-lifeline").read_text().partition("\nrecovering=no ordered=no\n")
    work = world.root / "run/appliance-lifeline/work"
    work.mkdir(parents=True)
    (library / "read").write_text(
        f'{program}\nrecovering=no ordered=no\nrefuse() {{ echo "$2"; exit 4; }}\nconfigure\nread_file\necho taken\n'
    )
    (world.root / "etc/appliance-lifeline.conf").write_text("URLS=http://localhost\n")
    environment = {"PATH": str(tools), "APPLIANCE_LIFELINE_ROOT": str(world.root),
                   "APPLIANCE_LIFELINE_LIBRARY": str(library)}  # fmt: skip

    def run(text: str) -> subprocess.CompletedProcess[str]:
        (work / "file").write_bytes(text.encode("latin-1"))
        command = [str(tools / "sh"), str(library / "read")]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    return run


@pytest.mark.parametrize("name", TAKEN)
def test_device_and_publisher_take(shell: Callable[[str], subprocess.CompletedProcess[str]], name: str) -> None:
    done = shell(TAKEN[name])
    assert (done.returncode, done.stdout, done.stderr) == (0, "taken\n", "")
    read(TAKEN[name].encode("latin-1"))


@pytest.mark.parametrize("name", REFUSED)
def test_device_and_publisher_refuse(shell: Callable[[str], subprocess.CompletedProcess[str]], name: str) -> None:
    done = shell(REFUSED[name])
    assert done.returncode == 4, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 1  # a sentence
    assert done.stderr == ""
    with pytest.raises(LifelineError):
        read(REFUSED[name].encode("latin-1"))


@pytest.mark.parametrize("name", ONLY_A_DEVICE_REFUSES)
def test_only_the_device_refuses(shell: Callable[[str], subprocess.CompletedProcess[str]], name: str) -> None:
    assert shell(ONLY_A_DEVICE_REFUSES[name]).returncode == 4
    read(ONLY_A_DEVICE_REFUSES[name].encode("latin-1"))
