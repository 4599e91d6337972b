"""The disk as `image/layout.toml` describes it, turned into what mkosi and systemd-repart read."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import appliance_update.layout
from t640.paths import REPOSITORY

LAYOUT_FILE = REPOSITORY / "image" / "layout.toml"


@dataclass(frozen=True)
class Layout:
    """`layout.toml` with the stand-in's flavour chosen. `raw` is the whole file for what is not named here."""

    raw: dict[str, Any]
    flavour: str = "standin"

    @property
    def image_id(self) -> str:
        """IMAGE_ID of os-release, and how every published name begins."""
        return str(self.raw["image"]["id"])

    @property
    def tries(self) -> int:
        """How often a new system is tried before the loader gives up on it."""
        return int(self.raw["boot"]["tries"])

    @property
    def command_line(self) -> list[str]:
        """The kernel arguments every image has."""
        return list(self.raw["boot"]["command_line"])

    @property
    def esp(self) -> dict[str, Any]:
        """The boot chain's names on the ESP."""
        return dict(self.raw["esp"])

    def partition_type(self, partition: dict[str, Any]) -> str:
        """A partition's type as repart names it; a slot's depends on the flavour."""
        if partition["role"] in ("data", "verity"):
            return str(self.raw["flavour"][self.flavour][f"{partition['role']}_type"])
        return str(partition["type"])

    def release_name(self, kind: str, version: str, uuid: str = "") -> str:
        """The published name of a release's `data`, `verity` or `uki`."""
        return str(self.raw["release"][kind]).replace("@v", version).replace("@u", uuid)


def load(path: Path = LAYOUT_FILE) -> Layout:
    """Read the layout. Raises `FileNotFoundError` or `tomllib.TOMLDecodeError`."""
    return Layout(tomllib.loads(path.read_text()))


def _section(name: str, values: dict[str, object]) -> str:
    lines = [
        f"{key}={item}" for key, value in values.items() for item in (value if isinstance(value, list) else [value])
    ]
    return f"[{name}]\n" + "\n".join(lines) + "\n"


def image_definitions(layout: Layout) -> dict[str, str]:
    """What mkosi's own repart run needs (file name → text): a minimal slot, split into the two published files."""
    release, slot = layout.raw["release"], layout.raw["slot"]
    blocks: dict[str, object] = {
        "VerityDataBlockSizeBytes": slot["data_block_size"],
        "VerityHashBlockSizeBytes": slot["hash_block_size"],
    }
    kinds = layout.raw["flavour"][layout.flavour]
    common: dict[str, object] = {"VerityMatchKey": "slot", "Minimize": "best", **blocks}
    data: dict[str, object] = {
        "Type": kinds["data_type"],
        "Label": slot["data_label"].replace("@v", "%A"),
        "Format": "erofs",
        "Compression": "lz4hc",
        "CopyFiles": "/",
        "ExcludeFilesTarget": ["/efi/", "/boot/"],
        "Verity": "data",
        "SplitName": release["data_split_name"],
        **common,
    }
    verity: dict[str, object] = {
        "Type": kinds["verity_type"],
        "Label": slot["verity_label"].replace("@v", "%A"),
        "Verity": "hash",
        "SplitName": release["verity_split_name"],
        **common,
    }
    esp: dict[str, object] = {"Type": "esp", "Format": "vfat", "SizeMinBytes": "128M", "SplitName": "-"}
    return {name: _section("Partition", text) for name, text in
            (("00-esp.conf", esp), ("10-data.conf", data), ("11-verity.conf", verity))}  # fmt: skip


def device_definitions(layout: Layout) -> dict[str, str]:
    """The appliance's own repart.d and sysupdate.d (path below /usr/lib → text), as the updater renders them."""
    return appliance_update.layout.definitions(appliance_update.layout.load(LAYOUT_FILE), layout.flavour)


@dataclass(frozen=True)
class SlotSource:
    """The files that fill slot A of a new disk, as paths where repart sees them, with their partition UUIDs."""

    version: str
    data: Path
    data_uuid: str
    verity: Path
    verity_uuid: str
    uki: Path
    loader: Path
    loader_conf: Path
    recovery: Path | None = None
    recovery_version: str = ""


def disk_definitions(layout: Layout, source: SlotSource) -> dict[str, str]:
    """A new disk from published artifacts: the ESP and slot A, byte for byte what an update writes into slot B."""
    esp = layout.esp
    uki = f"{esp['uki_directory']}/{esp['uki_first'].replace('@v', source.version)}"
    copies = [f"{source.loader}:{esp['loader']}", f"{source.loader}:{esp['fallback_loader']}",
              f"{source.loader_conf}:{esp['loader_conf']}", f"{source.uki}:{uki}"]  # fmt: skip
    if source.recovery:
        name = esp["recovery_first"].replace("@v", source.recovery_version)
        copies.append(f"{source.recovery}:{esp['uki_directory']}/{name}")
    files = {}
    for partition in layout.raw["partition"]:
        if partition["built"] != "image":
            continue
        size = f"{partition['size_mib']}M"
        values: dict[str, object] = {
            "Type": layout.partition_type(partition),
            "Label": partition["label"].replace("@v", source.version),
            "SizeMinBytes": size,
            "SizeMaxBytes": size,
        }
        if partition["role"] == "esp":
            values |= {"Format": partition["filesystem"], "CopyFiles": copies}
        elif partition["role"] == "data":
            values |= {"CopyBlocks": source.data, "UUID": source.data_uuid, "ReadOnly": "yes"}
        else:
            values |= {"CopyBlocks": source.verity, "UUID": source.verity_uuid, "ReadOnly": "yes"}
        files[f"{partition['name']}.conf"] = _section("Partition", values)
    return files
