"""The devices on the clinic's network: list, one device, and what people decide about it."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from appliance_protocol.inventory import Device, DeviceClass, DeviceEvent, Presence, ScanPolicy, ScanSummary
from appliance_protocol.local_models import ScannerStatus
from local_portal.web import address_of, form_of, portal_of, render, say, see_other, session_of

PAGE = 100
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_PRESENCE = list(Presence)
_SORTS = {
    "name": lambda device: (device.name.casefold(), device.id),
    "class": lambda device: (device.device_class.value, device.name.casefold()),
    "address": lambda device: _address_key(device),
    "vendor": lambda device: (not device.vendor, device.vendor.casefold()),
    "seen": lambda device: -device.last_seen,
    "presence": lambda device: (_PRESENCE.index(device.presence), device.name.casefold()),
}


def _address_key(device: Device) -> tuple[bool, list[int], str]:
    first = device.ip_addresses[0] if device.ip_addresses else ""
    parts = first.split(".")
    numbers = [int(part) for part in parts] if all(part.isascii() and part.isdigit() and len(part) < 4
                                                   for part in parts) else []
    return not first, numbers, first


def by_class(devices: Iterable[Device]) -> list[tuple[DeviceClass, int]]:
    """How many devices of each class there are, in the order of the classes."""
    counts = Counter(device.device_class for device in devices)
    return [(kind, counts[kind]) for kind in DeviceClass if counts[kind]]


def _choose(devices: list[Device], words: str, kind: str, presence: str, sort: str) -> list[Device]:
    wanted = words.casefold().split()
    chosen = [
        device for device in devices
        if (not kind or device.device_class == kind) and (not presence or device.presence == presence)
        and all(word in _searchable(device) for word in wanted)
    ]
    return sorted(chosen, key=_SORTS.get(sort, _SORTS["name"]))


def _searchable(device: Device) -> str:
    return " ".join((device.name, device.vendor, *device.ip_addresses, *device.mac_addresses,
                     *(service.name for service in device.services))).casefold()


async def device_list(request: Request) -> Response:
    """The table; filter, class, presence, order and page come from the address, so they work without JavaScript."""
    portal, query = portal_of(request), request.query_params
    status, devices, scans = await asyncio.gather(
        portal.scanner.read("/v1/status", ScannerStatus),
        portal.scanner.read("/v1/devices", list[Device]),
        portal.scanner.read("/v1/scans", list[ScanSummary]),
    )
    known = devices.value or []
    words, kind, presence = query.get("q", "")[:100], query.get("class", ""), query.get("presence", "")
    kind = kind if kind in set(DeviceClass) else ""
    presence = presence if presence in set(Presence) else ""
    sort = query.get("sort", "name") if query.get("sort", "name") in _SORTS else "name"
    chosen = _choose(known, words, kind, presence, sort)
    pages = max(1, -(-len(chosen) // PAGE))
    asked = query.get("page", "1")
    page = min(pages, max(1, int(asked))) if asked.isascii() and asked.isdigit() and len(asked) < 7 else 1
    return render(
        request, "devices.html", status=status, devices=devices, scans=scans, words=words, kind=kind,
        presence=presence, sort=sort, chosen=chosen[(page - 1) * PAGE : page * PAGE], count=len(chosen),
        page=page, pages=pages, classes=by_class(known),
        filters={"q": words, "class": kind, "presence": presence, "sort": sort},
    )


def _device_id(request: Request) -> str:
    found: str = request.path_params["device_id"]
    if not _ID.fullmatch(found):
        raise HTTPException(404, "No device has such an identifier.")
    return found


async def device_detail(request: Request) -> Response:
    """One device: what it is and why we think so, its services and its history."""
    portal, device_id = portal_of(request), _device_id(request)
    device, history = await asyncio.gather(
        portal.scanner.read(f"/v1/devices/{device_id}", Device),
        portal.scanner.read(f"/v1/devices/{device_id}/history", list[DeviceEvent]),
    )
    if device.value is None and "refused: 404" in device.problem:
        raise HTTPException(404, "The scanner does not know this device; it may have been merged with another.")
    events = sorted(history.value or [], key=lambda event: -event.at)[:200]
    return render(request, "device.html", 200 if device.ok else 503, device=device, history=history, events=events)


async def set_policy(request: Request) -> Response:
    """How far the scanner may go with this device."""
    device_id, fields = _device_id(request), await form_of(request)
    policy = fields.get("policy", "")
    if policy not in set(ScanPolicy):
        raise HTTPException(422, "Choose one of the three policies.")
    answer = await portal_of(request).scanner.call("PUT", f"/v1/devices/{device_id}/policy", Device,
                                                   body={"policy": policy})
    return _told(request, device_id, f"scan policy set to {policy}", answer.problem)


async def set_class(request: Request) -> Response:
    """What this device is, by a person's word; or give it back to the scanner."""
    device_id, fields = _device_id(request), await form_of(request)
    chosen = fields.get("device_class", "")
    if chosen and chosen not in set(DeviceClass):
        raise HTTPException(422, "Choose one of the classes.")
    answer = await portal_of(request).scanner.call("PUT", f"/v1/devices/{device_id}/class", Device,
                                                   body={"device_class": chosen or None})
    done = f"class set to {chosen}" if chosen else "class given back to the scanner"
    return _told(request, device_id, done, answer.problem)


def _told(request: Request, device_id: str, done: str, problem: str) -> Response:
    portal = portal_of(request)
    what = f"{device_id}: {done}" + (f" failed: {problem}" if problem else "")
    portal.record(session_of(request).account, address_of(request), "device", what)
    say(request, f"Not changed. {problem}" if problem else f"Saved: {done}.")
    return see_other(f"/devices/{device_id}")


async def start_scan(request: Request) -> Response:
    """Ask the scanner for a scan now."""
    await form_of(request)
    portal = portal_of(request)
    answer = await portal.scanner.call("POST", "/v1/scans", ScanSummary)
    portal.record(session_of(request).account, address_of(request), "scan", answer.problem or "started")
    say(request, f"No scan was started. {answer.problem}" if answer.problem
        else "A scan is running. It is gentle and takes about a minute.")
    return see_other("/devices")


ROUTES = [
    Route("/devices", device_list),
    Route("/devices/{device_id}", device_detail),
    Route("/devices/{device_id}/policy", set_policy, methods=["POST"]),
    Route("/devices/{device_id}/class", set_class, methods=["POST"]),
    Route("/scans", start_scan, methods=["POST"]),
]
