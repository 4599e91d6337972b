"""Named places where a test can cut the power.

Every write that must survive a power cut is preceded by a `point`. Outside the tests it does nothing.
"""

from __future__ import annotations

from collections.abc import Callable

_hook: Callable[[str], None] | None = None


def point(name: str) -> None:
    """Give the hook, if one is set, the chance to raise here."""
    if _hook is not None:
        _hook(name)


def set_hook(hook: Callable[[str], None] | None) -> None:
    """Install the hook, or take it away with None."""
    global _hook
    _hook = hook
