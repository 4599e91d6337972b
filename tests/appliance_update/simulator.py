"""A device in a directory: a disk image with a real GPT, an ESP, /proc and /sys; a loader and a writer like systemd's.

Only what cannot run here is simulated (firmware, boot loader, systemd-sysupdate); the updater is the real one, with
real files, a real HTTP server and a real TUF repository.
"""

from __future__ import annotations

import configparser
import hashlib
import re
import shutil
import struct
import uuid
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from appliance_update import faults
from appliance_update.entries import Entry, entries
from appliance_update.gpt import ENTRY, HEADER, TYPES, TableEntry, read_table
from appliance_update.host import LOADER_GUID, Host
from appliance_update.layout import Layout, Role, compiled, load
from appliance_update.uki import argument, command_line

LAYOUT = Path(__file__).parents[2] / "image" / "layout.toml"
SECTOR = 512
MIB = 1024 * 1024


def small_layout(directory: Path) -> Path:
    """layout.toml with the same shape and partitions of a MiB, so that thousands of updates fit into seconds."""
    text = re.sub(r"size_mib = \d+", "size_mib = 1", LAYOUT.read_text())
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "layout.toml"
    path.write_text(text.replace("uki_reserve_mib = 128", "uki_reserve_mib = 1"))
    return path


LENGTHS: dict[str, tuple[int, int]] = {}
"""Lengths of data and verity content by root hash: what dm-verity knows from the hash tree itself."""

GENUINE: set[str] = set()
"""Root hashes of real dm-verity images, whose trees only a kernel checks: their slots open unseen."""


# -- a build ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Build:
    """Three files like those of the image builder, with a root hash that depends on the content."""

    version: str
    directory: Path
    root_hash: str
    data: bytes
    verity: bytes
    uki: bytes

    @property
    def data_uuid(self) -> uuid.UUID:
        return uuid.UUID(self.root_hash[:32])

    @property
    def verity_uuid(self) -> uuid.UUID:
        return uuid.UUID(self.root_hash[32:])


def make_build(
    parent: Path, version: str, *, flavour: str = "standin", size: int = 300_000, root_hash: str = ""
) -> Build:
    """Data and verity partition contents and a UKI of one version; `root_hash` overrides what the UKI names."""
    seed = hashlib.sha256(version.encode()).digest()
    data = (seed * (size // 64)) + bytes(size // 2) + seed
    verity = hashlib.sha256(data).digest() * 500
    real = hashlib.sha256(data + verity).hexdigest()
    LENGTHS[real] = len(data), len(verity)
    name = {"standin": "roothash", "nixos": "usrhash"}[flavour]
    uki = pe_file(f"console=ttyS0 panic=10 {name}={root_hash or real} quiet", version)
    directory = parent / f"build-{version}-{flavour}"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"t640_{version}.data.{real[:32]}.raw").write_bytes(data)
    (directory / f"t640_{version}.verity.{real[32:]}.raw").write_bytes(verity)
    (directory / f"t640_{version}.efi").write_bytes(uki)
    return Build(version, directory, real, data, verity, uki)


def pe_file(text: str, identity: str = "") -> bytes:
    """The least PE file with a .cmdline section, and with an .osrel section of a version if `identity` names one."""
    line = text.encode()
    release = f"NAME=Appliance\nIMAGE_ID=t640\nIMAGE_VERSION={identity}\n".encode()
    header = bytearray(0x200)
    header[:2] = b"MZ"
    struct.pack_into("<I", header, 0x3C, 0x80)
    header[0x80:0x84] = b"PE\0\0"
    struct.pack_into("<HH", header, 0x84, 0x8664, 3 if identity else 2)
    struct.pack_into("<8sIIII", header, 0x98, b".linux\0\0", 4096, 0x1000, 4096, 0x600)
    struct.pack_into("<8sIIII", header, 0x98 + 40, b".cmdline", len(line), 0x2000, 0x200, 0x200)
    if identity:
        struct.pack_into("<8sIIII", header, 0x98 + 80, b".osrel\0\0", len(release), 0x3000, 0x200, 0x400)
    return bytes(header) + line.ljust(0x200, b"\0") + release.ljust(0x200, b"\0") + hashlib.sha256(line).digest() * 128


# -- a GUID partition table -------------------------------------------------------------------------------------------


def write_table(disk: Path, table: list[TableEntry]) -> None:
    """Write primary and backup table; names and UUIDs as given."""
    kinds = {name: kind for kind, name in TYPES.items()}
    raw = bytearray(128 * 128)
    for entry in table:
        kind = kinds.get(entry.type) or uuid.UUID(entry.type)
        first = entry.start // SECTOR
        last = first + entry.size // SECTOR - 1
        name = entry.label.encode("utf-16-le").ljust(72, b"\0")
        ENTRY.pack_into(
            raw, (entry.number - 1) * 128, kind.bytes_le, entry.uuid.bytes_le, first, last, entry.flags, name
        )
    sectors = disk.stat().st_size // SECTOR
    with disk.open("r+b") as file:
        protective = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, min(sectors - 1, 0xFFFFFFFF))
        file.seek(446)
        file.write(protective.ljust(64, b"\0") + b"\x55\xaa")
        for own, other, at in ((1, sectors - 1, 2), (sectors - 1, 1, sectors - 33)):
            fields = [b"EFI PART", bytes([0, 0, 1, 0]), 92, 0, 0, own, other, 34, sectors - 34, bytes(16), at, 128, 128]
            header = HEADER.pack(*fields, zlib.crc32(raw))
            fields[3] = zlib.crc32(header)
            file.seek(at * SECTOR)
            file.write(raw)
            file.seek(own * SECTOR)
            file.write(HEADER.pack(*fields, zlib.crc32(raw)).ljust(SECTOR, b"\0"))


def relabel(disk: Path, number: int, **changes: object) -> None:
    """Change one entry of the table."""
    table = [
        TableEntry(**(entry.__dict__ | changes)) if entry.number == number else entry for entry in read_table(disk)
    ]
    write_table(disk, table)


# -- the device -------------------------------------------------------------------------------------------------------


@dataclass
class Device:
    """The simulated machine."""

    root: Path
    layout: Layout
    flavour: str = "standin"
    boots: list[str] = field(default_factory=list)
    writes: int = 0

    @property
    def host(self) -> Host:
        return Host(self.root)

    @property
    def disk(self) -> Path:
        return self.root / "dev/nvme0n1"

    @property
    def esp(self) -> Path:
        return self.root / "boot"

    @property
    def uki_directory(self) -> Path:
        return self.esp / "EFI/Linux"

    @property
    def state(self) -> Path:
        return self.root / "var/lib/appliance-update"

    @property
    def runtime(self) -> Path:
        return self.root / "run/appliance-update"

    def partition(self, role: Role, slot: str) -> TableEntry:
        return read_table(self.disk)[self.layout.number(role, slot) - 1]

    def ukis(self) -> list[str]:
        return sorted(path.name for path in self.uki_directory.iterdir() if not path.name.startswith("."))

    def content(self, role: Role, slot: str, length: int) -> bytes:
        with self.disk.open("rb") as file:
            file.seek(self.partition(role, slot).start)
            return file.read(length)


def make_device(root: Path, layout_file: Path, build: Build, flavour: str = "standin") -> Device:
    """A disk as the installer leaves it and first boot completes it: `build` blessed in slot a, slot b empty."""
    layout = load(layout_file)
    device = Device(root, layout, flavour)
    for name in ("dev", "proc/self", "proc/sys/kernel/random", "sys/firmware/efi/efivars", "sys/class/block", "etc"):
        (root / name).mkdir(parents=True)
    device.uki_directory.mkdir(parents=True)
    _make_disk(device, build)
    (device.uki_directory / f"t640_{build.version}.efi").write_bytes(build.uki)
    _make_sysfs(device)
    assert boot(device) == build.version
    return device


def _make_disk(device: Device, build: Build) -> None:
    table, position = [], MIB
    kind = device.layout.flavour[device.flavour]
    for number, partition in enumerate(device.layout.partition, start=1):
        type_ = partition.type or (kind.data_type if partition.role is Role.DATA else kind.verity_type)
        identity = {"a": {Role.DATA: build.data_uuid, Role.VERITY: build.verity_uuid}}.get(partition.slot, {})
        label = partition.label.replace("@v", build.version)
        entry = TableEntry(number, type_, identity.get(partition.role, uuid.uuid4()), label, position, partition.size)
        table.append(entry)
        position += partition.size
    with device.disk.open("wb") as file:
        file.truncate(position + MIB)
        for role, content in ((Role.DATA, build.data), (Role.VERITY, build.verity)):
            file.seek(table[device.layout.number(role, "a") - 1].start)
            file.write(content)
    write_table(device.disk, table)


def _make_sysfs(device: Device) -> None:
    disk = device.root / "sys/devices/nvme0n1"
    for number in range(1, len(device.layout.partition) + 1):
        directory = disk / f"nvme0n1p{number}"
        (directory / "holders").mkdir(parents=True)
        (directory / "partition").write_text(f"{number}\n")
        (directory / "dev").write_text(f"259:{number}\n")
        _link(device, directory)
    (disk / "dev").write_text("259:0\n")
    _link(device, disk)
    (device.root / "proc/self/mountinfo").write_text(
        "30 1 0:30 / /boot rw - autofs systemd-1 rw\n31 30 259:1 / /boot rw - vfat /dev/nvme0n1p1 rw\n"
        "32 1 259:6 / /var rw - ext4 /dev/nvme0n1p6 rw\n"
    )


def _link(device: Device, directory: Path) -> None:
    (device.root / "sys/class/block" / directory.name).symlink_to(directory)


def add_disk(device: Device, name: str, copy_of: Path) -> Path:
    """Plug a second disk in, a copy of another."""
    shutil.copyfile(copy_of, device.root / "dev" / name)
    directory = device.root / "sys/devices" / name
    directory.mkdir(parents=True)
    (directory / "dev").write_text("8:0\n")
    _link(device, directory)
    return device.root / "dev" / name


# -- firmware, loader and kernel --------------------------------------------------------------------------------------


def boot(device: Device, *, healthy: bool | set[str] = True, limit: int = 12) -> str | None:
    """Power on and go on until something stays up: the version, or None when nothing does.

    Like systemd-boot: entries with tries before spent ones, the highest version first, the counter spent before the
    kernel starts. Like dm-verity: a slot whose content does not fit its root hash panics. `healthy` says which versions
    pass their gate; a passing counted one is blessed.
    """
    device.boots = []
    for _ in range(limit):
        found = entries(device.esp, device.layout)
        if not found:
            return None
        entry = max(
            found, key=lambda item: (not item.spent, [int(part) for part in item.version.split(".")], item.blessed)
        )
        counted = not entry.blessed
        path = _count(entry) if counted else entry.path
        device.boots.append(entry.version)
        slot = _opened(device, path)
        if slot is None:
            if not counted:
                return None  # without its initrd's help a blessed slot that does not open loops for ever
            continue
        _start(device, entry.version, path, slot, counted)
        good = healthy is True or (healthy is not False and entry.version in healthy)
        if not counted or good:
            if counted:
                path.rename(path.with_name(f"t640_{entry.version}.efi"))
            return entry.version
    return None


def _count(entry: Entry) -> Path:
    left, done = entry.left or 0, entry.done or 0
    target = entry.path.with_name(f"t640_{entry.version}+{max(left - 1, 0)}-{done + 1}.efi")
    return entry.path.rename(target)


def _opened(device: Device, uki: Path) -> str | None:
    """The slot that the UKI's root hash finds and verity accepts."""
    name = device.layout.flavour[device.flavour].root_hash_argument
    wanted = argument(command_line(uki), name)
    for slot in "ab":
        data, verity = device.partition(Role.DATA, slot), device.partition(Role.VERITY, slot)
        if wanted == data.uuid.hex + verity.uuid.hex:
            if wanted in GENUINE:
                return slot
            lengths = LENGTHS[wanted]
            content = device.content(Role.DATA, slot, lengths[0]) + device.content(Role.VERITY, slot, lengths[1])
            return slot if hashlib.sha256(content).hexdigest() == wanted else None
    return None


def _start(device: Device, version: str, uki: Path, slot: str, counted: bool) -> None:
    root = device.root
    kind = device.layout.flavour[device.flavour]
    (root / "proc/cmdline").write_text(command_line(uki) + "\n")
    (root / "proc/sys/kernel/random/boot_id").write_text(f"{uuid.uuid4()}\n")
    (root / "etc/os-release").write_text(f'NAME="Appliance"\nIMAGE_ID=t640\nIMAGE_VERSION={version}\n')
    shutil.rmtree(device.runtime, ignore_errors=True)
    shutil.rmtree(root / "sys/devices/dm-0", ignore_errors=True)
    mapper = root / "sys/devices/dm-0"
    (mapper / "dm").mkdir(parents=True)
    (mapper / "slaves").mkdir()
    (mapper / "dm/name").write_text(f"{kind.mapper}\n")
    link = root / "sys/class/block/dm-0"
    if not link.is_symlink():
        link.symlink_to(mapper)
    for number, partition in enumerate(device.layout.partition, start=1):
        holders = root / f"sys/devices/nvme0n1/nvme0n1p{number}/holders/dm-0"
        holders.unlink(missing_ok=True)
        if partition.slot == slot:
            (mapper / "slaves" / f"nvme0n1p{number}").symlink_to("../..")
            holders.symlink_to(mapper)
    variables = {"LoaderEntrySelected": uki.name, "LoaderDevicePartUUID": str(read_table(device.disk)[0].uuid).upper()}
    if counted:
        device.runtime.mkdir(parents=True)
        (device.runtime / "trial").touch()  # appliance-update-trial.service
        variables["LoaderBootCountPath"] = f"\\EFI\\Linux\\{uki.name}"
    directory = root / "sys/firmware/efi/efivars"
    for path in directory.iterdir():
        path.unlink()
    for name, text in variables.items():
        (directory / f"{name}-{LOADER_GUID}").write_bytes(b"\6\0\0\0" + (text + "\0").encode("utf-16-le"))


# -- systemd-sysupdate ------------------------------------------------------------------------------------------------


PARTIAL = {str(uuid.uuid5(uuid.NAMESPACE_DNS, name)): name for name in ("root", "root-verity", "usr", "usr-verity")}
"""The types that a partition has while it is being written, as systemd 260 and later derive them."""


def pattern_label(pattern: str, version: str) -> str:
    return pattern.replace("@v", version)


@dataclass
class SimulatedSysupdate:
    """Writes as systemd-sysupdate does, in the same order, with a cut possible before every write.

    It reads the very definitions the updater rendered. `partial` makes it leave a type of its own on an interrupted
    slot, as systemd 260 and later do, and refuse to go on without `vacuum`.
    """

    device: Device
    partial: bool = True

    def apply(self, definitions: Path, version: str) -> None:
        self._vacuum()
        transfers = [self._read(path) for path in sorted(definitions.iterdir())]
        protected = self.device.host.image_version
        targets = [self._acquire(transfer, version, protected) for transfer in transfers]
        for transfer, target in zip(transfers, targets, strict=True):
            self._install(transfer, target, version)

    def _read(self, path: Path) -> configparser.ConfigParser:
        parser = configparser.ConfigParser(interpolation=None)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read_string(path.read_text())
        assert parser["Transfer"]["ProtectVersion"] == "%A"
        return parser

    def _vacuum(self) -> None:
        for entry in read_table(self.device.disk):
            if entry.type in PARTIAL:
                self._change(entry.number, label="_empty", type=PARTIAL[entry.type])

    def _change(self, number: int, **changes: object) -> None:
        faults.point(f"table:{number}")
        self.device.writes += 1
        relabel(self.device.disk, number, **changes)

    def _acquire(self, transfer: configparser.ConfigParser, version: str, protected: str) -> object:
        source, uuid_ = self._source(transfer, version)
        target = transfer["Target"]
        if target["Type"] == "regular-file":
            return self._acquire_file(source)
        assert target["Path"] == "/dev/nvme0n1"
        pattern = compiled(target["MatchPattern"])
        able = []
        for entry in read_table(self.device.disk):
            match = pattern.fullmatch(entry.label)
            assert PARTIAL.get(entry.type) != target["MatchPartitionType"], "partially installed; vacuum it"
            if entry.type == target["MatchPartitionType"] and not (match and match["version"] == protected):
                able.append(entry)
        chosen = min(able, key=lambda entry: entry.label != "_empty")
        final = {"label": pattern_label(target["MatchPattern"], version), "uuid": uuid.UUID(uuid_)}
        own_type = {kind: name for name, kind in PARTIAL.items()}[chosen.type]
        self._change(chosen.number, **(final | {"type": own_type} if self.partial else {"label": "_empty"}))
        content = source.read_bytes()
        for start in range(0, len(content), len(content) // 3 + 1):
            faults.point(f"partition:{chosen.number}")
            with self.device.disk.open("r+b") as file:
                file.seek(chosen.start + start)
                file.write(content[start : start + len(content) // 3 + 1])
        return chosen.number, uuid.UUID(uuid_)

    def _acquire_file(self, source: Path) -> Path:
        temporary = self.device.uki_directory / ".#sysupdate-new"
        faults.point("esp:begin")
        temporary.write_bytes(source.read_bytes()[:100])
        faults.point("esp:half")
        temporary.write_bytes(source.read_bytes())
        return temporary

    def _install(self, transfer: configparser.ConfigParser, target: object, version: str) -> None:
        section = transfer["Target"]
        if isinstance(target, Path):
            faults.point("esp:rename")
            assert "TriesLeft" not in section, "what sysupdate brings must not be bootable yet"
            target.rename(self.device.uki_directory / pattern_label(section["MatchPattern"], version))
            return
        assert isinstance(target, tuple)
        number, identity = target
        kind = section["MatchPartitionType"]
        self._change(number, label=pattern_label(section["MatchPattern"], version), uuid=identity, type=kind)

    def _source(self, transfer: configparser.ConfigParser, version: str) -> tuple[Path, str]:
        section = transfer["Source"]
        assert section["Type"] == "regular-file"
        pattern = compiled(section["MatchPattern"])
        for path in Path(section["Path"]).iterdir():
            match = pattern.fullmatch(path.name)
            if match and match["version"] == version:
                return path, match.groupdict().get("uuid") or ""
        raise AssertionError(f"nothing in {section['Path']} matches {section['MatchPattern']} for {version}")
