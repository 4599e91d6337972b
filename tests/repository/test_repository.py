"""What holds for the repository as a whole: one version, documents that point at things that exist."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
DOCUMENTS = [name for name in TRACKED if name.endswith(".md")]
PROJECTS = [name for name in TRACKED if name.endswith("/pyproject.toml")]


@pytest.mark.parametrize("project", PROJECTS)
def test_every_distribution_carries_the_one_version(project: str) -> None:
    settings = tomllib.loads((ROOT / project).read_text())
    assert settings["project"]["version"] == (ROOT / "VERSION").read_text().strip()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_of_a_document_leads_somewhere(document: str) -> None:
    text = (ROOT / document).read_text()
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text)
    missing = [link for link in links if not (ROOT / document).parent.joinpath(link).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_make_target_a_document_names_exists(document: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)", (ROOT / document).read_text()))
    assert named <= targets


@pytest.mark.parametrize("name", [name for name in TRACKED if name.startswith("docs/") and name.endswith(".md")])
def test_every_path_in_backquotes_exists(name: str) -> None:
    text = (ROOT / name).read_text()
    tops = "agent|central|image|modules|hosts|tests|vm-tests|benchmarks|docs"
    paths = set(re.findall(rf"`((?:{tops})/[A-Za-z0-9_./-]+)`", text))
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_the_readme_stays_one_page() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 90
