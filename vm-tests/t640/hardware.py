"""What the virtual T640 is made of: the QEMU command line."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from t640 import guest
from t640.accelerator import accelerator
from t640.errors import Missing

_FIRMWARE = (
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
)

_SECURE_FIRMWARE = (
    ("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.secboot.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
)

_EMULATED = "max,la57=off"
"""All that QEMU can emulate, but page tables of four levels, as the T640's Zen has them."""


@dataclass(frozen=True)
class Hardware:
    """A machine to be. Memory in MiB. `rtc_base` is QEMU's `-rtc base=` (`1970-01-01T00:00:00` is a flat battery)."""

    memory: int = 1536
    cores: int = 2
    storage: str = "nvme"
    """`nvme` or `sata`, or `none`; Debian 12's QEMU has no eMMC."""
    medium: Path | None = None
    """An installation medium that is plugged in, raw; what the machine writes to it stays."""
    medium_drive: str = "usb"
    """`usb` (a stick) or `cd`."""
    product: str = "HP t640 Thin Client"
    """DMI's product name."""
    tpm: bool = True
    secure_boot: bool = False
    """Firmware that can refuse what is not signed; which keys count is in its variables (`secure_boot.py`)."""
    tap: str = ""
    """A tap device in the machine's network namespace; empty: no network."""
    mac: str = "80:e8:2c:64:00:01"
    """80:e8:2c belongs to Hewlett Packard."""
    serial: str = "T640RIG001"
    rtc_base: str = "utc"
    arguments: tuple[str, ...] = ()
    """More kernel arguments for this machine only."""
    credentials: dict[str, str] = field(default_factory=dict)
    """System credentials (name → text), as an installer would leave them."""

    @property
    def uuid(self) -> uuid.UUID:
        """The SMBIOS UUID, from which the appliance takes its machine id."""
        return uuid.uuid5(uuid.NAMESPACE_OID, self.serial)


def firmware() -> tuple[Path, Path]:
    """The UEFI firmware's code and its empty variables. Raises `Missing`."""
    for code, variables in _FIRMWARE:
        if Path(code).exists() and Path(variables).exists():
            return Path(code), Path(variables)
    raise Missing("The UEFI firmware for QEMU (OVMF) is not installed: apt-get install ovmf.")


def secure_firmware() -> tuple[Path, Path]:
    """Firmware built for Secure Boot, and its empty variables. Raises `Missing`."""
    for code, variables in _SECURE_FIRMWARE:
        if Path(code).exists() and Path(variables).exists():
            return Path(code), Path(variables)
    raise Missing("UEFI firmware with Secure Boot for QEMU (OVMF) is not installed: apt-get install ovmf.")


def command_line(hardware: Hardware, work: Path, *, load: str = "") -> list[str]:
    """QEMU's command line for a machine that keeps its files in `work`. Raises `Missing`."""
    program = shutil.which("qemu-system-x86_64")
    if program is None:
        raise Missing("QEMU is not installed: apt-get install qemu-system-x86.")
    accel = accelerator()
    code = (secure_firmware() if hardware.secure_boot else firmware())[0]
    engine = ["kvm"] if accel == "kvm" else ["tcg,thread=multi,tb-size=512"]
    line = [
        program, "-name", "t640", "-nodefaults", "-display", "none", "-no-user-config",
        "-machine", f"q35,smm={'on' if hardware.secure_boot else 'off'},vmport=off,hpet=off",
        "-accel", *engine, "-cpu", "host" if accel == "kvm" else _EMULATED,
        "-smp", str(hardware.cores), "-m", str(hardware.memory), "-uuid", str(hardware.uuid),
        "-rtc", f"base={hardware.rtc_base}",
        "-drive", f"if=pflash,format=raw,readonly=on,file={code}",
        "-drive", f"if=pflash,format=qcow2,file={work / 'variables.qcow2'}",
        "-device", "virtio-rng-pci",
        "-device", "i6300esb", "-action", "watchdog=reset",
        "-qmp", f"unix:{work / 'qmp.sock'},server=on,wait=off",
        "-chardev", f"socket,id=console,path={work / 'console.sock'},server=on,wait=off,"
        f"logfile={work / 'console.log'},logappend=on", "-serial", "chardev:console",
        "-device", "virtio-serial-pci",
        "-chardev", f"socket,id=rig,path={work / 'rig.sock'},server=on,wait=off",
        "-device", f"virtserialport,chardev=rig,name={guest.PORT}",
    ]  # fmt: skip
    if hardware.secure_boot:  # only the firmware itself, in system management mode, writes its variables
        line += ["-global", "driver=cfi.pflash01,property=secure,value=on", "-global", "ICH9-LPC.disable_s3=1"]
    line += _storage(hardware, work) + _medium(hardware) + _network(hardware) + _identity(hardware)
    line += guest.credentials()
    for name, value in hardware.credentials.items():
        line += guest.credential(f"io.systemd.credential:{name}", value)
    if hardware.arguments:
        line += guest.credential("io.systemd.stub.kernel-cmdline-extra", " ".join(hardware.arguments))
    if hardware.tpm:
        line += ["-chardev", f"socket,id=tpm,path={work / 'tpm.sock'}", "-tpmdev", "emulator,id=tpm0,chardev=tpm",
                 "-device", "tpm-crb,tpmdev=tpm0"]  # fmt: skip
    return [*line, "-loadvm", load] if load else line


def _medium(hardware: Hardware) -> list[str]:
    if hardware.medium is None:
        return []
    drive = f"if=none,id=medium,format=raw,file={hardware.medium}"
    if hardware.medium_drive == "cd":
        drive += ",media=cdrom,readonly=on"
        return ["-drive", drive, "-device", "ahci,id=tray", "-device", "ide-cd,bus=tray.0,drive=medium,bootindex=1"]
    return ["-drive", drive, "-device", "qemu-xhci", "-device", "usb-storage,drive=medium,removable=on,bootindex=1"]


def _storage(hardware: Hardware, work: Path) -> list[str]:
    if hardware.storage == "none":
        return []
    drive = ["-drive", f"if=none,id=disk,format=qcow2,cache=unsafe,discard=unmap,file={work / 'disk.qcow2'}"]
    # A `bootindex`: given an order, this firmware forgets the disks without one, and prefers its shell ever after.
    if hardware.storage == "sata":
        disk = "ide-hd,bus=sata.0,drive=disk,serial=T640DISK,bootindex=2"
        return [*drive, "-device", "ahci,id=sata", "-device", disk]
    return [*drive, "-device", "nvme,drive=disk,serial=T640DISK,bootindex=2"]


def _network(hardware: Hardware) -> list[str]:
    if not hardware.tap:
        return []
    return ["-netdev", f"tap,id=lan,ifname={hardware.tap},script=no,downscript=no",
            "-device", f"virtio-net-pci,id=nic,netdev=lan,mac={hardware.mac},romfile="]  # fmt: skip


def _identity(hardware: Hardware) -> list[str]:
    system = f"type=1,manufacturer=HP,product={hardware.product},serial={hardware.serial},family=103C_53302F HP Thin"
    return ["-smbios", f"{system},uuid={hardware.uuid}", "-smbios", "type=2,manufacturer=HP,product=8552",
            "-smbios", "type=0,vendor=HP,version=R27 Ver. 01.11.00,uefi=on"]  # fmt: skip


def swtpm_command(work: Path) -> Sequence[str]:
    """The software TPM's command line; it ends when QEMU does. Raises `Missing`."""
    if shutil.which("swtpm") is None:
        raise Missing("swtpm is not installed: apt-get install swtpm.")
    (work / "tpm").mkdir(exist_ok=True)
    return ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={work / 'tpm'}", "--ctrl",
            f"type=unixio,path={work / 'tpm.sock'}", "--terminate", "--flags", "startup-clear"]  # fmt: skip
