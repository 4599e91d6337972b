"""The Debian mirror of this machine, as its own apt configuration names it.

The rig never names a host: a site that reaches Debian through a mirror or a proxy has told apt so already.
"""

from __future__ import annotations

import platform
import subprocess
from dataclasses import dataclass

from t640.errors import Missing, RigError

STABLE = "trixie"
"""The Debian release the stand-in is built from by default, and the only one here with security updates."""

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

_CARRIED_OVER = (
    "Acquire::http",
    "Acquire::https",
    "Acquire::Check-Valid-Until",
    "Acquire::Check-Date",
    "Acquire::Retries",
    "Acquire::Languages",
)
"""Settings of this machine's apt that a mirror or proxy may need; nothing else of it is taken over."""


@dataclass(frozen=True)
class Mirror:
    """Where Debian's packages come from, and the apt settings needed to reach them."""

    uri: str
    security: str
    """Where security updates come from; empty when apt has no such source."""
    settings: tuple[str, ...]

    def settings_file(self) -> str:
        """The settings as the text of an apt.conf.d file."""
        return "".join(f"{line}\n" for line in self.settings)

    def sources_file(self, release: str) -> str:
        """Another release's sources on the same mirror, as the text of a `.sources` file."""
        suites = [(self.uri, release)]
        if self.security and release == STABLE:
            suites.append((self.security, f"{release}-security"))
        return "\n".join(
            f"Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\nSigned-By: {KEYRING}\n"
            for uri, suite in suites
        )


def choose_mirror(targets: str, codename: str) -> str:
    """Pick the main archive's URI from the lines of `apt-get indextargets` (`URI RELEASE COMPONENT`).

    Raises `Missing` when apt has no source for the running release's main component.
    """
    for line in targets.splitlines():
        uri, release, component = [*line.split(), "", "", ""][:3]
        if release == codename and component == "main":
            return uri.rstrip("/")
    raise Missing(
        f"apt has no source for Debian {codename} main. Look at /etc/apt/sources.list and "
        "/etc/apt/sources.list.d, then run apt-get update."
    )


def choose_settings(dump: str) -> tuple[str, ...]:
    """The lines of `apt-config dump` that have to do with reaching the mirror."""
    lines = []
    for line in dump.splitlines():
        key, _, value = line.partition(" ")
        wanted = any(key == name or key.startswith(f"{name}::") for name in _CARRIED_OVER)
        if wanted and value not in ('"";', '""'):
            lines.append(line)
    return tuple(lines)


def system_mirror() -> Mirror:
    """This machine's mirror. Raises `Missing` without apt or without a usable source."""
    release = platform.freedesktop_os_release()
    if release.get("ID") != "debian":
        raise Missing("The stand-in image is built from Debian packages, and this machine is not Debian.")
    targets = _run("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages")
    uri = choose_mirror(targets, release["VERSION_CODENAME"])
    try:
        security = choose_mirror(targets, f"{release['VERSION_CODENAME']}-security")
    except Missing:
        security = ""
    return Mirror(uri, security, choose_settings(_run("apt-config", "dump")))


def _run(*command: str) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except FileNotFoundError as error:
        raise Missing(f"{command[0]} is not installed.") from error
    except subprocess.CalledProcessError as error:
        raise RigError(f"{' '.join(command)} failed: {error.stderr.strip()}") from error
