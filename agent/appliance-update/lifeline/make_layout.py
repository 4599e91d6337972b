#!/usr/bin/env python3
"""Turns image/layout.toml into the few shell variables the lifeline needs, while an image is built.

`make_layout.py LAYOUT FLAVOUR` prints them. Only builders run this (Python 3.11, standard library alone); the device
reads the result with `.` from its verified slot. No number of the disk is written by hand in any shell script.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

# GPT partition types (Discoverable Partitions Specification, x86-64), in sfdisk's spelling.
TYPES = {
    "esp": "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
    "root": "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
    "root-verity": "2C7357ED-EBD2-46D9-AEC1-23D437EC2BF5",
    "usr": "8484680C-9521-48C6-9C11-B0720656F69E",
    "usr-verity": "77FF5F63-E7B6-4633-ACF4-1565B864C0E6",
}

MIB = 1024 * 1024


def variables(layout: dict[str, Any], flavour: str) -> dict[str, str]:
    """Name to value. Raises `KeyError` for an unknown flavour, `ValueError` for a pattern the shell cannot split."""
    kind, slot, esp = layout["flavour"][flavour], layout["slot"], layout["esp"]
    numbers = {(part["role"], part.get("slot", "")): index for index, part in enumerate(layout["partition"], start=1)}
    sizes = {part["role"]: part["size_mib"] * MIB for part in layout["partition"] if part.get("slot", "a") == "a"}
    state = next(part for part in layout["partition"] if part["role"] == "state")
    found = {
        "layout_image_id": layout["image"]["id"],
        "layout_version_pattern": layout["image"]["version_pattern"],
        "layout_flavour": flavour,
        "layout_root_hash_argument": kind["root_hash_argument"],
        "layout_mapper": kind["mapper"],
        "layout_esp_number": str(numbers["esp", ""]),
        "layout_state_number": str(numbers["state", ""]),
        "layout_state_mount_point": state["mount_point"],
        "layout_esp_type": TYPES["esp"],
        "layout_data_type": TYPES[kind["data_type"]],
        "layout_verity_type": TYPES[kind["verity_type"]],
        "layout_empty_label": slot["empty_label"],
        "layout_esp_mount_points": " ".join(esp["mount_points"]),
        "layout_uki_directory": esp["uki_directory"],
        "layout_tries": str(layout["boot"]["tries"]),
    }
    for role in ("verity", "data"):
        found[f"layout_{role}_bytes"] = str(sizes[role])
        for name in "ab":
            found[f"layout_{role}_{name}_number"] = str(numbers[role, name])
    for name, pattern in (
        ("data_label", slot["data_label"]),
        ("verity_label", slot["verity_label"]),
        ("uki", esp["uki_name"]),
        ("recovery", esp["recovery_name"]),
    ):
        parts = pattern.split("@v")
        if len(parts) != 2 or "@" in parts[0] + parts[1]:
            raise ValueError(f"{pattern!r} must hold @v once, and no other wildcard")
        found[f"layout_{name}_prefix"], found[f"layout_{name}_suffix"] = parts
    return found


def fragment(layout: dict[str, Any], flavour: str) -> str:
    """The text of layout.sh."""
    lines = []
    for name, value in variables(layout, flavour).items():
        if "'" in value or "\n" in value:
            raise ValueError(f"{name}={value!r} cannot be quoted")
        lines.append(f"{name}='{value}'\n")
    return "# Made from image/layout.toml by make_layout.py; never edited.\n" + "".join(lines)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.stdout.write(fragment(tomllib.loads(Path(sys.argv[1]).read_text()), sys.argv[2]))
