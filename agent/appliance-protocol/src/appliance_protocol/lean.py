"""What libraries load and a service never uses, left out of its memory for the months it runs.

A service calls this before it imports anything else; commands and tests do not. What is loaded already stays.
"""

from __future__ import annotations

import sys
import types

WEB = ("python_multipart", "multipart")
"""Starlette loads them for uploads in forms, of which no service takes any; it does without."""
HOLLOW = {
    "uvicorn.supervisors": ("ChangeReload", "Multiprocess"),
    "html.entities": ("html5", "name2codepoint", "codepoint2name"),
}
"""What uvicorn needs to start itself anew or several times over, and the names of HTML's 2231 characters, which only
`html.unescape` wants. Their names are there, and None."""


def leave_out(*absent: str) -> None:
    """Have imports of modules in `absent` and `WEB` fail as if not installed, and find those of `HOLLOW` empty."""
    for name in (*WEB, *absent):
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    for name, attributes in HOLLOW.items():
        module = types.ModuleType(name)
        vars(module).update(dict.fromkeys(attributes))
        sys.modules.setdefault(name, module)
