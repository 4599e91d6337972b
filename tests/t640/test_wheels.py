"""Distributions land in the image where Debian's Python and systemd look for them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from t640 import paths, wheels


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "thing-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("thing/__init__.py", "def main():\n    print('hello')\n")
        archive.writestr("thing-1.dist-info/entry_points.txt", "[console_scripts]\nsay-thing = thing:main\n")
    return path


def test_a_console_script_names_the_system_python_and_calls_its_function(wheel: Path, tmp_path: Path) -> None:
    wheels.unpack_wheel(wheel, tmp_path / "tree")
    script = (tmp_path / "tree/usr/bin/say-thing").read_text()
    assert script.startswith("#!/usr/bin/python3\n")
    assert "from thing import main" in script
    assert (tmp_path / "tree/usr/bin/say-thing").stat().st_mode & 0o111 == 0o111
    assert (tmp_path / "tree/usr/lib/python3/dist-packages/thing/__init__.py").exists()


def test_units_with_an_install_section_are_enabled_and_templates_are_not(tmp_path: Path) -> None:
    units = tmp_path / "systemd"
    (units / "a.service.d").mkdir(parents=True)
    (units / "a.service").write_text("[Service]\n\n[Install]\nWantedBy=multi-user.target\n")
    (units / "b.service").write_text("[Service]\n")
    (units / "c@.service").write_text("[Service]\n\n[Install]\nWantedBy=multi-user.target\n")
    (units / "a.service.d/more.conf").write_text("[Service]\n")
    assert wheels.enabled_units(tmp_path) == ["a.service"]


def test_files_go_where_the_contract_says(tmp_path: Path) -> None:
    distribution = tmp_path / "some-service"
    for folder, name in (("systemd/x.service.d", "y.conf"), ("etc", "config.toml"), ("polkit-1", "z.rules")):
        (distribution / folder).mkdir(parents=True)
        (distribution / folder / name).write_text("text")
    tree = tmp_path / "tree"
    wheels.copy_files(distribution, tree)
    assert (tree / "usr/lib/systemd/system/x.service.d/y.conf").exists()
    assert (tree / "etc/some-service/config.toml").exists()
    assert (tree / "usr/share/polkit-1/rules.d/z.rules").exists()


def test_byte_code_and_build_leavings_do_not_change_the_content_key(tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    (source / "module.py").write_text("x = 1\n")
    before = wheels.content_key([source])
    (source / "__pycache__").mkdir()
    (source / "__pycache__/module.pyc").write_bytes(b"123")
    assert wheels.content_key([source]) == before
    (source / "module.py").write_text("x = 2\n")
    assert wheels.content_key([source]) != before


def test_every_distribution_of_the_appliance_is_in_the_repository() -> None:
    assert [path.name for path in paths.distributions()] == [Path(name).name for name in paths.DISTRIBUTIONS]
