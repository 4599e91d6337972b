"""Remote login is by key only, never as root, with today's cryptography; or there is none."""

from __future__ import annotations

from compliance_agent.checks import _sockets
from compliance_agent.checks._citations import PARTIAL, hipaa, soc2
from compliance_agent.checks._inputs import Inputs, as_kind, some
from compliance_agent.checks.base import Check, Finding, Host
from compliance_agent.errors import CheckError

SERVICE, PATH, MANAGER = "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"
UNITS = ["ssh.service", "ssh.socket", "sshd.service", "sshd.socket", "ssh@*.service", "sshd@*.service", "dropbear*"]
UP = ("active", "activating", "reloading")
REQUIRED: dict[str, frozenset[str]] = {
    "permitrootlogin": frozenset({"no"}),
    "passwordauthentication": frozenset({"no"}),
    "kbdinteractiveauthentication": frozenset({"no"}),
    "permitemptypasswords": frozenset({"no"}),
    "hostbasedauthentication": frozenset({"no"}),
    "permituserenvironment": frozenset({"no"}),
    "pubkeyauthentication": frozenset({"yes"}),
    "x11forwarding": frozenset({"no"}),
    "authorizedkeyscommand": frozenset({"none"}),
    "trustedusercakeys": frozenset({"none"}),
    "loglevel": frozenset({"INFO", "VERBOSE", "DEBUG", "DEBUG1", "DEBUG2", "DEBUG3"}),
}
"""Effective settings and the values that conform."""
WEAK = (
    "3des",
    "arcfour",
    "blowfish",
    "cast128",
    "-cbc",
    "hmac-md5",
    "group1-sha1",
    "group14-sha1",
    "exchange-sha1",
    "ssh-dss",
    "ssh-rsa",
)
"""Parts of the names of algorithms that OpenSSH itself no longer offers unasked."""
ALGORITHMS = ("ciphers", "macs", "kexalgorithms", "hostkeyalgorithms")
MAX_TRIES = 6


class SshPolicy(Check):
    """The effective configuration as the daemon prints it (`sshd -T`), not a file that it may never have read."""

    id = "ssh-policy"
    title = "Remote login is by key only, or not at all"
    reads = (
        "`sshd -T` by the collector (root), the units of the service manager over D-Bus, and /proc/net/tcp for port 22"
    )
    citations = (
        hipaa("164.312(d)", PARTIAL),
        hipaa("164.312(e)(2)(ii)", PARTIAL),
        hipaa("164.308(a)(5)(ii)(D)", PARTIAL),
        soc2("CC6.1", PARTIAL),
        soc2("CC6.7", PARTIAL),
    )
    does_not_prove = (
        "What a Match block grants to one user or address, whether private keys have a passphrase, "
        "or that the daemon was restarted since its configuration changed."
    )
    remedy = "Correct the SSH settings in the site's configuration and install it; never edit the box by hand."

    def run(self, host: Host) -> Finding:
        """Exempt only when it is declared that there is no SSH, and there is none indeed."""
        inputs = Inputs(host)
        running = _running_units(inputs)
        on_port = [socket for socket in _sockets.listening(inputs) if socket.name == "tcp/22"]
        if not host.config.checks.ssh:
            if running or on_port:
                what = some(running) if running else "something on port 22"
                return inputs.failed(f"Remote login is not part of this appliance, yet it runs: {what}.")
            return inputs.not_applicable("Declared: SSH is not part of this appliance (`ssh = false`); none runs here.")
        return self._policy(inputs, running)

    def _policy(self, inputs: Inputs, running: list[str]) -> Finding:
        settings = _effective(inputs.reading("sshd"))
        wrongs = [
            f"{key} is {settings.get(key, 'not told')}"
            for key, allowed in REQUIRED.items()
            if settings.get(key, "not told") not in allowed
        ]
        for key in ALGORITHMS:
            offered = settings.get(key, "").split(",")
            if not any(offered):
                raise CheckError(f"sshd -T names no {key}: the answer is not complete", "sshd -T")
            weak = [name for name in offered if any(mark in name for mark in WEAK)]
            wrongs += [f"{key} allows {some(weak, 3)}"] if weak else []
        tries = settings.get("maxauthtries", "")
        if not tries.isdecimal() or int(tries) > MAX_TRIES:
            wrongs.append(f"maxauthtries is {tries or 'not told'}")
        facts = {"units": ", ".join(running) or "none running", "ports": settings.get("port", "?")}
        if wrongs:
            facts["wrong"] = "; ".join(wrongs)
            return inputs.failed(f"Remote login is not as it should be: {some(wrongs, 3)}.", facts)
        return inputs.passed("Remote login is by key only, never as root, with current cryptography.", facts)


def _running_units(inputs: Inputs) -> list[str]:
    found = []
    for unit in inputs.call(SERVICE, PATH, MANAGER, "ListUnitsByPatterns", [], UNITS):
        fields = as_kind(unit, (list, tuple), f"D-Bus {MANAGER}.ListUnitsByPatterns")
        if len(fields) < 5 or not isinstance(fields[0], str) or not isinstance(fields[3], str):
            raise CheckError("the service manager answered something that is no list of units", "D-Bus systemd1")
        if fields[3] in UP:
            found.append(fields[0])
    return found


def _effective(text: str) -> dict[str, str]:
    """`sshd -T` prints one setting a line, name first, in lower case."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.strip().partition(" ")
        if key:
            found.setdefault(key.lower(), value.strip())
    if "permitrootlogin" not in found:
        raise CheckError("sshd -T did not print its settings", "sshd -T")
    return found
