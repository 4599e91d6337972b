"""Nothing listens on the network but what was declared."""

from __future__ import annotations

import contextlib

from compliance_agent.checks import _sockets
from compliance_agent.checks._citations import PARTIAL, hipaa, soc2
from compliance_agent.checks._inputs import Inputs, some
from compliance_agent.checks.base import Check, Finding, Host
from compliance_agent.errors import CheckError


class ListeningSockets(Check):
    """Holds the kernel's socket tables against the declared list."""

    id = "listening-sockets"
    title = "Only declared ports are served"
    reads = "/proc/net/{tcp,tcp6,udp,udp6}, against the declared list of ports"
    citations = (
        hipaa("164.308(a)(1)(ii)(A)", PARTIAL),
        hipaa("164.308(a)(1)(ii)(B)", PARTIAL),
        soc2("CC6.6", PARTIAL),
        soc2("CC7.1", PARTIAL),
    )
    does_not_prove = (
        "That the firewall lets anyone reach these ports, or that the programs behind them are safe. Raw sockets and "
        "UDP sockets on ports the kernel hands out by itself (answers to the box's own questions) are not judged."
    )
    remedy = "Find out which service was added and why; if nobody knows, disconnect the box and call the provider."

    def run(self, host: Host) -> Finding:
        """Every socket that strangers can reach is declared."""
        inputs = Inputs(host)
        declared = set(host.config.checks.listening)
        handed_out = _sockets.ephemeral(inputs)
        sockets = _sockets.listening(inputs)
        reachable = [socket for socket in sockets if not socket.loopback]
        judged = [socket for socket in reachable if socket.protocol == "tcp" or socket.port not in handed_out]
        facts = {
            "served": ", ".join(sorted({socket.name for socket in judged})) or "nothing",
            "declared": ", ".join(sorted(declared)),
            "only within the box": len(sockets) - len(reachable),
            "UDP ports handed out by the kernel": len(reachable) - len(judged),
        }
        undeclared = [socket for socket in judged if socket.name not in declared]
        if undeclared:
            programs = _programs(inputs)
            shown = list(dict.fromkeys(_words(socket, programs) for socket in undeclared))
            facts["not declared"] = ", ".join(shown)
            return inputs.failed(f"A port is served that was not declared: {some(shown)}.", facts)
        return inputs.passed(f"Every port served to the network is declared ({facts['served']}).", facts)


def _programs(inputs: Inputs) -> dict[tuple[str, int], str]:
    """Who has a port open, by the collector; empty when it cannot tell, since it only helps to understand."""
    with contextlib.suppress(CheckError):
        listeners = inputs.privileged().listeners
        return {(one.protocol.removesuffix("6"), one.port): one.unit or one.program for one in listeners}
    return {}


def _words(socket: _sockets.Socket, programs: dict[tuple[str, int], str]) -> str:
    program = programs.get((socket.protocol, socket.port))
    return f"{socket.name} by {program or f'user id {socket.uid}'}"
