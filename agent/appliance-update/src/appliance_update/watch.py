"""After commit: a version that was good and turns bad is left once, for the other slot or the generation before.

The program `appliance-update-watch` looks every quarter of an hour. It shares as little as it can with the updater,
which may be what turned bad: no metadata, no downloads, no record of its own making. Where Python itself does not
start any more, the lifeline takes over (docs/lifeline.md).

A sign is: a unit that fails at several looks in a row, or no check-in, no update check and no rehearsal for days while
the network is fine. Then the standby (`appliance_update.standby`) gets one try.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from appliance_update import layout as layouts
from appliance_update import network, thoughts
from appliance_update.clock import boot_clock, trusted_time
from appliance_update.config import CONFIG_FILE, Config, ConfigError, Generations, load
from appliance_update.device import DeviceError
from appliance_update.files import Unreadable, decode, read_limited, write_json
from appliance_update.gate import systemd
from appliance_update.generation_entries import entries
from appliance_update.generation_standby import GenerationStandby
from appliance_update.history import Event
from appliance_update.host import Host
from appliance_update.layout import Layout
from appliance_update.reboot import systemctl_reboot
from appliance_update.snapshots import Snapshots
from appliance_update.standby import NoStandby, SlotStandby, Standby
from appliance_update.store import Busy, Store
from appliance_update.thoughts import Stage, Thought

FILE = "watch.json"
HOUR = 3600.0
PATIENCE = 24 * HOUR
"""Seconds for which the maintenance window, or somebody who inhibits reboots, is respected."""

UnitFacts = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Seen:
    """What the looks so far have seen of one version (its standby's name for it).

    `silent` are seconds without a sign of life, by the boot clock; `failing` counts looks in a row with a failing unit,
    `busy` those at which another updater was at work; `restarts` are systemd's counts at the last look.
    """

    version: str = ""
    boot_id: str = ""
    uptime: float = 0.0
    signs: tuple[float, ...] = ()
    silent: float = 0.0
    failing: int = 0
    busy: int = 0
    restarts: dict[str, int] = field(default_factory=dict)
    bad_since: float = 0.0


@dataclass
class Watch:
    """One look at the running version, and what follows from it."""

    host: Host
    config: Config
    store: Store
    standby: Standby
    reboot: Callable[[bool], None]
    units: Callable[[tuple[str, ...]], UnitFacts]
    trouble: Callable[[], str]
    """What is wrong with the network; empty when it is fine."""
    uptime: Callable[[], float]

    def look(self) -> str:
        """Look once; a sentence. Raises `OSError` when nothing can be written, `DeviceError` when slots are unknown."""
        self.store.running_version = self.host.image_version
        version = self.standby.running()
        label = self.standby.label(version)
        known = thoughts.load(self.store.state)
        if known is None:
            return "the second thoughts so far cannot be read; no more are had"
        thought = known.versions.get(version)
        if thought and not thought.stage.pending:
            return f"{label} was left once already ({thought.reason}); it stays"
        seen, failing = self._see(version)
        reason = thought.reason if thought else self._reason(seen, failing)
        if reason and not seen.bad_since:
            seen = replace(seen, bad_since=self.uptime())
        write_json(self.store.state / FILE, seen if reason else replace(seen, bad_since=0.0))
        if not reason:
            return f"{label} is well"
        return self._leave(version, reason, thought, seen)

    # -- signs --------------------------------------------------------------------------------------------------------

    def _see(self, version: str) -> tuple[Seen, list[str]]:
        before = self._before()
        boot_id, uptime = self.host.boot_id(), self.uptime()
        if before.version != version:
            before = Seen(version)
        same_boot = before.boot_id == boot_id
        signs = tuple(_age(path) for path in self._signs())
        passed = uptime - before.uptime if same_boot else uptime
        alive = signs != before.signs
        failing, restarts = self._failing(before.restarts if same_boot else {})
        return replace(
            before,
            boot_id=boot_id,
            uptime=uptime,
            signs=signs,
            silent=0.0 if alive else before.silent + max(passed, 0.0),
            failing=before.failing + 1 if failing else 0,
            restarts=restarts,
            bad_since=before.bad_since if same_boot else 0.0,
        ), failing

    def _before(self) -> Seen:
        try:
            return decode(read_limited(self.store.state / FILE, 1 << 16), Seen, FILE)
        except (OSError, Unreadable):
            return Seen()

    def _signs(self) -> list[Path]:
        """Files whose time says that somebody was reached."""
        checkin = self.config.watch.checkin_file
        return [self.store.state / "last-contact", *([self.host.path(checkin)] if checkin else [])]

    def _failing(self, before: dict[str, int]) -> tuple[list[str], dict[str, int]]:
        """The units that fail now, or were restarted since the last look, and how often each was restarted so far.

        A unit that dies at every start is seen waiting for its restart or, just as often, starting again.
        """
        if not self.config.watch.looks:
            return [], {}
        facts = self.units(self.config.watch.units or self.config.gate.units)
        failing, restarts = [], {}
        for unit, properties in facts.items():
            count = properties.get("NRestarts", "0")
            restarts[unit] = int(count) if count.isdigit() else 0
            state, sub = properties.get("ActiveState", ""), properties.get("SubState", "")
            between = sub == "auto-restart" or (restarts[unit] > 0 and state != "active")
            if state == "failed" or between or restarts[unit] > before.get(unit, restarts[unit]) + 1:
                failing.append(unit)
        return failing, restarts

    def _reason(self, seen: Seen, failing: list[str]) -> str:
        """Why the version is bad; empty when it is not."""
        watch = self.config.watch
        if watch.looks and seen.failing >= watch.looks:
            return f"{', '.join(failing)} kept failing"
        if not any(seen.signs) or not watch.hours:
            return ""  # what never worked here has not turned bad
        # By our own count alone: a time server that is wrong by years must not cost a good version.
        if seen.silent < watch.hours * HOUR or self.trouble():
            return ""
        return f"no check-in, update check or rehearsal for {watch.hours:g} hours, and the network is fine"

    # -- what follows -------------------------------------------------------------------------------------------------

    def _leave(self, version: str, reason: str, thought: Thought | None, seen: Seen) -> str:
        bad_for = max(self.uptime() - seen.bad_since, 0.0)
        bad = f"{self.standby.label(version)} is bad ({reason})"
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self.store.locked())
            except Busy:
                write_json(self.store.state / FILE, replace(seen, busy=seen.busy + 1))
                if seen.busy < max(self.config.watch.looks, 1):  # an updater that hangs may be what turned bad
                    return f"{bad}; another updater is at work, it is left for now"
                self.store.load()
            if thought and thought.stage is Stage.ARMED:
                return self._go(version, thought, bad_for)
            if not self._may_go() and bad_for < PATIENCE:
                return f"{bad}; the maintenance window is waited for"
            return self._turn(version, reason, bad_for)

    def _may_go(self) -> bool:
        return self.config.window.open_at(trusted_time(self.store.now(), self.host.build_time()))

    def _turn(self, version: str, reason: str, bad_for: float) -> str:
        """Give the standby its try. Each step may be the last one before a power cut, and is then taken again."""
        label = self.standby.label(version)
        try:
            thought = Thought(self.standby.other(), reason, self.store.now(), boot=self.host.boot_id())
        except NoStandby as error:
            said = f"{label} is bad ({reason}), but {error}"
            self.store.note(Event.SECOND_THOUGHTS, version=label, reason=said)
            return said  # looked at again: an update may put a good version there
        thoughts.save(self.store.state, version, thought)
        other = self.standby.label(thought.other)
        self.store.note(
            Event.SECOND_THOUGHTS, version=label, from_version=other, reason=f"{reason}; {other} is tried once instead"
        )
        self.standby.arm(thought.other)
        thought = thoughts.ended(thought, Stage.ARMED)
        thoughts.save(self.store.state, version, thought)
        return self._go(version, thought, bad_for)

    def _go(self, version: str, thought: Thought, bad_for: float) -> str:
        """Reboot, in the boot in which the standby was armed and never again."""
        label = self.standby.label(version)
        if thought.boot != self.host.boot_id():
            return f"{label} was booted all the same; it stays"
        try:
            self.reboot(bad_for < PATIENCE)
        except OSError as error:
            return f"{label} is bad ({thought.reason}); the reboot did not happen yet: {error}"
        return f"{label} is bad ({thought.reason}); {self.standby.label(thought.other)} is tried"


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def unit_facts(units: tuple[str, ...]) -> UnitFacts:
    """What systemd says of units; nothing when it does not answer."""
    try:
        return systemd.show(units, "ActiveState", "SubState", "NRestarts") if units else {}
    except systemd.NoAnswer:
        return {}


def assemble(config: Config, host: Host, layout: Layout) -> Watch:
    """The watch of this machine."""
    state = Path(config.paths.state)
    store = Store(state, Path(config.paths.runtime))
    return Watch(
        host,
        config,
        store,
        standby_of(config, host, layout, store),
        systemctl_reboot,
        unit_facts,
        lambda: network.trouble(host, config.repository),
        boot_clock,
    )


def defaults(host: Host) -> Config:
    """What applies where no configuration can be read; the boot entries tell what kind of host this is."""
    generations = Generations()
    with contextlib.suppress(OSError):
        generations = Generations(enable=bool(entries(host.path(f"{generations.boot}/loader/entries"))))
    return Config(generations=generations)


def standby_of(config: Config, host: Host, layout: Layout, store: Store) -> Standby:
    """What this kind of host could boot instead."""
    snapshots = Snapshots(host, store.state / "snapshots", config.snapshot.databases)
    if config.generations.enable:
        return GenerationStandby(host, config.generations, store, snapshots)
    return SlotStandby(host, layout, store, snapshots)


@contextlib.contextmanager
def _spoken() -> Iterator[None]:
    try:
        yield
    except (DeviceError, layouts.LayoutError, ConfigError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(1)


def main() -> None:
    """`appliance-update-watch`: 0 looked, 1 this device cannot be judged."""
    host = Host()
    try:
        config, _ = load(Path(sys.argv[1]) if len(sys.argv) > 1 else CONFIG_FILE)
    except ConfigError as error:  # a configuration that the new version cannot read may be what is bad
        print(f"{error}; the defaults apply", file=sys.stderr)
        config = defaults(host)
    with _spoken():
        print(assemble(config, host, layouts.load(Path(config.paths.layout))).look())
