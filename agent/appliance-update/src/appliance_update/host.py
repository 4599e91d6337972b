"""Where the running system shows its facts: /proc, /sys, /dev, os-release, EFI variables; all below one root."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

LOADER_GUID = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
"""Vendor GUID of the boot loader interface's EFI variables (https://systemd.io/BOOT_LOADER_INTERFACE/)."""


@dataclass(frozen=True)
class Host:
    """The running system as seen from `root` (`/` but in tests)."""

    root: Path = Path("/")

    def path(self, absolute: str) -> Path:
        """An absolute path of the running system."""
        return self.root / absolute.lstrip("/")

    def kernel_command_line(self) -> str:
        """/proc/cmdline. Raises `OSError`."""
        return self.path("/proc/cmdline").read_text(errors="replace")

    def boot_id(self) -> str:
        """The kernel's random id of this boot, 32 hex digits; empty when there is none."""
        try:
            return self.path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
        except OSError:
            return ""

    def os_release(self) -> dict[str, str]:
        """The fields of os-release; empty when it is missing."""
        for name in ("/etc/os-release", "/usr/lib/os-release"):
            try:
                return os_release_fields(self.path(name).read_text(errors="replace"))
            except OSError:
                continue
        return {}

    @property
    def image_version(self) -> str:
        """IMAGE_VERSION of os-release, empty when it is not an image."""
        return self.os_release().get("IMAGE_VERSION", "")

    @property
    def machine_id(self) -> str:
        """The machine's id, 32 hex digits; empty when it has none. It decides the rollout cohort and is never sent."""
        try:
            return self.path("/etc/machine-id").read_text().strip()
        except OSError:
            return ""

    def loader_variable(self, name: str) -> str | None:
        """An EFI variable of the boot loader interface as text; None when it is not set."""
        try:
            return self.efi_variable(name, LOADER_GUID).decode("utf-16-le", "replace").rstrip("\0")
        except OSError:
            return None

    def efi_variable(self, name: str, vendor: str) -> bytes:
        """The value of an EFI variable. Raises `OSError`."""
        # One read from the start: efivarfs cannot seek, and its first four bytes are attributes.
        return self.path(f"/sys/firmware/efi/efivars/{name}-{vendor}").read_bytes()[4:]

    @property
    def counting(self) -> bool:
        """Whether the loader counted this boot: the system was on trial when it started."""
        return self.loader_variable("LoaderBootCountPath") is not None

    def booted_entry(self) -> str:
        """The file name of the boot entry, as the loader tells it; empty when it does not."""
        counted = self.loader_variable("LoaderBootCountPath") or ""
        return counted.replace("\\", "/").rpartition("/")[2] or self.loader_variable("LoaderEntrySelected") or ""

    def build_time(self) -> float:
        """When the image was built, in seconds since the epoch; 0.0 when it does not say."""
        try:
            return float(self.path("/usr/share/appliance-update/build-time").read_text().strip())
        except (OSError, ValueError):
            pass
        try:
            return self.path("/usr/lib/clock-epoch").stat().st_mtime
        except OSError:
            return 0.0

    def mounted_numbers(self) -> frozenset[str]:
        """`major:minor` of every mounted device. Raises `OSError`."""
        lines = self.path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
        return frozenset(line.split()[2] for line in lines if len(line.split()) > 2)

    def mounted_at(self, directory: str) -> str | None:
        """`major:minor` of what is mounted exactly at `directory`, the topmost; None when nothing is."""
        found = None
        for line in self.path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
            fields = line.split()
            if len(fields) > 4 and fields[4] == directory and fields[2] != "0:0":
                found = fields[2]
        return found

    def read_only(self, directory: str) -> bool:
        """Whether what is mounted at `directory`, the topmost, takes no writes."""
        found = False
        for line in self.path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
            fields = line.split()
            if len(fields) > 5 and fields[4] == directory:
                found = "ro" in (*fields[5].split(","), *fields[-1].split(","))
        return found

    def block_devices(self) -> dict[str, Path]:
        """Kernel name to its real directory in sysfs, disks and partitions alike."""
        directory = self.path("/sys/class/block")
        if not directory.is_dir():
            return {}
        return {name: Path(_real(f"{directory}/{name}")) for name in sorted(os.listdir(directory))}  # noqa: PTH208


def _real(link: str) -> str:
    """Where a link of sysfs leads: one step, and no link on the way (`realpath` looks at every part of it)."""
    try:
        return os.path.normpath(os.path.join(os.path.dirname(link), os.readlink(link)))  # noqa: PTH115, PTH118, PTH120
    except OSError:
        return link


def os_release_fields(text: str) -> dict[str, str]:
    """The fields of an os-release file, unquoted (os-release(5))."""
    lines = (line for line in text.splitlines() if "=" in line and not line.lstrip().startswith("#"))
    return {key.strip(): _unquoted(value) for key, _, value in (line.partition("=") for line in lines)}


def _unquoted(value: str) -> str:
    try:
        words = shlex.split(value)
    except ValueError:
        return value.strip()
    return words[0] if words else ""
