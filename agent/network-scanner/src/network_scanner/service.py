"""The service's state: listens always, sweeps and scans by the schedule, obeys pause and quiet hours at once."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import logging
import random
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from appliance_protocol.inventory import DeviceClass, ScannerStatus, ScanPolicy, ScanSummary
from network_scanner import VERSION
from network_scanner.addresses import Network4
from network_scanner.anomalies import Watch
from network_scanner.asset import Asset
from network_scanner.config import Exclusions, Loaded, is_quiet
from network_scanner.inventory import Inventory
from network_scanner.link import Link, LinkError, default_interface, is_running, open_link
from network_scanner.listener import Listener
from network_scanner.oui import OuiError, VendorTable
from network_scanner.pacer import Pacer
from network_scanner.scan import Scanner, sweep_network
from network_scanner.store import Store, StoreError

log = logging.getLogger("network-scanner")

SAVE_SECONDS = 10.0
PRUNE_SECONDS = 86400.0
FIRST_SCAN = (4.0, 10.0)
"""Seconds after the start at which the first scan may begin: long enough to have listened first."""
FOREVER = "forever"


class Service:
    """The state of the service and what may be done with it. Everything runs on one event loop."""

    def __init__(self, loaded: Loaded) -> None:
        """Open the store. Raises `StoreError`."""
        self.config, self.started_at = loaded.config, time.time()
        self.problems: dict[str, str] = dict(zip(("config",), [" ".join(loaded.warnings)], strict=False))
        self.store = Store(Path(self.config.state_directory) / "devices.db")
        self.inventory = Inventory(self._vendor_table())
        self.inventory.load(self.store.load())
        self.exclusions = Exclusions.of(self.config)
        self.pacer = Pacer(self.config.rate.packets_per_second, self.config.rate.packets_per_second_per_host)
        self.watch = Watch(self.inventory)
        self.link: Link | None = None
        self.listener: Listener | None = None
        self.running: ScanSummary | None = None
        self._scan_task: asyncio.Task[None] | None = None
        self._paused = self.store.setting("paused_until")
        self._saved_at, self._pruned_at = 0.0, 0.0
        self.next_sweep, self.next_scan = self._first_scan()

    def _vendor_table(self) -> Callable[[str], str]:
        try:
            return VendorTable.load().vendor
        except (OuiError, OSError) as error:
            self.problems["vendors"] = f"The vendor table cannot be read ({error}); reinstall the package."
            return lambda mac: ""

    def _first_scan(self) -> tuple[float, float]:
        """When to sweep and to scan first: a restart does not repeat a scan that was done a moment ago."""
        soon = self.started_at + random.uniform(*FIRST_SCAN)  # noqa: S311 - spreading, not secrecy
        done = [scan.finished_at for scan in self.store.scans(5) if scan.finished_at and not scan.error]
        later = max(done, default=0.0) + self.config.schedule.scan_seconds
        # A clock that was wrong (1970 at boot) must neither delay nor repeat the scan by decades.
        return soon, later if soon < later <= soon + self.config.schedule.scan_seconds else soon

    def status(self) -> ScannerStatus:
        """How the service is doing, for people."""
        scans = [scan.finished_at for scan in self.store.scans(1)]
        until = float(self._paused) if self._paused and self._paused != FOREVER else None
        return ScannerStatus(
            version=VERSION, started_at=self.started_at, interface=self.link.name if self.link else "",
            network=str(self.link.network) if self.link else "", device_count=len(self.inventory.assets),
            scanning=self.running is not None, last_scan_at=scans[0] if scans else None,
            next_scan_at=None if self.refusal() else min(self.next_sweep, self.next_scan),
            problems=(*filter(None, self.problems.values()), *self._anomalies()),
            paused=bool(self._paused), paused_until=until,
        )

    def _anomalies(self) -> list[str]:
        """What was wrong with the network in the last day, the newest first."""
        recent = [event for event in self.store.history("", 5) if event.at > time.time() - 86400]
        return [f"Network: {event.detail}." for event in recent]

    def refusal(self) -> str:
        """Why nothing may be sent now, or an empty string."""
        if self._paused:
            return "The scanner is paused; `network-scanner resume` or the portal ends the pause."
        if is_quiet(self.config.schedule, datetime.datetime.now().astimezone()):
            spans = ", ".join(self.config.schedule.quiet_hours)
            return f"It is within the quiet hours ({spans}); nothing is sent until they end."
        if self.link is None:
            return self.problems.get("link", "") or "There is no network interface yet."
        return ""

    async def pause(self, paused: bool, minutes: int | None = None) -> None:
        """Stop sending at once (a running scan is broken off) and remember it, or go on. Raises `StoreError`."""
        self._paused = "" if not paused else str(time.time() + 60 * minutes) if minutes else FOREVER
        if paused:
            await self._break_off("paused by a person")
        else:
            self.next_sweep = min(self.next_sweep, time.time() + FIRST_SCAN[0])
        self.store.set_setting("paused_until", self._paused)

    def set_policy(self, asset_id: str, policy: ScanPolicy) -> Asset:
        """A person's policy, in force before this returns. Raises `KeyError` or `StoreError`."""
        asset = self.inventory.set_policy(asset_id, policy, time.time())
        self.save()
        return asset

    def set_class(self, asset_id: str, device_class: DeviceClass | None) -> Asset:
        """A person's word on the class, or its withdrawal. Raises `KeyError` or `StoreError`."""
        asset = self.inventory.set_class(asset_id, device_class, time.time())
        self.save()
        return asset

    def save(self) -> None:
        """Write what changed. Raises `StoreError`; nothing is lost, the next call writes it."""
        self.store.save(self.inventory)
        self._saved_at = time.monotonic()

    def start_scan(self, *, full: bool = True) -> ScanSummary:
        """Start a scan in the background; returns the running one if there is one."""
        if self.running is not None:
            return self.running
        assert self.link is not None and self.listener is not None, "refusal() was not asked"
        networks = self._networks(self.link)
        scanner = Scanner(
            self.link, self.listener, self.pacer, self.inventory, self.watch, self.exclusions, self.config.probing
        )
        shown = ", ".join(map(str, networks))
        self.running = ScanSummary(secrets.token_hex(8), time.time(), None, shown, 0, 0)
        self._scan_task = asyncio.create_task(self._scan(scanner, networks, full=full))
        return self.running

    def _networks(self, link: Link) -> list[Network4]:
        if self.config.networks:
            return [ipaddress.IPv4Network(entry, strict=False) for entry in self.config.networks]
        network = sweep_network(link)
        self.problems["size"] = "" if network == link.network else (
            f"The network {link.network} is too large to sweep; only {network} is. Set `networks` to what matters."
        )
        return [network]

    async def _scan(self, scanner: Scanner, networks: list[Network4], *, full: bool) -> None:
        assert self.running is not None
        summary, errors = self.running, list[str]()
        try:
            for network in networks:
                part = await scanner.run(network, full=full)
                summary = replace(
                    summary, hosts_up=summary.hosts_up + part.hosts_up,
                    packets_sent=summary.packets_sent + part.packets_sent, counts=part.counts,
                )
                errors += [part.error] if part.error else []
        except asyncio.CancelledError:
            errors.append("broken off")
            raise
        finally:
            self.problems["scan"] = f"The last scan failed: {errors[0]}" if errors and errors[0] != "broken off" else ""
            summary = replace(summary, finished_at=time.time(), error="; ".join(errors))
            # Sweeps are not listed as scans: one every ten minutes would bury the inventories.
            self._finish(summary, keep=full)

    def _finish(self, summary: ScanSummary, *, keep: bool) -> None:
        self.running = None
        schedule = self.config.schedule
        self.next_sweep = time.time() + self._jittered(schedule.sweep_seconds)
        if keep:
            self.next_scan = time.time() + self._jittered(schedule.scan_seconds)
        try:
            if keep:
                self.store.save_scan(summary)
            self.save()
            self.problems["store"] = ""
        except StoreError as error:
            self.problems["store"] = f"{error}."

    def _jittered(self, seconds: float) -> float:
        jitter = self.config.schedule.jitter
        return seconds * random.uniform(1 - jitter, 1 + jitter)  # noqa: S311 - spreading, not secrecy

    async def _break_off(self, reason: str) -> None:
        task = self._scan_task
        if task is not None and not task.done():
            log.info("scan broken off: %s", reason)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def tick(self) -> None:
        """One turn of the main loop; the watchdog is fed only after it."""
        now = time.time()
        if self._paused and self._paused != FOREVER and now >= float(self._paused):
            await self.pause(False)
        self._keep_listening()
        refusal = self.refusal()
        if refusal and self.running is not None:
            await self._break_off(refusal)
        elif not refusal and self.running is None:
            # A clock set back must not postpone everything by as much.
            self.next_scan = min(self.next_scan, now + 1.5 * self.config.schedule.scan_seconds)
            self.next_sweep = min(self.next_sweep, now + 1.5 * self.config.schedule.sweep_seconds)
            if now >= self.next_scan:
                self.start_scan()
            elif now >= self.next_sweep:
                self.start_scan(full=False)
        self._housekeeping()

    def _keep_listening(self) -> None:
        """Have a listener on the right interface, whatever happens to cables, DHCP and names."""
        if self.link is not None and self.listener is not None:
            try:
                same = open_link(self.link.name) == self.link
            except LinkError:
                same = False
            if same and is_running(self.link.name) and not self.listener.error:
                return
            self.listener.close()
            self.link, self.listener = None, None
        name = self.config.interface or default_interface()
        try:
            if not name:
                raise LinkError("there is no default route yet; plug in the network cable or set `interface`")
            link = open_link(name)
            listener = Listener(link)
        except LinkError as error:
            self.problems["link"] = f"Not listening: {error}."
            return
        self.watch.gateway = link.gateway
        self._remember_gateway(link)
        listener.handlers.append(self.watch.take)
        listener.asked.append(self.pacer.record)
        self.link, self.listener, self.problems["link"] = link, listener, ""
        log.info("listening on %s (%s)", link.name, link.network)

    def _remember_gateway(self, link: Link) -> None:
        asset = self.inventory.at_ip(link.gateway) if link.gateway else None
        if asset is not None and asset.macs:
            newest = max(asset.macs, key=lambda mac: asset.macs[mac].last)
            self.watch.remember(link.gateway, newest, asset.macs[newest].last)

    def _housekeeping(self) -> None:
        clock = time.monotonic()
        try:
            if clock - self._saved_at >= SAVE_SECONDS:
                self.save()
                self.problems["store"] = ""
            problem = self.store.tend()
            self.problems["schema"] = f"{problem}." if problem else ""
            if clock - self._pruned_at >= PRUNE_SECONDS or not self._pruned_at:
                self._pruned_at = clock
                for gone in self.store.prune(time.time()):
                    if gone in self.inventory.assets:
                        self.inventory.forget(self.inventory.assets[gone])
        except StoreError as error:
            self._saved_at = clock
            self.problems["store"] = f"{error}."

    async def close(self) -> None:
        """Break off, write, close."""
        await self._break_off("the service stops")
        if self.listener is not None:
            self.listener.close()
        with contextlib.suppress(StoreError):
            self.save()
        self.store.close()
