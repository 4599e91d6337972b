"""The kernel's own protections are on."""

from __future__ import annotations

from dataclasses import dataclass

from compliance_agent.checks._citations import PARTIAL, hipaa, soc2
from compliance_agent.checks._inputs import Inputs, some
from compliance_agent.checks.base import Check, Finding, Host
from compliance_agent.errors import CheckError


@dataclass(frozen=True)
class Setting:
    """One sysctl, the values that conform, and what it guards against."""

    key: str
    allowed: frozenset[int]
    why: str


def _setting(key: str, allowed: tuple[int, ...], why: str) -> Setting:
    return Setting(key, frozenset(allowed), why)


SETTINGS = (
    _setting("kernel.randomize_va_space", (2,), "makes attacks on programs a matter of luck"),
    _setting("kernel.kptr_restrict", (1, 2), "hides where the kernel is in memory"),
    _setting("kernel.dmesg_restrict", (1,), "hides the kernel's messages from ordinary programs"),
    _setting("kernel.unprivileged_bpf_disabled", (1, 2), "keeps ordinary programs from loading code into the kernel"),
    _setting("kernel.yama.ptrace_scope", (1, 2, 3), "keeps programs from reading each other's memory"),
    _setting("kernel.kexec_load_disabled", (1,), "keeps the kernel from being replaced while it runs"),
    _setting("fs.protected_hardlinks", (1,), "closes a way to trick services with links"),
    _setting("fs.protected_symlinks", (1,), "closes a way to trick services with links"),
    _setting("fs.suid_dumpable", (0, 2), "keeps the memory of privileged programs private"),
    _setting("net.ipv4.conf.all.accept_redirects", (0,), "keeps others from redirecting the box's traffic"),
    _setting("net.ipv6.conf.all.accept_redirects", (0,), "keeps others from redirecting the box's traffic"),
    _setting("net.ipv4.conf.all.accept_source_route", (0,), "keeps others from choosing the way of its traffic"),
    _setting("net.ipv4.conf.all.forwarding", (0,), "keeps the box from passing traffic on between networks"),
    _setting("net.ipv6.conf.all.forwarding", (0,), "keeps the box from passing traffic on between networks"),
    _setting("net.ipv4.tcp_syncookies", (1, 2), "keeps the box answering under a flood of connections"),
)


UNLESS_BUILT = {
    "kernel.kexec_load_disabled": "the kernel cannot be replaced at all",
    "kernel.unprivileged_bpf_disabled": "this kernel has no BPF",
}
"""Settings that a kernel built without the thing they guard has not got."""


class KernelSettings(Check):
    """Reads /proc/sys: what holds now, not what a file asks for."""

    id = "kernel-settings"
    title = "The kernel's protections are on"
    reads = "/proc/sys"
    citations = (hipaa("164.308(a)(1)(ii)(B)", PARTIAL), soc2("CC6.8", PARTIAL), soc2("CC7.1", PARTIAL))
    does_not_prove = "That the kernel has no flaws, or that a setting that holds now held an hour ago."
    remedy = "Restart the box; if it is the same afterwards, the release sets it so: call the provider."

    def run(self, host: Host) -> Finding:
        """Every setting has a value that conforms."""
        inputs = Inputs(host)
        facts, wrongs, unread = {}, [], []
        for setting in SETTINGS:
            path = "/proc/sys/" + setting.key.replace(".", "/")
            if setting.key.startswith("net.ipv6.") and not host.path("/proc/net/tcp6").exists():
                facts[setting.key] = "no IPv6 in this kernel"
                continue
            if setting.key in UNLESS_BUILT and _not_built(inputs, path):
                facts[setting.key] = UNLESS_BUILT[setting.key]
                continue
            try:
                value = inputs.integer(path)
            except CheckError as error:
                unread.append(str(error))
                continue
            facts[setting.key] = str(value)
            if value not in setting.allowed:
                wrongs.append(f"{setting.key} is {value}, which {_least(setting)} ({setting.why})")
        if wrongs:
            return inputs.failed(f"{some(wrongs, 2)}.", facts)
        if unread:
            raise CheckError(some(unread, 3), "/proc/sys")
        return inputs.passed(f"All {len(SETTINGS)} of the kernel's protections are on.", facts)


def _not_built(inputs: Inputs, path: str) -> bool:
    """Whether the kernel has its other settings but not this one."""
    return inputs.host.path("/proc/sys/kernel/randomize_va_space").exists() and not inputs.host.path(path).exists()


def _least(setting: Setting) -> str:
    return "should be " + " or ".join(str(value) for value in sorted(setting.allowed))
