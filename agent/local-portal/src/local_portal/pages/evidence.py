"""The signed evidence on this appliance: the list, whether the chain holds, one bundle to take away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from appliance_protocol.envelope import Envelope, EnvelopeError
from appliance_protocol.evidence import ChainError, ChainHead, follow, open_bundle, payload_digest
from appliance_protocol.keys import KeyFormatError, PublicKey
from appliance_protocol.local_models import AgentStatus, EvidenceEntry
from local_portal.backends import Reading
from local_portal.judgement import Level
from local_portal.portal import Portal
from local_portal.web import portal_of, render

PAGE = 25


@dataclass(frozen=True)
class ChainState:
    """What can be said of the chain, in one sentence, and the faults if any."""

    level: Level
    sentence: str
    faults: tuple[str, ...] = ()


def numbering(entries: Sequence[EvidenceEntry]) -> ChainState:
    """Whether the listed numbers follow each other without a gap; no signature is looked at."""
    if not entries:
        return ChainState(Level.UNKNOWN, "There is no evidence on this appliance yet.")
    numbers = [entry.sequence for entry in entries]
    faults = tuple(f"After number {later} comes {earlier}." for later, earlier in pairwise(numbers)
                   if later != earlier + 1)
    if faults:
        return ChainState(Level.ATTENTION, "The numbers do not follow each other.", faults)
    return ChainState(Level.NOTE, f"Numbers {numbers[-1]} to {numbers[0]} follow each other without a gap. "
                                  "Signatures and links have not been verified on this page.")


def verify(envelopes: Sequence[Envelope], status: AgentStatus) -> ChainState:
    """Verify bundles, oldest first: signature by this device's key, canonical form, number, link to the one before."""
    try:
        key = PublicKey.from_text(status.public_key)
    except KeyFormatError:
        return ChainState(Level.UNKNOWN, "The agent does not say which key signs, so nothing could be verified.")
    head: ChainHead | None = None
    faults: list[str] = []
    for envelope in envelopes:
        try:
            bundle, digest = open_bundle(envelope, status.device_id, [key])
            if head is not None:
                follow(head, bundle, digest)
            head = ChainHead(bundle.sequence, digest)
        except ChainError as error:
            faults.append(str(error))
    if faults:
        return ChainState(Level.ATTENTION, f"{len(faults)} of {len(envelopes)} bundles did not verify.", tuple(faults))
    last = head.sequence if head else 0
    return ChainState(Level.RIGHT, f"Bundles {last - len(envelopes) + 1} to {last} verified just now: signed by this "
                                   "appliance, unaltered, each linked to the one before.")


async def _verify_listed(portal: Portal, entries: Sequence[EvidenceEntry], status: AgentStatus) -> ChainState:
    answers = await asyncio.gather(*(
        portal.agent.read(f"/v1/evidence/{entry.sequence}", Envelope) for entry in reversed(entries)))
    missing = [answer.problem for answer in answers if answer.value is None]
    if missing:
        return ChainState(Level.UNKNOWN, f"{len(missing)} of {len(answers)} bundles could not be read: {missing[0]}")
    envelopes = [answer.value for answer in answers if answer.value is not None]
    state = await asyncio.to_thread(verify, envelopes, status)
    if state.level is not Level.RIGHT:
        return state
    for entry, envelope in zip(reversed(entries), envelopes, strict=True):
        if payload_digest(envelope.payload_bytes) != entry.digest.removeprefix("sha256:"):
            return ChainState(Level.ATTENTION, f"Bundle {entry.sequence} is not the one that the list names.")
    return state


async def evidence(request: Request) -> Response:
    """The list, newest first; with `verify=1` what it lists is verified here and now."""
    portal, query = portal_of(request), request.query_params
    before = query.get("before", "")
    before = before if before.isascii() and before.isdigit() and len(before) < 16 else ""
    resource = f"/v1/evidence?limit={PAGE}" + (f"&before={before}" if before else "")
    status, entries = await asyncio.gather(
        portal.agent.read("/v1/status", AgentStatus), portal.agent.read(resource, list[EvidenceEntry]))
    listed = sorted(entries.value or [], key=lambda entry: -entry.sequence)[:PAGE]
    asked = "verify" in query
    return render(request, "evidence.html", status=status, entries=entries, listed=listed, before=before, asked=asked,
                  chain=await _state(portal, listed, status, asked), older=listed[-1].sequence if listed else 0)


async def _state(
    portal: Portal, listed: Sequence[EvidenceEntry], status: Reading[AgentStatus], asked: bool
) -> ChainState:
    state = numbering(listed)
    if asked and listed and status.value is not None and state.level is not Level.ATTENTION:
        return await _verify_listed(portal, listed, status.value)
    return state


async def _envelope(request: Request) -> tuple[int, Envelope]:
    sequence: int = request.path_params["sequence"]
    missing = HTTPException(404, "There is no bundle of that number.")
    if sequence > 2**53:
        raise missing
    answer = await portal_of(request).agent.read(f"/v1/evidence/{sequence}", Envelope)
    if answer.value is None:
        raise missing if "refused: 404" in answer.problem else HTTPException(503, answer.problem)
    return sequence, answer.value


async def download(request: Request) -> Response:
    """One bundle as the signed envelope it is."""
    sequence, envelope = await _envelope(request)
    return Response(envelope.to_bytes(), media_type="application/json", headers={
        "Content-Disposition": f'attachment; filename="evidence-{sequence:08d}.dsse.json"'})


async def bundle(request: Request) -> Response:
    """One bundle's contents, indented, to be read by a person."""
    sequence, envelope = await _envelope(request)
    try:
        shown = json.dumps(json.loads(envelope.payload_bytes), indent=2, ensure_ascii=False)
    except (EnvelopeError, ValueError, RecursionError):
        shown = ""
    return render(request, "bundle.html", sequence=sequence, envelope=envelope, shown=shown)


ROUTES = [
    Route("/evidence", evidence),
    Route("/evidence/{sequence:int}", bundle),
    Route("/evidence/{sequence:int}/download", download),
]
