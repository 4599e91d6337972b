"""The clock follows a time server, closely and lately."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from appliance_protocol.clock import ClockState
from compliance_agent.checks._citations import PARTIAL, hipaa, soc2
from compliance_agent.checks._inputs import Inputs, as_kind, span
from compliance_agent.checks.base import Check, Finding, Host
from compliance_agent.errors import CheckError

TIMESYNC = ("org.freedesktop.timesync1", "/org/freedesktop/timesync1", "org.freedesktop.timesync1.Manager")
UNSYNCHRONISED_LEAP, WORST_STRATUM = 3, 15


@dataclass(frozen=True)
class Answer:
    """A time server's last answer: our deviation from it in seconds, when it came, and what it says of itself."""

    offset: float
    at: float
    stratum: int
    leap: int
    packets: int
    """How many answers have come since the time service started."""


class TimeSynchronisation(Check):
    """Evidence without the right time is worth little."""

    id = "time-synchronisation"
    title = "The clock is right"
    reads = (
        "The kernel's word whether the clock is synchronised (adjtimex), and timesyncd over D-Bus: the last exchange "
        "with the time server"
    )
    citations = (hipaa("164.312(b)", PARTIAL), soc2("CC7.2", PARTIAL))
    does_not_prove = "That the time server itself is right: its answers are not signed."
    remedy = (
        "Check that the site's firewall lets the box reach a time server (UDP port 123), or name one by DHCP option 42."
    )

    def run(self, host: Host) -> Finding:
        """Synchronised by the kernel's word, then offset and age of timesyncd's last exchange."""
        inputs = Inputs(host)
        settings = host.config.checks
        # What timedated calls NTPSynchronized, without having it started for this one question.
        state = host.clock.read().state
        inputs.note("adjtimex(2)", state.value)
        if state is ClockState.UNSYNCHRONISED:
            return inputs.failed("The clock is not synchronised: no time server has answered this box lately.")
        if state is not ClockState.SYNCHRONISED:
            return inputs.unknown("The kernel does not say whether the clock is synchronised.")
        try:
            answer = _answer(inputs)
        except CheckError as error:
            return inputs.unknown(f"The clock is synchronised, but its deviation cannot be read: {error}")
        age = host.clock.read().wall - answer.at
        facts = {"offset s": f"{answer.offset:.4f}", "last answer": f"{span(age)} ago", "stratum": answer.stratum}
        if answer.leap == UNSYNCHRONISED_LEAP or not 1 <= answer.stratum <= WORST_STRATUM:
            return inputs.failed("The time server says that it does not know the time itself.", facts)
        if abs(answer.offset) > settings.clock_max_offset and answer.packets == 1:
            return inputs.unknown(
                f"The clock was {abs(answer.offset):.2f} s off when a time server first answered, and has been set; "
                "its next answer will tell.",
                facts,
            )
        if abs(answer.offset) > settings.clock_max_offset:
            return inputs.failed(
                f"The clock is {abs(answer.offset):.2f} s off; {settings.clock_max_offset:g} s is the most.", facts
            )
        if not -settings.clock_max_offset <= age <= settings.clock_max_age:
            when = f"{span(age)} ago" if age > 0 else "in the future, by this box's clock"
            return inputs.failed(f"The last answer of a time server was {when}.", facts)
        return inputs.passed(f"The clock is synchronised, {abs(answer.offset) * 1000:.0f} ms off.", facts)


def _answer(inputs: Inputs) -> Answer:
    """The last exchange, from timesyncd's NTPMessage (org.freedesktop.timesync1(5): `(uuuuittayttttbtt)`)."""
    source = f"D-Bus {TIMESYNC[2]}.NTPMessage"
    message: Any = inputs.host.bus.property(*TIMESYNC, "NTPMessage")
    inputs.note(source, repr(message))
    fields = list(as_kind(message, (list, tuple), source))
    if len(fields) < 15:
        raise CheckError(f"{source} has {len(fields)} fields, not 15", source)
    numbers = [as_kind(fields[index], int, source) for index in (0, 3, 8, 9, 10, 11, 13)]
    leap, stratum, originate, receive, transmit, destination, packets = numbers
    if not destination:
        raise CheckError("no time server has answered since the time service started", source)
    # RFC 5905, section 8: the mean of the two one-way differences.
    offset = ((receive - originate) + (transmit - destination)) / 2
    return Answer(offset / 1e6, destination / 1e6, stratum, leap, packets)
