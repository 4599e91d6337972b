"""What the service carries for as long as it lives, and that its modules can be read one after the other."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import compliance_agent

SOURCES = Path(compliance_agent.__file__).parent
HEAVY = {"cryptography", "rich", "chardet.universaldetector", "compliance_agent.collect"}
LOAD = """
import sys
import compliance_agent.cli, compliance_agent.main
from compliance_agent.checks.base import discover as checks
from compliance_agent.orders.base import discover as handlers
assert checks() and handlers()
print(*sys.modules)
"""


def test_the_service_loads_nothing_that_only_its_commands_need() -> None:
    done = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, check=True, timeout=60)
    assert HEAVY.isdisjoint(done.stdout.split())


def modules() -> dict[str, Path]:
    found = {}
    for path in SOURCES.rglob("*.py"):
        parts = path.relative_to(SOURCES.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def test_no_module_imports_itself_by_a_detour() -> None:
    known = modules()
    graph: dict[str, set[str]] = {}
    for name, path in known.items():
        wanted = graph.setdefault(name, set())
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module in known:
                full = {f"{node.module}.{alias.name}" for alias in node.names}
                wanted.update(full & known.keys() or {node.module})
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the cycle
    assert set(order) == set(known)
