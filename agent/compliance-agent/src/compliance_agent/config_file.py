"""Reading the configuration file: every mistake named by file, key and reason, and none of them fatal to the service.

`load` is for people and tools: it raises on the first look. `load_leniently` is for the service: a wrong value is
reported and its default is used, because a box that says what is wrong with it is worth more than a silent one.
"""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from compliance_agent.config import Config

DEFAULT_PATH = Path("/etc/compliance-agent/config.toml")
MAX_CONFIG = 1 << 20
"""Largest configuration file that is read, in bytes."""

MOVED = {
    "site_id": "the site comes with the enrolment (`compliance-agent enrol`)",
    "appliance_id": "the device's id comes with the enrolment (`compliance-agent enrol`)",
    "host_id": "the device's id comes with the enrolment (`compliance-agent enrol`)",
    "api_key": "the device has a key of its own since 2026.11; delete this one, it is a secret",
    "mcp_api_key_file": "the device has a key of its own since 2026.11",
    "api_endpoint": "Central Command's address comes with the enrolment (`compliance-agent enrol --url`)",
    "mcp_url": "Central Command's address comes with the enrolment (`compliance-agent enrol --url`)",
    "poll_interval": "now central.checkin_interval",
    "state_dir": "now paths.state",
}
"""Keys of earlier formats, and what took their place."""

Table = TypeVar("Table")


class ConfigError(ValueError):
    """A configuration with mistakes; the message has one line for each, with file, key and reason."""


@dataclass
class Reading:
    """A configuration as far as it could be read."""

    config: Config
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def load(path: Path = DEFAULT_PATH) -> Reading:
    """The configuration in `path`; a missing file is all defaults. Raises `ConfigError` when it has mistakes."""
    reading = load_leniently(path)
    if reading.errors:
        raise ConfigError("\n".join(reading.errors))
    return reading


def load_leniently(path: Path = DEFAULT_PATH) -> Reading:
    """The configuration in `path`, with the default in place of every value that is wrong. Raises nothing."""
    try:
        with path.open("rb") as file:
            document = file.read(MAX_CONFIG + 1)
    except FileNotFoundError:
        return Reading(Config())
    except OSError as error:
        return Reading(Config(), [f"{path}: cannot be read: {error.strerror or error}; the defaults are in force"])
    return parse(document, str(path))


def parse(document: bytes, name: str) -> Reading:
    """Read a TOML document; `name` is what messages call it. Raises nothing."""
    if len(document) > MAX_CONFIG:
        return Reading(Config(), [f"{name}: larger than {MAX_CONFIG} bytes; the defaults are in force"])
    try:
        tables = tomllib.loads(document.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        return Reading(Config(), [f"{name}: not TOML: {error}; the defaults are in force"])
    reader = _Reader(name)
    config = reader.table(tables, Config, "")
    return Reading(config, reader.errors, reader.warnings)


class _Reader:
    """Walks a TOML document beside the dataclasses that describe it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def table(self, values: dict[str, Any], model: type[Table], prefix: str) -> Table:
        """`values` as a `model`; what is wrong falls to its default."""
        hints = typing.get_type_hints(model, include_extras=True)
        known = {item.name: item for item in dataclasses.fields(model)}  # type: ignore[arg-type]
        taken: dict[str, Any] = {}
        for key, value in values.items():
            if key not in known:
                hint = MOVED.get(key)
                self.warnings.append(f"{self.name}: {_shown(prefix + key)}: {hint or 'not a known key'}; ignored")
                continue
            read = self._value(value, hints[key], prefix + key)
            if read is not msgspec.UNSET:
                taken[key] = read
        missing = [
            item.name
            for item in known.values()
            if item.name not in taken
            and item.default is dataclasses.MISSING
            and item.default_factory is dataclasses.MISSING
        ]
        if missing:
            raise ValueError(f"{', '.join(missing)} missing")
        return model(**taken)

    def _value(self, value: Any, hint: Any, key: str) -> Any:
        """`value` as `hint` wants it, or `msgspec.UNSET` after noting why not."""
        try:
            if dataclasses.is_dataclass(hint):
                if not isinstance(value, dict):
                    raise ValueError(f"expected a table, got {_kind(value)}")
                return self.table(value, typing.cast("type[Any]", hint), key + ".")
            element = _element_table(hint)
            if element is not None and isinstance(value, list):
                return tuple(self._elements(value, element, key))
            return msgspec.convert(value, hint)
        except (msgspec.ValidationError, ValueError, RecursionError) as error:
            self.errors.append(f"{self.name}: {_shown(key)}: {error}; its default is in force")
            return msgspec.UNSET

    def _elements(self, values: list[Any], model: type[Any], key: str) -> typing.Iterator[Any]:
        for index, value in enumerate(values):
            if not isinstance(value, dict):
                raise ValueError(f"element {index}: expected a table, got {_kind(value)}")
            before = len(self.errors)
            element = self.table(value, model, f"{key}[{index}].")
            if len(self.errors) == before:
                yield element


def _element_table(hint: Any) -> type[Any] | None:
    """The dataclass in `tuple[Dataclass, ...]`, if `hint` is that."""
    if isinstance(hint, types.GenericAlias) and typing.get_origin(hint) is tuple:
        first = typing.get_args(hint)[0]
        if dataclasses.is_dataclass(first):
            return typing.cast("type[Any]", first)
    return None


def _kind(value: Any) -> str:
    named = {dict: "a table", list: "a list", str: "a text", bool: "true or false"}
    return named.get(type(value), type(value).__name__)


def _shown(key: str) -> str:
    """A key as it may stand in a log line."""
    return "".join(character if character.isprintable() else "?" for character in key)[:200]
