"""The stand-in's installation medium: an ISO for stick and CD with the installer in RAM and an appliance's image.

The firmware starts a unified kernel image from the medium's boot partition; the installer runs in its initrd and finds
the image (zstd, with its block map) on the medium's ISO file system. The boot partition is FAT, so that a technician
can still put a site's settings on a written stick.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from appliance_flash import blockmap
from t640 import disk, toolroot, wheels
from t640 import layout as layouts
from t640.apt import STABLE, system_mirror
from t640.artifacts import Artifacts
from t640.errors import Missing, RigError
from t640.image import KERNELS
from t640.paths import PACKAGE, REPOSITORY, cache_directory, locked

PROJECT = PACKAGE / "mkosi-installer"
SOURCE = REPOSITORY / "image/installer"
KERNEL = "generic"
"""The cloud kernel has no drivers for sticks, cards and eMMC."""

_ROOM = 16 << 20
"""What the boot partition has beyond the installer: for a site's settings."""


def build(artifacts: Artifacts, rescue: Path | None = None, detail: Callable[[str], None] | None = None) -> Path:
    """The installation medium of a version, built or from the cache; `rescue` is a recovery for the appliance.

    Raises `RigError`.
    """
    with locked("image"):
        installer = _installer(detail)
        folder = cache_directory() / "media" / f"{artifacts.version}-{_key(artifacts, rescue, installer)}"
        iso = folder / f"{layouts.load().image_id}-installer-{artifacts.version}.iso"
        if not iso.exists():
            shutil.rmtree(folder.parent, ignore_errors=True)
            folder.mkdir(parents=True)
            _make_iso(disk.assemble(artifacts, rescue, size="auto"), artifacts.version, installer, iso)
    return iso


def _key(artifacts: Artifacts, rescue: Path | None, installer: Path) -> str:
    origin = rescue.parent.name if rescue else ""
    facts = [artifacts.directory.name, origin, installer.parent.name, wheels.content_key([PACKAGE / "medium.py"])]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


# -- the installer ---------------------------------------------------------------------------------------------------


def _installer(detail: Callable[[str], None] | None) -> Path:
    inputs = [PROJECT, SOURCE, PACKAGE / "medium.py"]
    key = hashlib.sha256(wheels.content_key(inputs).encode()).hexdigest()[:16]
    folder = cache_directory() / "installer" / key
    efi = folder / "installer.efi"
    if not efi.exists():
        root = toolroot.ensure()
        project = _stage()
        shutil.rmtree(folder.parent, ignore_errors=True)
        folder.mkdir(parents=True)
        arguments = ["mkosi", "--directory", str(toolroot.inside(project)), "--release", STABLE, "--force", "build"]
        toolroot.run(arguments, root=root, log=folder / "mkosi.log", detail=detail)
        found = [path for path in (project / "mkosi.output").glob("*.efi") if path.is_file() and not path.is_symlink()]
        if len(found) != 1:
            raise RigError(f"mkosi made {len(found)} installers in {project / 'mkosi.output'}, one was expected.")
        shutil.copy(found[0], efi)
        shutil.rmtree(project / "mkosi.output")
    return efi


def _stage() -> Path:
    work = cache_directory() / "mkosi"
    project = work / f"installer-{KERNEL}"
    shutil.rmtree(project, ignore_errors=True)
    shutil.copytree(PROJECT, project, symlinks=True)
    layout, mirror = layouts.load(), system_mirror()
    prefix = toolroot.inside(work) / f"installer-{KERNEL}"
    for name in ("mkosi.cache", "mkosi.packages"):
        (work / f"installer-{KERNEL}-{name}").mkdir(parents=True, exist_ok=True)
    (project / "mkosi.output").mkdir()
    # The last console is the one the installer talks on.
    command_line = "console=ttyS0 console=tty0 quiet systemd.show_status=no systemd.getty_auto=no systemd.firstboot=no"
    (project / "mkosi.conf.d").mkdir()
    (project / "mkosi.conf.d/50-rig.conf").write_text(
        f"[Distribution]\nMirror={mirror.uri}\n\n"
        f"[Output]\nImageId={layout.image_id}-installer\n\n"
        f"[Content]\nPackages={KERNELS[KERNEL]}\nKernelCommandLine={command_line}\n\n"
        f"[Build]\nCacheDirectory={prefix}-mkosi.cache\nPackageCacheDirectory={prefix}-mkosi.packages\n"
    )
    _write(project / "mkosi.sandbox/etc/apt/sources.list.d/mkosi.sources", mirror.sources_file(STABLE))
    _write(project / "mkosi.sandbox/etc/apt/apt.conf.d/90-rig", mirror.settings_file())
    _install(project / "mkosi.extra", layout)
    return project


def _install(tree: Path, layout: layouts.Layout) -> None:
    program = tree / "usr/lib/install-appliance"
    (program / "lib").mkdir(parents=True)
    for name in ("install-appliance", "machines"):
        shutil.copy(SOURCE / name, program / name)
    for part in (SOURCE / "lib").glob("*.sh"):
        shutil.copy(part, program / "lib" / part.name)
    units = tree / "usr/lib/systemd/system"
    units.mkdir(parents=True, exist_ok=True)
    shutil.copy(SOURCE / "install-appliance.service", units / "install-appliance.service")
    mount = f"[Mount]\nWhat=/dev/disk/by-label/{volume(layout)}\nWhere=/iso\nType=iso9660\nOptions=ro,nodev,nosuid\n"
    _write(units / "iso.mount", f"[Unit]\nDescription=The installation medium\n\n{mount}")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def volume(layout: layouts.Layout) -> str:
    """The medium's ISO volume id."""
    return f"{layout.image_id.upper()}_INSTALL"


# -- the ISO ---------------------------------------------------------------------------------------------------------


def minimum_mib(layout: layouts.Layout) -> int:
    """The smallest disk for every partition, with room for both partition tables."""
    return 2 + sum(int(partition["size_mib"]) for partition in layout.raw["partition"])


def describe(raw: Path, version: str, layout: layouts.Layout, folder: Path) -> None:
    """Lay image, block map and description into a folder as the installer wants them. Raises `RigError`."""
    name = f"{layout.image_id}_{version}"
    with raw.open("rb") as file:
        text = blockmap.make(file, raw.stat().st_size).to_xml()
    (folder / f"{name}.bmap").write_text(text)
    _run("zstd", "--quiet", "-T0", "-6", "-o", str(folder / f"{name}.raw.zst"), str(raw))
    facts = {
        "image": f"{name}.raw.zst", "map": f"{name}.bmap", "map_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "version": version, "minimum_mib": minimum_mib(layout),
        "sector_size": layout.raw["image"]["sector_size"],
    }  # fmt: skip
    (folder / "description").write_text("".join(f"{key}={value}\n" for key, value in facts.items()))


def _make_iso(raw: Path, version: str, installer: Path, iso: Path) -> None:
    layout = layouts.load()
    with tempfile.TemporaryDirectory(dir=iso.parent) as scratch:
        # A file of the ISO, not appended to it: firmware looks for what a CD starts from inside of its volume.
        tree = Path(scratch) / "tree"
        esp = tree / "boot.img"
        (tree / "images").mkdir(parents=True)
        describe(raw, version, layout, tree / "images")
        with esp.open("wb") as file:
            file.truncate(installer.stat().st_size + _ROOM + (33 << 20))
        _run("mkfs.vfat", "-F", "32", "-n", "INSTALLER", str(esp))
        _run("mmd", "-i", str(esp), "::EFI", "::EFI/BOOT", "::appliance-seed")
        _run("mcopy", "-i", str(esp), str(installer), "::EFI/BOOT/BOOTX64.EFI")
        partial = Path(scratch) / "medium.iso"
        _run(
            "xorriso", "-as", "mkisofs", "-quiet", "-iso-level", "3", "-rational-rock", "-volid", volume(layout),
            "-e", "boot.img", "-no-emul-boot", "-efi-boot-part", "--efi-boot-image",
            "-output", str(partial), str(tree),
        )  # fmt: skip
        partial.rename(iso)


def _run(*command: str) -> None:
    if shutil.which(command[0]) is None:
        raise Missing(f"{command[0]} is not installed; `make setup` installs what the rig needs.")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RigError(f"{' '.join(command[:3])} … failed: {done.stderr.strip()}")
