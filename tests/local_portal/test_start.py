"""The start: templates compiled aside, and nothing carried for months that only rare moments need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HEAVY = {"nacl", "cryptography", "rich", "requests"}
PRECOMPILED = """
import sys
from pathlib import Path
from jinja2 import Environment
from local_portal.precompile import precompile
from local_portal.web import environment

compiled = []
compile_one = Environment.compile
Environment.compile = lambda self, *a, **k: compiled.append(1) or compile_one(self, *a, **k)
{before}
precompile(Path(sys.argv[1]))
made = environment()
left = [name for name in made.list_templates() if (None, name) not in {{(None, key[1]) for key in made.cache.keys()}}]
print(len(compiled), left, made.bytecode_cache, "nacl" in sys.modules)
"""


def start(runtime: Path, before: str = "") -> subprocess.CompletedProcess[str]:
    program = PRECOMPILED.format(before=before)
    return subprocess.run(
        [sys.executable, "-c", program, str(runtime)], capture_output=True, text=True, check=False, timeout=60)


def test_the_service_compiles_no_template_itself_and_leaves_nothing_on_the_disk(tmp_path: Path) -> None:
    done = start(tmp_path / "runtime")
    assert done.stdout == "0 [] None False\n", done.stderr
    assert list((tmp_path / "runtime").iterdir()) == []


def test_without_a_place_for_the_templates_the_service_compiles_them_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "runtime").write_text("not a directory")
    done = start(tmp_path / "runtime")
    compiled, rest = done.stdout.split(" ", 1)
    assert int(compiled) > 10
    assert rest.startswith("[] None")
    assert "the templates are compiled in the service itself" in done.stderr


def test_a_library_that_only_a_login_needs_is_missed_at_the_start_already(tmp_path: Path) -> None:
    done = start(tmp_path / "runtime", 'sys.modules["nacl"] = None')
    assert done.returncode != 0
    assert "nacl" in done.stderr.splitlines()[-1]


def test_the_service_loads_nothing_that_only_a_login_or_a_new_certificate_needs() -> None:
    program = "import sys, local_portal.cli, local_portal.service; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert HEAVY.isdisjoint(done.stdout.split())
