"""One check a file; each is `check(config, host)` and returns None when all is well, else a sentence.

To add one: a file here with that function. The registry finds it by being here.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable

from appliance_update.config import Config
from appliance_update.host import Host

Check = Callable[[Config, Host], str | None]


class Hopeless(str):
    """A sentence about something that waiting does not mend: the gate condemns at once."""

    __slots__ = ()


def registry() -> dict[str, Check]:
    """Every check of this folder by name, in order of name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {name: importlib.import_module(f"{__name__}.{name}").check for name in names}
