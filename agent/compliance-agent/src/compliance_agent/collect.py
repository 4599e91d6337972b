"""The collector: a short root process that reads what only root may, and writes it down without its secrets.

Each part fails alone: what could not be read carries the reason in its place, and the rest is collected all the same.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from appliance_protocol.wire import WireError, canonical, decode
from compliance_agent.collect_accounts import read_accounts
from compliance_agent.collect_listeners import read_listeners
from compliance_agent.facts.clock import SystemClock
from compliance_agent.identity import write_atomically
from compliance_agent.privileged import (
    MAX_FACTS_FILE,
    Account,
    CertificateFacts,
    EspFacts,
    Listener,
    PrivilegedFacts,
    Reading,
)

COMMANDS = {
    "nftables": ("nft", "-j", "list", "ruleset"),
    "sshd": ("sshd", "-T"),
}
COMMAND_TIMEOUT = 10.0
MAX_OUTPUT = 1 << 20
SUDOERS = ("/etc/sudoers", "/etc/sudoers.d")
ESP_MOUNT_POINTS = ("/efi", "/boot", "/boot/efi")
"""image/layout.toml, `esp.mount_points`."""
FALLBACK_LOADERS = ("BOOTX64.EFI", "BOOTAA64.EFI")
PORTAL_STATE = "/var/lib/local-portal"
MAX_CERTIFICATE_FILES = 16

Facts = TypeVar("Facts")


def collect(root: Path = Path("/"), before: PrivilegedFacts | None = None) -> PrivilegedFacts:
    """Everything, as it is now. Raises nothing that a part may raise.

    `before` is the last run's: certificates that are the same as then are not parsed again.
    """
    known = before.certificates if before is not None else ()
    sshd = command(*COMMANDS["sshd"])
    readings = {
        "nftables": command(*COMMANDS["nftables"]),
        "sshd": sshd,
        "sudoers": sudoers(root),
    }
    no_accounts: tuple[Account, ...] = ()
    no_listeners: tuple[Listener, ...] = ()
    no_certificates: tuple[CertificateFacts, ...] = ()
    accounts, accounts_error = attempt(lambda: read_accounts(root, sshd.output), no_accounts)
    listeners, listeners_error = attempt(lambda: read_listeners(root), no_listeners)
    esp, esp_error = attempt(lambda: read_esp(root), EspFacts())
    certificates, _ = attempt(lambda: read_certificates(root, known), no_certificates)
    return PrivilegedFacts(
        collected=SystemClock().read(),
        readings=readings,
        accounts=accounts,
        accounts_error=accounts_error,
        listeners=listeners,
        listeners_error=listeners_error,
        esp=esp if not esp_error else EspFacts(error=esp_error),
        certificates=certificates,
    )


def write(facts: PrivilegedFacts, path: Path) -> None:
    """Put the facts where the agent reads them: replaced whole, for the directory's group only. Raises `OSError`."""
    write_atomically(path, canonical(facts), 0o640)


def earlier(path: Path) -> PrivilegedFacts | None:
    """What the last run wrote to `path`; None when there is nothing that can be read."""
    try:
        with path.open("rb") as file:
            return decode(file.read(MAX_FACTS_FILE + 1), PrivilegedFacts, limit=MAX_FACTS_FILE)
    except (OSError, WireError):
        return None


def attempt(read: Callable[[], Facts], otherwise: Facts) -> tuple[Facts, str]:
    """What `read` yields and no error, or `otherwise` and the error in words."""
    try:
        return read(), ""
    except OSError as error:
        return otherwise, f"{error.filename or 'reading'}: {error.strerror or error}"
    except Exception as error:
        return otherwise, f"{type(error).__name__}: {error}"


def command(program: str, *arguments: str) -> Reading:
    """The output of a program, found by PATH, or why there is none."""
    source = " ".join((program, *arguments))
    try:
        done = subprocess.run(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=COMMAND_TIMEOUT,
            check=False,
        )
    except FileNotFoundError:
        return Reading(source, error=f"{program} is not installed")
    except subprocess.TimeoutExpired:
        return Reading(source, error=f"no answer within {COMMAND_TIMEOUT:.0f} s")
    except OSError as error:
        return Reading(source, error=f"cannot be run: {error.strerror or error}")
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()[:500] or "it says nothing"
        return Reading(source, error=f"ended with {done.returncode}: {said}")
    if len(done.stdout) > MAX_OUTPUT:
        return Reading(source, error=f"printed more than {MAX_OUTPUT} bytes")
    return Reading(source, output=done.stdout.decode(errors="replace"))


def sudoers(root: Path) -> Reading:
    """Every line of the sudo policy that is neither empty nor a comment; empty when there is no sudo."""
    source = ", ".join(SUDOERS)
    main, folder = (root / name.lstrip("/") for name in SUDOERS)
    try:
        files = [main] if main.exists() else []
        files += sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
        lines = [line for path in files for line in path.read_text(errors="replace")[:MAX_OUTPUT].splitlines()]
    except OSError as error:
        return Reading(source, error=f"{error.filename}: {error.strerror or error}")
    kept = [line for line in lines if line.strip() and not _comment(line)]
    return Reading(source, output="\n".join(kept))


def _comment(line: str) -> bool:
    """`#include` and `#1000` (a user id) are not comments in sudoers(5)."""
    text = line.lstrip()
    return text.startswith("#") and not text.startswith("#include") and not text[1:2].isdigit()


def read_esp(root: Path) -> EspFacts:
    """The EFI system partition, wherever it is mounted. Looking into it makes an automount come up."""
    for mount_point in ESP_MOUNT_POINTS:
        path = root / mount_point.lstrip("/")
        efi = path / "EFI"
        if not efi.is_dir():
            continue
        space = os.statvfs(path)
        boot = _names(efi / "BOOT")
        return EspFacts(
            mount_point=mount_point,
            total=space.f_blocks * space.f_frsize,
            free=space.f_bavail * space.f_frsize,
            files={name: (efi / "Linux" / name).stat().st_size for name in sorted(_names(efi / "Linux"))[:64]},
            fallback_present=any(name.upper() in FALLBACK_LOADERS for name in boot),
        )
    return EspFacts(error=f"no EFI system partition is mounted at {', '.join(ESP_MOUNT_POINTS)}")


def _names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if path.is_file()] if directory.is_dir() else []


def read_certificates(root: Path, known: Iterable[CertificateFacts] = ()) -> tuple[CertificateFacts, ...]:
    """The portal's certificates, which are in a directory of its own. One that is `known` is taken from there."""
    same = {(one.path, one.digest): one for one in known if one.digest and not one.error}
    state = root / PORTAL_STATE.lstrip("/")
    files = sorted(path for pattern in ("*.crt", "*.pem", "*/*.crt", "*/*.pem") for path in state.glob(pattern))
    found = []
    for path in files[:MAX_CERTIFICATE_FILES]:
        name = f"/{path.relative_to(root)}"
        try:
            content = path.read_bytes()[:MAX_OUTPUT]
        except OSError as error:
            found.append(CertificateFacts(name, error=str(error)[:200]))
            continue
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        found.append(same.get((name, digest)) or _certificate(content, name, digest))
    return tuple(found)


def _certificate(content: bytes, name: str, digest: str) -> CertificateFacts:
    """The first certificate of a file: the leaf. Loading the library for it is half of what a run costs."""
    import warnings

    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificates(content)[0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            before, after = _validity(certificate)
        subject = certificate.subject.rfc4514_string()[:200]
        return CertificateFacts(name, subject, before, after, digest=digest)
    except (ValueError, IndexError) as error:
        return CertificateFacts(name, error=str(error)[:200] or repr(error))


def _validity(certificate: object) -> tuple[float, float]:
    """From and until, in seconds since the epoch; cryptography before 42 has only the naive attributes (UTC)."""
    import datetime

    bounds = []
    for name in ("not_valid_before", "not_valid_after"):
        aware = getattr(certificate, f"{name}_utc", None)
        moment = aware if aware is not None else getattr(certificate, name).replace(tzinfo=datetime.UTC)
        bounds.append(float(moment.timestamp()))
    return bounds[0], bounds[1]
