"""Writing a release into the other slot: systemd-sysupdate writes, we assert before and read back after.

The order is the safety: the standby's boot entry goes first, and its slot is written. Then the UKI comes to the ESP
under a name that no loader boots, while the slot is read back from the medium and compared with what was signed; the
UKI is read back too. Last of all it gets the name that carries the counter.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from appliance_update import faults, secure_boot
from appliance_update.device import Device, Slot, SlotState, inspect, refusals
from appliance_update.entries import Entry, aside_name, blessed_name, counted_name, entries, of_version, remove, rename
from appliance_update.files import write_whole
from appliance_update.host import Host
from appliance_update.layout import LANDING, Layout, Role, landing_transfers, slot_transfers, write
from appliance_update.release import Release, version_key
from appliance_update.secure_boot import SignatureError
from appliance_update.transfer import Transfer, esp_preflight, hash_file
from appliance_update.uki import UkiError, argument, command_line, os_release

SYSUPDATE_DEADLINE = 3600.0
READ = 1024 * 1024
UNPIN = 2
"""Boots of another version after which the loader is looked at: see `Installer.prefer`."""
PROGRESS_EVERY = 0.2
"""Seconds between two looks at how far the reading is."""


class InstallError(RuntimeError):
    """The release could not be installed; the running version is untouched. The message says what and why."""


class Writer(Protocol):
    """What writes to partitions and to the ESP."""

    def apply(self, definitions: Path, version: str) -> None:
        """Clear what was left half done, then carry out the transfers for one version. Raises `InstallError`."""


@dataclass(frozen=True)
class Sysupdate:
    """systemd-sysupdate, told exactly which disk and which definitions."""

    program: str

    def apply(self, definitions: Path, version: str) -> None:
        """See `Writer`. `vacuum` first: since systemd 260 an interrupted update refuses to go on without it."""
        self._run(definitions, "vacuum")
        self._run(definitions, "update", version)

    def _run(self, definitions: Path, *command: str) -> None:
        call = [self.program, f"--definitions={definitions}", "--verify=no", *command]
        try:
            done = subprocess.run(
                call, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                timeout=SYSUPDATE_DEADLINE, check=False,
            )  # fmt: skip
        except FileNotFoundError as error:
            raise InstallError(f"{self.program} is missing: the image must carry systemd-sysupdate") from error
        except subprocess.TimeoutExpired as error:
            raise InstallError(f"systemd-sysupdate {command[0]} did not end in {SYSUPDATE_DEADLINE:.0f} s") from error
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            said = said if len(said) < 800 else f"{said[:300]} … {said[-450:]}"
            raise InstallError(f"systemd-sysupdate {' '.join(command)} failed ({done.returncode}): {said}")


@dataclass(frozen=True)
class Installer:
    """Installs one verified release on one asserted device."""

    host: Host
    layout: Layout
    transfer: Transfer
    writer: Writer
    definitions: Path

    def fill_slot(self, release: Release) -> None:
        """Write the release into the standby slot, without a boot entry. Raises `InstallError`."""
        device = self._asserted(release)
        self.check_pairing(release)
        self._check_signature(release)
        freed = sum(entry.path.stat().st_size for entry in device.entries if entry.version != device.version)
        esp_preflight(device.esp, release, self.layout, freed)
        self._fence(device)
        if self._holds(device.standby, release):
            return
        texts = slot_transfers(
            self.layout, device.flavour, disk=f"/dev/{device.disk_name}", staging=self.transfer.staging
        )
        faults.point("slot:write")
        self._apply("slot", texts, release.version)
        faults.point("slot:written")
        slot = inspect(self.host, self.layout).standby
        if not self._holds(slot, release):
            raise InstallError(
                f"Slot {slot.name} does not hold {release.version} after it was written: "
                f"labels {slot.data.label!r} and {slot.verity.label!r}"
            )

    def arm(self, release: Release, progress: Callable[[int, int], None]) -> None:
        """Bring the UKI to the ESP, read slot and UKI back, and give it the name with the counter, last of all.

        Raises `InstallError`.
        """
        device = self._asserted(release)
        if not self._holds(device.standby, release):
            raise InstallError(f"Slot {device.standby.name} does not hold {release.version}; it is not armed")
        name = blessed_name(self.layout, release.version) + LANDING
        landed = device.esp / self.layout.esp.uki_directory.strip("/") / name
        try:
            self._clear_landings(landed.parent)
            with self._reading_back(device, release, progress):
                faults.point("uki:write")
                self._apply("boot", landing_transfers(self.layout, staging=self.transfer.staging), release.version)
                faults.point("uki:written")
            faults.point("slot:read back")
            self._check_landed(landed, release)
            rename(
                Entry(landed, release.version), counted_name(self.layout, release.version, self.layout.boot.tries, 0)
            )
            self._check_armed(device, release)
        except (InstallError, OSError):
            self.disarm(release.version)  # an entry that did not pass must not be booted
            self._clear_landings(landed.parent)
            raise

    @contextlib.contextmanager
    def _reading_back(self, device: Device, release: Release, progress: Callable[[int, int], None]) -> Iterator[None]:
        """Compare the slot on the medium with what was signed, while the caller does something else.

        The caller's work must not touch the slot. At the end the rest of the reading is waited for. Raises
        `InstallError`, `OSError`.
        """
        parts = ((device.standby.verity, Role.VERITY), (device.standby.data, Role.DATA))
        total = sum(release.artifact(role).content_length for _, role in parts)
        read = [0, 0]

        def hashed(index: int) -> str:
            entry, role = parts[index]
            length = release.artifact(role).content_length
            return hash_medium(device.disk, entry.start, length, lambda at: read.__setitem__(index, at))

        with ThreadPoolExecutor(1) as reader:
            reading = [reader.submit(hashed, index) for index in range(len(parts))]
            yield
            _follow(reading, lambda: progress(sum(read), total))
        for (_, role), found in zip(parts, reading, strict=True):
            if found.result() != release.artifact(role).content_sha256:
                raise InstallError(
                    f"Slot {device.standby.name} reads back differently from what was written ({role.value}): "
                    "the disk may be failing; no boot entry was made"
                )

    def prefer(self, version: str, ignored: int = 0) -> None:
        """See that the loader takes an armed older version, though it prefers higher ones: ours becomes a spent entry.

        A version that the loader has `ignored` in several boots gets more help: first a default entry that somebody set
        is taken away; when that was not it, ours steps aside for it, too. Raises `OSError`, `DeviceError`.
        """
        device = inspect(self.host, self.layout)
        own = of_version(device.entries, device.version)
        lower = version_key(version) < version_key(device.version)
        if ignored >= UNPIN:
            unpin(device.esp)
        if (lower or ignored > UNPIN) and len(own) == 1 and not own[0].spent:
            rename(own[0], aside_name(self.layout, device.version))

    def _clear_landings(self, directory: Path) -> None:
        """Remove what an interrupted run brought to the ESP: it takes the room of a kernel image."""
        for path in directory.glob(f"*{LANDING}"):
            faults.point(f"unlink:{path.name}")
            path.unlink(missing_ok=True)

    def disarm(self, version: str) -> None:
        """Take the boot entries of a version away again. Raises `OSError`, `DeviceError`."""
        device = inspect(self.host, self.layout)
        if version != device.version:
            for entry in of_version(device.entries, version):
                remove(entry)

    # -- assertions ---------------------------------------------------------------------------------------------------

    def _asserted(self, release: Release) -> Device:
        device = inspect(self.host, self.layout)
        reasons = refusals(device, self.host, self.layout)
        if reasons:
            raise InstallError("; ".join(reasons))
        if device.version == release.version:
            raise InstallError(f"{release.version} is what runs already")
        if device.standby.state is SlotState.BOOTED:
            raise InstallError("the slot to be written is the booted one")  # cannot be; and must never be
        return device

    def _fence(self, device: Device) -> None:
        """No boot entry but the running version's while the other slot is being overwritten."""
        for entry in device.entries:
            if entry.version != device.version:
                remove(entry)

    def _holds(self, slot: Slot, release: Release) -> bool:
        return (
            slot.version == release.version
            and slot.data.uuid.hex == release.artifact(Role.DATA).uuid
            and slot.verity.uuid.hex == release.artifact(Role.VERITY).uuid
        )

    def check_pairing(self, release: Release) -> None:
        """The UKI must name the root hash of the slot it will boot, and the version: the loader cannot know better.

        It orders its entries by what each calls itself. One of a higher version than it is would be booted before
        every later release. Raises `InstallError`.
        """
        staged = self.transfer.staged(release, release.artifact(Role.UKI))
        name = self.layout.flavour[release.flavour].root_hash_argument
        try:
            inside, called = argument(command_line(staged), name), os_release(staged)
        except UkiError as error:
            raise InstallError(str(error)) from error
        own = called.get("IMAGE_ID", ""), called.get("IMAGE_VERSION", "")
        if own != (self.layout.image.id, release.version):
            raise InstallError(
                f"The kernel image of {release.version} calls itself {own[0]!r} {own[1]!r}, so the boot loader would "
                "put it in a wrong place; nothing was written"
            )
        if inside != release.root_hash:
            raise InstallError(
                f"The kernel image of {release.version} names the root hash {inside or 'of nothing'}, "
                f"its slot has {release.root_hash}; nothing was written"
            )

    def _check_signature(self, release: Release) -> None:
        """The firmware must be willing to start it; when it is not, the loader has no second thought."""
        try:
            secure_boot.check(self.host, self.transfer.staged(release, release.artifact(Role.UKI)))
        except SignatureError as error:
            raise InstallError(f"{release.version}: {error}; nothing was written") from error

    def _check_landed(self, landed: Path, release: Release) -> None:
        """What lies on the ESP is what was signed, and names the root hash that the slot really has."""
        artifact = release.artifact(Role.UKI)
        drop_cache(landed)
        if hash_file(landed, lambda _: None) != (artifact.content_sha256, artifact.content_length):
            raise InstallError(f"{landed.name} reads back differently from what was written; it was removed")
        standby = inspect(self.host, self.layout).standby
        try:
            inside = argument(command_line(landed), self.layout.flavour[release.flavour].root_hash_argument)
        except UkiError as error:
            raise InstallError(str(error)) from error
        if inside != standby.data.uuid.hex + standby.verity.uuid.hex:
            raise InstallError(
                f"{landed.name} names the root hash {inside or 'of nothing'}, slot {standby.name} has another; removed"
            )
        faults.point("uki:read back")

    def _check_armed(self, device: Device, release: Release) -> None:
        own = of_version(entries(device.esp, self.layout), release.version)
        if len(own) != 1 or own[0].left != self.layout.boot.tries:
            raise InstallError(
                f"{release.version} has the boot entries {', '.join(entry.path.name for entry in own) or 'none'} after "
                f"it was armed; one with {self.layout.boot.tries} tries is right"
            )

    def _apply(self, name: str, texts: dict[str, str], version: str) -> None:
        directory = self.definitions / name
        shutil.rmtree(directory, ignore_errors=True)
        write(texts, directory)
        self.writer.apply(directory, version)


def unpin(esp: Path) -> None:
    """Take away what makes the loader boot one entry whatever the counters say. Best effort. Raises `OSError`."""
    settings = esp / "loader/loader.conf"
    if settings.is_file():
        lines = settings.read_text(errors="replace").splitlines(keepends=True)
        kept = [line for line in lines if line.split()[:1] not in (["default"], ["preferred"])]
        if kept != lines:
            write_whole(settings, "".join(kept).encode())
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(["bootctl", "set-default", ""], capture_output=True, timeout=60, check=False)


def drop_cache(path: Path) -> None:
    """Ask the kernel to forget a file's pages, so that the next read comes from the medium."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        with contextlib.suppress(OSError):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _follow(reading: list[Future[str]], report: Callable[[], None]) -> None:
    """Report again and again until everything is read, or cannot be."""
    while wait(reading, PROGRESS_EVERY).not_done:
        report()
    report()


def hash_medium(disk: Path, start: int, length: int, report: Callable[[int], None]) -> str:
    """SHA-256 of `length` bytes from byte `start` of a disk, past the page cache where the kernel allows it.

    Raises `OSError`.
    """
    digest = hashlib.sha256()
    handle = os.open(disk, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            os.fsync(handle)
        os.posix_fadvise(handle, start, length, os.POSIX_FADV_DONTNEED)
        with contextlib.suppress(OSError):
            direct = os.open(disk, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
            os.close(handle)
            handle = direct
        # Hashing goes on while the medium is read: on small hardware each takes as long as the other.
        with mmap.mmap(-1, READ) as buffer, ThreadPoolExecutor(1) as hasher:  # page-aligned, as direct reads demand
            hashed, position = hasher.submit(digest.update, b""), 0
            while position < length:
                count = os.preadv(handle, [buffer], start + position)
                if count <= 0:
                    break
                count = min(count, length - position)
                content = buffer[:count]
                hashed.result()
                hashed = hasher.submit(digest.update, content)
                position += count
                report(position)
            hashed.result()
    finally:
        os.close(handle)
    return digest.hexdigest()
