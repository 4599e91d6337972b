"""The portal's neighbours, real ones: services on unix sockets that keep to the contract, and that can be made to fail.

Times in the fixtures are seconds relative to now.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from appliance_protocol.clock import ClockReading, ClockState
from appliance_protocol.envelope import Envelope, PayloadType, seal
from appliance_protocol.evidence import GENESIS, EvidenceBundle, EvidenceCause, Release, payload_digest
from appliance_protocol.keys import PrivateKey
from appliance_protocol.verdict import CheckResult

FIXTURES = Path(__file__).parent / "fixtures"
_TIMES = frozenset({
    "at", "checked_at", "expires_at", "first_seen", "last_seen", "started_at", "finished_at", "checks_at",
    "conforming_since", "last_checkin_at", "evidence_written_at", "oldest_at", "last_scan_at", "next_scan_at",
    "updated_at", "last_check_at",
})
BUNDLES = 60


def fixture(name: str, now: float | None = None) -> Any:
    """A fixture with its times made absolute."""
    return _absolute(json.loads((FIXTURES / f"{name}.json").read_text()), time.time() if now is None else now)


def _absolute(value: Any, now: float) -> Any:
    if isinstance(value, list):
        return [_absolute(item, now) for item in value]
    if isinstance(value, dict):
        return {key: now + item if key in _TIMES and isinstance(item, int | float) else _absolute(item, now)
                for key, item in value.items()}
    return value


class Peer:
    """One service on a unix socket, in a thread of its own. `mood` decides how it behaves."""

    def __init__(self, path: Path, routes: list[Route]) -> None:
        self.path = path
        self.mood = "fine"
        self.asked: list[tuple[str, str, bytes]] = []
        self._app = Starlette(routes=routes)
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI: misbehave as told, else serve the contract."""
        body = await Request(scope, receive).body()
        self.asked.append((scope["method"], scope["path"], body))
        if self.mood == "slow":
            await asyncio.sleep(3)
        answers: dict[str, Callable[[], Response]] = {
            "garbage": lambda: Response(b"\x00\xff<html>not json", media_type="application/json"),
            "wrong": lambda: JSONResponse({"version": 7, "score": []}),
            "error": lambda: JSONResponse({"error": "the disk is full"}, 507),
            "huge": lambda: Response(b"[" + b" " * (5 * 1024 * 1024) + b"]", media_type="application/json"),
        }

        async def again() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        await (answers[self.mood]() if self.mood in answers else self._app)(scope, again, send)

    def start(self) -> None:
        """Listen; returns when connections are taken."""
        settings = uvicorn.Config(self, uds=str(self.path), log_level="error", lifespan="off", ws="none")
        server = self._server = uvicorn.Server(settings)
        self._thread = threading.Thread(target=server.run, daemon=True)
        self._thread.start()
        until = time.monotonic() + 10
        while not server.started:
            assert time.monotonic() < until, f"{self.path}: the peer did not start"
            time.sleep(0.01)

    def vanish(self) -> None:
        """Be down: nobody is at that address."""
        self.path.rename(self.path.with_suffix(".gone"))

    def recover(self) -> None:
        """Be as on the first day."""
        if self.path.with_suffix(".gone").exists():
            self.path.with_suffix(".gone").rename(self.path)
        self.mood = "fine"
        self.asked.clear()
        self.renew()

    def renew(self) -> None:
        """Read the fixtures again, with the times of now."""

    def stop(self) -> None:
        """End for good."""
        if self._server and self._thread:
            self._server.should_exit = True
            self._server.force_exit = True
            self._thread.join(10)
        self.path.unlink(missing_ok=True)


class Agent(Peer):
    """The compliance agent's API."""

    def __init__(self, path: Path) -> None:
        self.key = PrivateKey.generate()
        self.renew()
        self._bundles = _chain(self.key, self.status["device_id"], self.status["evidence_sequence"])
        self.envelopes = dict(self._bundles)
        super().__init__(path, [
            Route("/v1/status", lambda _: JSONResponse(self.status)),
            Route("/v1/checks", lambda _: JSONResponse(self.checks)),
            Route("/v1/checks/run", self._run, methods=["POST"]),
            Route("/v1/checks/{check_id}/history", self._history),
            Route("/v1/score/history", self._scores),
            Route("/v1/evidence", self._evidence),
            Route("/v1/evidence/{sequence:int}", self._bundle),
        ])

    def renew(self) -> None:
        """Read the fixtures again, with the times of now."""
        self.status: dict[str, Any] = fixture("agent") | {"public_key": self.key.public.text}
        self.checks: list[dict[str, Any]] = fixture("checks")
        self.envelopes = dict(getattr(self, "_bundles", {}))

    def set_verdict(self, check_id: str, verdict: str, **other: Any) -> None:
        """Let one check say something else, and the status with it."""
        for check in self.checks:
            if check["check_id"] == check_id:
                check.update(verdict=verdict, **other)
        met = sum(check["verdict"] in ("pass", "fixed") for check in self.checks)
        counted = sum(check["verdict"] in ("pass", "fixed", "fail", "error", "unknown") for check in self.checks)
        self.status["score"] = {"conforming": met, "counted": counted}
        if met < counted:
            self.status["conforming_since"] = None

    def _run(self, request: Request) -> Response:
        for check in self.checks:
            check["checked_at"], check["expires_at"] = time.time(), time.time() + 7200
        self.status["checks_at"] = time.time()
        return JSONResponse(self.checks)

    def _history(self, request: Request) -> Response:
        found = [check for check in self.checks if check["check_id"] == request.path_params["check_id"]]
        if not found:
            return JSONResponse({"error": "there is no such check"}, 404)
        limit = int(request.query_params.get("limit", "50"))
        past = []
        for age in range(limit):
            result = dict(found[0])
            result["checked_at"] -= age * 3600
            result["expires_at"] -= age * 3600
            if age and (age + len(result["check_id"])) % 17 == 0:
                result |= {"verdict": "fail", "reason": "It was not so at that time."}
            past.append(result)
        return JSONResponse(past)

    def _scores(self, request: Request) -> Response:
        days, now = int(request.query_params.get("days", "30")), time.time()
        points = []
        for hour in range(min(days, 28) * 24, 0, -3):
            dip = 3 if 560 < hour < 590 else 1 if 216 < hour < 290 else 0
            if not 330 < hour < 350:  # the appliance was off
                points.append({"at": now - hour * 3600, "conforming": 18 - dip, "counted": 18})
        points.append({"at": now - 60, **self.status["score"]})
        return JSONResponse(points)

    def _evidence(self, request: Request) -> Response:
        limit = int(request.query_params.get("limit", "25"))
        before = int(request.query_params.get("before", str(2**52)))
        numbers = [number for number in sorted(self.envelopes, reverse=True) if number < before][:limit]
        return JSONResponse([self._entry(number) for number in numbers])

    def _entry(self, number: int) -> dict[str, Any]:
        age, raw = (self.status["evidence_sequence"] - number) * 3600, self.envelopes[number].to_bytes()
        written = self.status["evidence_written_at"] - age
        return {
            "sequence": number, "written_at": written, "cause": "change" if number % 9 == 0 else "schedule",
            "digest": payload_digest(self.envelopes[number].payload_bytes), "size": len(raw),
            "clock": "synchronised", "verdict_counts": {"pass": 18, "notapplicable": 1}, "sent_at": written + 4,
        }

    def _bundle(self, request: Request) -> Response:
        found = self.envelopes.get(request.path_params["sequence"])
        if found is None:
            return JSONResponse({"error": "there is no such bundle"}, 404)
        return Response(found.to_bytes(), media_type="application/json")


def _chain(key: PrivateKey, device_id: str, last: int) -> dict[int, Envelope]:
    results = tuple(msgspec.convert(item, CheckResult) for item in fixture("checks")[:2])
    made: dict[int, Envelope] = {}
    previous = GENESIS
    for sequence in range(last - BUNDLES + 1, last + 1):
        bundle = EvidenceBundle(
            device_id, sequence, previous, EvidenceCause.SCHEDULE,
            ClockReading(1.7e9 + sequence, 1.0, "boot", ClockState.SYNCHRONISED), Release("t640", "2026.11.2"),
            "2026.11.2", "0" * 64, "PT1H", results)
        made[sequence] = seal(bundle, PayloadType.EVIDENCE, key)
        previous = payload_digest(made[sequence].payload_bytes)
    return made


class Scanner(Peer):
    """The network scanner's API."""

    def __init__(self, path: Path) -> None:
        self.renew()
        super().__init__(path, [
            Route("/v1/status", lambda _: JSONResponse(self.status)),
            Route("/v1/devices", lambda _: JSONResponse(self.devices)),
            Route("/v1/devices/{id}", self._device),
            Route("/v1/devices/{id}/history", lambda _: JSONResponse(fixture("events"))),
            Route("/v1/devices/{id}/policy", self._policy, methods=["PUT"]),
            Route("/v1/devices/{id}/class", self._class, methods=["PUT"]),
            Route("/v1/scans", self._start, methods=["POST"]),
            Route("/v1/scans", lambda _: JSONResponse(self.scans)),
        ])

    def renew(self) -> None:
        """Read the fixtures again, with the times of now."""
        self.status: dict[str, Any] = fixture("scanner")
        self.devices: list[dict[str, Any]] = fixture("devices")
        self.scans: list[dict[str, Any]] = fixture("scans")

    def device(self, name: str) -> dict[str, Any]:
        """A device by its name."""
        return next(device for device in self.devices if device["name"] == name)

    def _found(self, request: Request) -> dict[str, Any] | None:
        return next((device for device in self.devices if device["id"] == request.path_params["id"]), None)

    def _device(self, request: Request) -> Response:
        found = self._found(request)
        return JSONResponse(found) if found else JSONResponse({"error": "there is no such device"}, 404)

    async def _policy(self, request: Request) -> Response:
        found = self._found(request)
        if found is None:
            return JSONResponse({"error": "there is no such device"}, 404)
        found["policy"] = (await request.json())["policy"]
        return JSONResponse(found)

    async def _class(self, request: Request) -> Response:
        found = self._found(request)
        if found is None:
            return JSONResponse({"error": "there is no such device"}, 404)
        chosen = (await request.json())["device_class"]
        found["class_locked"] = chosen is not None
        found["device_class"] = chosen or found["device_class"]
        return JSONResponse(found)

    async def _start(self, request: Request) -> Response:
        self.status["scanning"] = True
        return JSONResponse(self.scans[0] | {"id": "scan-0220", "finished_at": None}, 202)


class Updater:
    """The updater's two files."""

    def __init__(self, directory: Path) -> None:
        self.status_file = directory / "status.json"
        self.history_file = directory / "history.jsonl"
        self.recover()

    def recover(self) -> None:
        """Be as on the first day."""
        self.write(fixture("updater"))
        self.history_file.write_text("".join(json.dumps(event) + "\n" for event in fixture("updates")))

    def write(self, status: dict[str, Any]) -> None:
        """Replace the status."""
        self.status_file.write_text(json.dumps(status))
