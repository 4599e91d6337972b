"""The disk as layout.toml describes it, and the repart and sysupdate definitions that follow from it.

`python -m appliance_update.layout render --flavour standin DIR` writes DIR/repart.d and DIR/sysupdate.d for an image.
"""

from __future__ import annotations

import enum
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec

LAYOUT_FILE = Path("/usr/share/appliance-update/layout.toml")


class LayoutError(ValueError):
    """A layout.toml that cannot be read as a layout; the message names the file and the reason."""


class Role(enum.StrEnum):
    """What a partition, or an artifact of a release, is for."""

    ESP = "esp"
    DATA = "data"
    VERITY = "verity"
    STATE = "state"
    UKI = "uki"
    RECOVERY = "recovery"


@dataclass(frozen=True)
class Image:
    """The image's identity; `version_pattern` is a regular expression for the whole version."""

    id: str
    architecture: str
    version_pattern: str
    sector_size: int = 512


@dataclass(frozen=True)
class Flavour:
    """Partition types (systemd's names) and kernel argument of one way to build the image."""

    data_type: str
    verity_type: str
    root_hash_argument: str
    mapper: str


@dataclass(frozen=True)
class Partition:
    """One partition. `size_mib` is exact, or the least when it `grows`. `slot` is `a`, `b` or empty."""

    name: str
    role: Role
    label: str
    size_mib: int
    built: str
    type: str = ""
    slot: str = ""
    filesystem: str = ""
    priority: int = 0
    grows: bool = False
    mount_point: str = ""

    @property
    def size(self) -> int:
        """Bytes."""
        return self.size_mib * 1024 * 1024


@dataclass(frozen=True)
class SlotNames:
    """How the partitions of a slot are labelled."""

    data_label: str
    verity_label: str
    empty_label: str
    label_limit: int = 36
    data_block_size: int = 4096
    hash_block_size: int = 4096


@dataclass(frozen=True)
class Esp:
    """Paths on the EFI system partition, and the names of a UKI: blessed, counted, as built."""

    mount_points: tuple[str, ...]
    loader: str
    fallback_loader: str
    loader_conf: str
    loader_conf_text: str
    uki_directory: str
    uki_name: str
    uki_counted: tuple[str, ...]
    uki_first: str
    uki_mode: str
    uki_reserve_mib: int
    recovery_name: str = ""
    recovery_counted: tuple[str, ...] = ()
    recovery_first: str = ""


@dataclass(frozen=True)
class Boot:
    """Boot counting, and the kernel arguments every image carries."""

    tries: int
    command_line: tuple[str, ...]


@dataclass(frozen=True)
class ArtifactNames:
    """File name patterns of the three artifacts, and of the recovery that may travel with them."""

    data: str
    verity: str
    uki: str
    recovery: str = ""

    def of(self, role: Role) -> str:
        """The pattern for one role. Raises `KeyError` for a role that has no artifact."""
        return {
            Role.DATA: self.data,
            Role.VERITY: self.verity,
            Role.UKI: self.uki,
            Role.RECOVERY: self.recovery,
        }[role]


@dataclass(frozen=True)
class Layout:
    """All of layout.toml."""

    format: int
    image: Image
    flavour: dict[str, Flavour]
    partition: tuple[Partition, ...]
    slot: SlotNames
    esp: Esp
    boot: Boot
    release: ArtifactNames
    staged: ArtifactNames

    def number(self, role: Role, slot: str = "") -> int:
        """The partition's number on the disk, counted from 1. Raises `LayoutError` when there is none."""
        for number, partition in enumerate(self.partition, start=1):
            if partition.role is role and partition.slot == slot:
                return number
        raise LayoutError(f"layout.toml describes no {role.value} partition{f' of slot {slot}' if slot else ''}")

    def valid_version(self, version: str) -> bool:
        """Whether `version` has the image's form."""
        return re.fullmatch(self.image.version_pattern, version) is not None


def load(path: Path = LAYOUT_FILE) -> Layout:
    """Read layout.toml; unknown keys are ignored. Raises `LayoutError`."""
    try:
        layout = msgspec.toml.decode(path.read_bytes(), type=Layout)
    except OSError as error:
        raise LayoutError(f"{path}: {error.strerror}; the image must carry layout.toml there") from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise LayoutError(f"{path}: {error}") from error
    for label in (layout.slot.data_label, layout.slot.verity_label):
        # The longest version the pattern's own form allows: YYYY.MM.NNNNN.
        if len(label.replace("@v", "2026.12.99999")) > layout.slot.label_limit:
            raise LayoutError(f"{path}: label {label!r} is longer than GPT's {layout.slot.label_limit} characters")
    return layout


WILDCARDS = {
    "@v": r"(?P<version>[^_+/]+?)",
    "@u": r"(?P<uuid>[0-9a-f]{32})",
    "@l": r"(?P<left>\d+)",
    "@d": r"(?P<done>\d+)",
}


def compiled(pattern: str) -> re.Pattern[str]:
    """A regular expression for a pattern with sysupdate's wildcards, with groups version, uuid, left, done."""
    parts = re.split(r"(@[vuld])", pattern)
    return re.compile("".join(WILDCARDS.get(part, re.escape(part)) for part in parts))


# -- definitions ------------------------------------------------------------------------------------------------------


def partition_type(layout: Layout, flavour: str, partition: Partition) -> str:
    """The partition's type by systemd's name. Raises `LayoutError` for an unknown flavour."""
    if flavour not in layout.flavour:
        raise LayoutError(f"flavour {flavour!r} is not one of {', '.join(sorted(layout.flavour))}")
    if partition.type:
        return partition.type
    kind = layout.flavour[flavour]
    return kind.data_type if partition.role is Role.DATA else kind.verity_type


def repart_definitions(layout: Layout, flavour: str) -> dict[str, str]:
    """File name to text of repart.d: what first boot finds (A, ESP) and makes (B, state)."""
    texts = {}
    for partition in layout.partition:
        lines = ["[Partition]", f"Type={partition_type(layout, flavour, partition)}"]
        if "@v" not in partition.label:
            lines.append(f"Label={partition.label}")
        else:
            lines.append("Label=" + partition.label.replace("@v", "%A"))
        lines.append(f"SizeMinBytes={partition.size_mib}M")
        if not partition.grows:
            lines.append(f"SizeMaxBytes={partition.size_mib}M")
        if partition.filesystem:
            lines.append(f"Format={partition.filesystem}")
        if partition.label == layout.slot.empty_label:
            lines.append("NoAuto=yes")
        if partition.slot:
            lines.append("ReadOnly=yes")
        if partition.priority:
            lines.append(f"Priority={partition.priority}")
        texts[f"{partition.name}.conf"] = "\n".join(lines) + "\n"
    return texts


TRANSFER = """[Transfer]
ProtectVersion=%A
Verify=no

[Source]
Type=regular-file
Path={staging}
MatchPattern={source}

[Target]
"""

PARTITION_TARGET = """Type=partition
Path={disk}
MatchPattern={label}
MatchPartitionType={type}
PartitionFlags=0
ReadOnly=yes
InstancesMax=2
"""

UKI_TARGET = """Type=regular-file
Path={directory}
PathRelativeTo=boot
MatchPattern={patterns}
Mode={mode}
TriesLeft={tries}
TriesDone=0
InstancesMax=2
"""

LANDING_TARGET = """Type=regular-file
Path={directory}
PathRelativeTo=boot
MatchPattern={pattern}
Mode={mode}
InstancesMax=2
"""

STAGING = Path("/var/lib/appliance-update/staging")


def slot_transfers(layout: Layout, flavour: str, *, disk: str = "auto", staging: Path = STAGING) -> dict[str, str]:
    """File name to text of the two transfers that fill a slot. Nothing in them makes anything bootable."""
    kind = layout.flavour[flavour]
    texts = {}
    for name, role, label, type_ in (
        ("10-verity", Role.VERITY, layout.slot.verity_label, kind.verity_type),
        ("20-data", Role.DATA, layout.slot.data_label, kind.data_type),
    ):
        source = TRANSFER.format(staging=staging, source=layout.staged.of(role))
        texts[f"{name}.transfer"] = source + PARTITION_TARGET.format(disk=disk, label=label, type=type_)
    return texts


def boot_transfers(layout: Layout, *, staging: Path = STAGING) -> dict[str, str]:
    """File name to text of the one transfer that arms: the UKI with its counter."""
    source = TRANSFER.format(staging=staging, source=layout.staged.uki)
    target = UKI_TARGET.format(
        directory=layout.esp.uki_directory,
        patterns=" ".join((*layout.esp.uki_counted, layout.esp.uki_name)),
        mode=layout.esp.uki_mode,
        tries=layout.boot.tries,
    )
    return {"90-uki.transfer": source + target}


LANDING = ".landing"
"""Ending under which a UKI lies on the ESP until it was read back: the loader boots only what ends in .efi."""


def landing_transfers(layout: Layout, *, staging: Path = STAGING) -> dict[str, str]:
    """File name to text of the one transfer that brings the UKI to the ESP, under a name that nothing boots."""
    source = TRANSFER.format(staging=staging, source=layout.staged.uki)
    target = LANDING_TARGET.format(
        directory=layout.esp.uki_directory, pattern=layout.esp.uki_name + LANDING, mode=layout.esp.uki_mode
    )
    return {"90-uki.transfer": source + target}


def definitions(layout: Layout, flavour: str) -> dict[str, str]:
    """Every definition an image carries: path below /usr/lib to text. Raises `LayoutError` for an unknown flavour."""
    repart = {f"repart.d/{name}": text for name, text in repart_definitions(layout, flavour).items()}
    transfers = {**slot_transfers(layout, flavour), **boot_transfers(layout)}
    return repart | {f"sysupdate.d/{name}": text for name, text in transfers.items()}


def write(texts: dict[str, str], directory: Path) -> None:
    """Write each text to its path below `directory`."""
    for name, text in texts.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def main(arguments: list[str]) -> int:
    """`render [--layout FILE] --flavour NAME DIR`; 0 done, 2 misuse or unreadable layout."""
    import argparse

    parser = argparse.ArgumentParser(prog="python -m appliance_update.layout", description=__doc__)
    commands = parser.add_subparsers(required=True)
    render = commands.add_parser("render", help="write DIR/repart.d and DIR/sysupdate.d")
    render.add_argument("--layout", type=Path, default=LAYOUT_FILE)
    render.add_argument("--flavour", required=True)
    render.add_argument("directory", type=Path)
    options = parser.parse_args(arguments)
    try:
        write(definitions(load(options.layout), options.flavour), options.directory)
    except LayoutError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
