"""The pages: what they show, and that each copes when one of the neighbours is down, slow or talks nonsense."""

from __future__ import annotations

import html
import json
import re
import time
from pathlib import Path

import pytest
from starlette.routing import Route

from local_portal.app import routes
from tests.local_portal.conftest import Desk, Neighbours
from tests.local_portal.test_text import HOSTILE

PAGES = ["/", "/devices", "/devices/dev-0016", "/compliance", "/compliance?framework=soc2",
         "/compliance/checks/secure_boot", "/evidence", "/evidence?verify=1", "/evidence/1284", "/updates", "/system",
         "/account"]


async def page(desk: Desk, path: str, status: int = 200) -> str:
    answer = await desk.client.get(path)
    assert answer.status_code == status, answer.text
    return re.sub(r"\s+", " ", answer.text)


async def test_every_route_has_a_page_in_these_tests() -> None:
    known = {route.path for route in routes() if isinstance(route, Route) and "GET" in (route.methods or ())}
    elsewhere = {"/healthz", "/ca.crt", "/claim", "/login", "/evidence/{sequence:int}/download", "/static/{name}"}
    shown = {"/", "/devices", "/devices/{device_id}", "/compliance", "/compliance/checks/{check_id}", "/evidence",
             "/evidence/{sequence:int}", "/updates", "/system", "/account"}
    assert known == elsewhere | shown


@pytest.mark.parametrize("path", PAGES)
async def test_every_page_has_one_heading_a_title_and_landmarks(desk: Desk, path: str) -> None:
    text = await page(desk, path)
    assert text.count("<h1") == 1 and text.count("<main") == 1 and text.count("<title>") == 1
    assert '<html lang="en">' in text


@pytest.mark.parametrize("path", [*PAGES, "/login", "/claim"])
async def test_no_page_has_inline_script_or_style_or_loads_from_elsewhere(claimed: Desk, desk: Desk, path: str) -> None:
    text = (await desk.client.get(path, follow_redirects=True)).text
    assert not re.search(r"<script(?![^>]*\bsrc=)", text)
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", text)
    assert not re.search(r"""(?:src|href|action)=["'](?:https?:)?//""", text)


async def test_the_overview_answers_the_one_question(desk: Desk) -> None:
    text = await page(desk, "/")
    assert '<h1 id="answer">You are all right</h1>' in text
    assert "since <time" in text and "18 of 18 checks pass" in text and "Nothing to do." in text


async def test_a_failed_check_is_what_to_do_next(desk: Desk, neighbours: Neighbours) -> None:
    neighbours.agent.set_verdict("secure_boot", "fail", reason="Secure Boot is off.")
    text = await page(desk, "/")
    assert "One thing needs attention" in text
    assert '<a href="/compliance/checks/secure_boot">' in text and "Switch Secure Boot on" in text
    assert "You are all right" not in text


FAULTS = ["down", "slow", "garbage", "wrong", "error", "huge"]


def break_(neighbours: Neighbours, who: str, fault: str) -> None:
    peer = neighbours.agent if who == "agent" else neighbours.scanner
    if fault == "down":
        peer.vanish()
    else:
        peer.mood = fault


@pytest.mark.parametrize("who", ["agent", "scanner"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_the_overview_says_what_is_missing_and_still_shows_the_rest(
    desk: Desk, neighbours: Neighbours, who: str, fault: str
) -> None:
    break_(neighbours, who, fault)
    began = time.monotonic()
    text = await page(desk, "/")
    assert time.monotonic() - began < 5, "a page must not wait for ever"
    assert "You are all right" not in text and "We cannot say that you are all right" in text
    assert f"The {'compliance agent' if who == 'agent' else 'network scanner'} " in text
    assert "2026.11.2" in text  # the updater's part
    assert ("on the network" if who == "agent" else "18 of 18 checks pass") in text


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("who", "path", "status"), [
    ("scanner", "/devices", 200), ("scanner", "/devices/dev-0016", 503), ("agent", "/compliance", 200),
    ("agent", "/compliance/checks/secure_boot", 503), ("agent", "/evidence", 200), ("agent", "/evidence?verify=1", 200),
    ("agent", "/system", 200), ("scanner", "/system", 200), ("agent", "/updates", 200)])
async def test_each_page_copes_with_the_service_behind_it(
    desk: Desk, neighbours: Neighbours, who: str, path: str, status: int, fault: str
) -> None:
    break_(neighbours, who, fault)
    text = await page(desk, path, status)
    assert "cannot be" in text or "No answer." in text or "not known" in text or path == "/updates"


@pytest.mark.parametrize("content", [
    b"", b"\x00\xff", b"[]", b"{", b'{"state": 7}', b'{"slots": "x"}', b"null", b"[" * 100_000, b" " * 300_000,
    b'{"state": "idle", "progress": {"bytes": "many"}}', None])
async def test_a_damaged_updater_status_is_said(desk: Desk, neighbours: Neighbours, content: bytes | None) -> None:
    if content is None:
        neighbours.updater.status_file.unlink()
    else:
        neighbours.updater.status_file.write_bytes(content)
    for path in ("/", "/updates", "/system"):
        text = await page(desk, path)
        assert "You are all right" not in text
        assert "updater" in text


@pytest.mark.parametrize("status", [
    {}, {"state": "invented"}, {"state": "downloading", "progress": {"bytes": 1e300, "total": 1}},
    {"state": "downloading", "progress": {"bytes": -5, "total": 0}, "updated_at": 1e300},
    {"state": "downloading", "progress": None, "slots": {"a": {"version": None, "state": None, "blessed": None}}},
    {"state": "trial", "updated_at": "2026-11-20T09:00:00Z", "last_check_at": "yesterday", "future_field": {"x": 1}},
    {"state": HOSTILE, "candidate_version": HOSTILE, "detail": HOSTILE, "slots": {"a": {"version": HOSTILE}}}])
async def test_any_well_typed_updater_status_can_be_shown(
    desk: Desk, neighbours: Neighbours, status: dict[str, object]
) -> None:
    neighbours.updater.write(status)
    for path in ("/", "/updates", "/system"):
        text = await page(desk, path)
        assert "<script>alert" not in text and "\x1b" not in text


async def test_a_download_shows_its_progress_and_refreshes_itself(desk: Desk, neighbours: Neighbours) -> None:
    neighbours.updater.write({"state": "downloading", "candidate_version": "2026.11.3", "updated_at": time.time(),
                              "progress": {"bytes": 300 * 2**20, "total": 1200 * 2**20}})
    text = await page(desk, "/updates")
    assert '<progress id="progress" max="100" value="25">' in text and "300.0 MiB of 1.2 GiB" in text
    assert 'data-refresh="3"' in text


async def test_a_damaged_line_of_the_update_history_hides_no_other(desk: Desk, neighbours: Neighbours) -> None:
    with neighbours.updater.history_file.open("ab") as file:
        file.write(b"\xff\x00 torn\n" + json.dumps({"at": time.time(), "event": "committed", "version": "9"}).encode())
    text = await page(desk, "/updates")
    assert "This line of the history is damaged." in text and "Put in quarantine" in text


async def test_a_history_of_any_length_is_read_from_its_end(desk: Desk, neighbours: Neighbours) -> None:
    line = json.dumps({"at": 1.7e9, "event": "check_failed", "reason": "x" * 500}) + "\n"
    neighbours.updater.history_file.write_text(line * 4000 + json.dumps({"event": "installed", "version": "newest"}))
    assert "newest" in await page(desk, "/updates")


@pytest.mark.parametrize("field", ["name", "vendor", "id", "reasons", "services", "mac_addresses", "ip_addresses"])
async def test_a_hostile_device_is_shown_harmlessly(desk: Desk, neighbours: Neighbours, field: str) -> None:
    device = neighbours.scanner.device("thermostat")
    hostile = HOSTILE + "A" * (0 if field == "id" else 4096)
    device[field] = {"services": [{"port": 1, "protocol": hostile, "name": hostile}], "name": hostile,
                     "vendor": hostile, "id": hostile}.get(field, [hostile])
    path = "/devices" if field == "id" else f"/devices/{device['id']}"
    for shown in ("/", "/devices?q=&sort=address", path):
        text = await page(desk, shown)
        for harm in ("<script>alert", "<img", "\x1b", "\x00", "\u202e", "A" * 600):
            assert harm not in text.replace('<img src="/static/icon.svg', "")


async def test_a_hostile_neighbour_cannot_harm_through_any_text_of_its_own(desk: Desk, neighbours: Neighbours) -> None:
    agent, scanner = neighbours.agent, neighbours.scanner
    agent.status.update(site_name=HOSTILE, problems=[HOSTILE], slot=HOSTILE, device_id=HOSTILE, central_url=HOSTILE,
                        last_checkin_error=HOSTILE, public_key=HOSTILE, version=HOSTILE)
    scanner.status.update(problems=[HOSTILE], interface=HOSTILE, network=HOSTILE)
    scanner.scans[0]["error"] = HOSTILE
    for check in agent.checks:
        check.update(title=HOSTILE, reason=HOSTILE, source=HOSTILE, does_not_prove=HOSTILE, remedy=HOSTILE,
                     verdict="fail", facts={HOSTILE: HOSTILE}, input_digest=HOSTILE)
        check["citations"] = [cite | {"title": HOSTILE, "reference": HOSTILE} for cite in check["citations"]]
    for path in PAGES:
        text = await page(desk, path)
        for harm in ("<script>alert", "onerror=alert(1)>", "\x1b", "\x00", "\u202e"):
            assert harm not in text, path


@pytest.mark.parametrize("value", [1e300, -1e300, 0, -1, 253402300800])
async def test_impossible_times_are_shown_as_such_or_at_least_somehow(
    desk: Desk, neighbours: Neighbours, value: float
) -> None:
    neighbours.agent.status.update(started_at=value, checks_at=value, last_checkin_at=value, evidence_written_at=value)
    neighbours.agent.checks[0].update(checked_at=value, expires_at=value)
    neighbours.scanner.status.update(last_scan_at=value, next_scan_at=value)
    neighbours.scanner.devices[0].update(first_seen=value, last_seen=value, confidence=value)
    for path in PAGES:
        await page(desk, path)


async def test_devices_are_filtered_sorted_and_paged_by_their_address_alone(
    desk: Desk, neighbours: Neighbours
) -> None:
    text = await page(desk, "/devices?class=medical&sort=name")
    names = re.findall(r'<th scope="row"><a [^>]*><bdi[^>]*>([^<]*)</bdi>', text)
    assert names == ["CT-Scanner", "infusion-pump-07", "lab-analyser", "vitals-monitor-2", "xray-console"]
    assert "(no name)" in await page(desk, "/devices?q=72:0d:aa")
    assert "No device matches" in await page(desk, "/devices?q=nothing-like-this")
    neighbours.scanner.devices = [
        dict(neighbours.scanner.devices[0], id=f"d{number}", name=f"host-{number:03}") for number in range(250)]
    assert "host-249" in await page(desk, "/devices?page=3")
    assert "page 3 of 3" in await page(desk, "/devices?page=99999")


@pytest.mark.parametrize("query", ["class=bogus", "sort=bogus", "page=-1", "page=x", "page=9999999999", "presence=%00"])
async def test_a_filter_that_makes_no_sense_is_ignored(desk: Desk, query: str) -> None:
    assert "31 devices" in await page(desk, f"/devices?{query}")


async def test_a_person_sets_policy_and_class(desk: Desk, neighbours: Neighbours) -> None:
    device = neighbours.scanner.device("lab-analyser")
    path = f"/devices/{device['id']}"
    assert (await desk.post(f"{path}/policy", path, policy="excluded")).headers["location"] == path
    assert device["policy"] == "excluded" and "Saved: scan policy set to excluded." in await page(desk, path)
    await desk.post(f"{path}/class", path, device_class="server")
    assert (device["device_class"], device["class_locked"]) == ("server", True)
    await desk.post(f"{path}/class", path, device_class="")
    assert device["class_locked"] is False
    assert "scan policy set to excluded" in await page(desk, "/system")


async def test_a_change_that_the_scanner_refuses_is_said(desk: Desk, neighbours: Neighbours) -> None:
    token = await desk.token("/devices/dev-0016")
    neighbours.scanner.mood = "error"
    await desk.client.post("/devices/dev-0016/policy", data={"token": token, "policy": "standard"})
    assert "Not changed. The network scanner refused: 507" in await page(desk, "/devices/dev-0016", 503)


@pytest.mark.parametrize(("what", "value"), [("policy", "everything"), ("policy", ""), ("class", "toaster")])
async def test_a_choice_that_does_not_exist_is_never_passed_on(
    desk: Desk, neighbours: Neighbours, what: str, value: str
) -> None:
    field = "policy" if what == "policy" else "device_class"
    answer = await desk.post(f"/devices/dev-0016/{what}", "/devices/dev-0016", **{field: value})
    assert answer.status_code == 422
    assert not [asked for asked in neighbours.scanner.asked if asked[0] == "PUT"]


async def test_a_notice_is_shown_once(desk: Desk) -> None:
    await desk.post("/checks", "/", back="overview")
    assert "All checks have run: 19 results" in await page(desk, "/")
    assert "All checks have run" not in await page(desk, "/")


async def test_a_scan_is_started_and_shown_as_running(desk: Desk) -> None:
    await desk.post("/scans", "/devices")
    text = await page(desk, "/devices")
    assert "A scan is running" in text and "Scanning now" in text and "data-refresh" in text


async def test_compliance_shows_for_every_check_what_it_does_not_prove(desk: Desk, neighbours: Neighbours) -> None:
    hipaa = html.unescape(await page(desk, "/compliance"))
    soc2 = html.unescape(await page(desk, "/compliance?framework=soc2"))
    for check in neighbours.agent.checks:
        assert check["does_not_prove"] in hipaa + soc2
    assert hipaa.index("164.308(a)(1)(ii)(D)") < hipaa.index("164.310(c)") < hipaa.index("164.312(b)")
    assert soc2.index("CC6.1") < soc2.index("CC6.8") < soc2.index("CC8.1")


async def test_a_control_that_is_only_checked_in_part_is_never_called_simply_met(desk: Desk) -> None:
    text = await page(desk, "/compliance")
    evaluation = text[text.index("164.308(a)(8)"):text.index("164.310(c)")]
    assert "</svg>Met as far as checked</span>" in evaluation and "</svg>Met</span>" not in evaluation
    assert "</svg>Met</span>" in text[text.index("164.312(b)"):text.index("164.312(c)(1)")]  # checked automatically


@pytest.mark.parametrize(("verdict", "words"), [
    ("fail", "Not met"), ("error", "Not known"), ("unknown", "Not known"), ("notchecked", "Not known"),
    ("notapplicable", "Does not apply"), ("fixed", "Met")])
async def test_a_verdict_is_shown_in_plain_words(desk: Desk, neighbours: Neighbours, verdict: str, words: str) -> None:
    neighbours.agent.set_verdict("secure_boot", verdict)
    assert f"</svg>{words}</span>" in await page(desk, "/compliance/checks/secure_boot")


async def test_a_pass_that_has_expired_is_out_of_date_and_not_met(desk: Desk, neighbours: Neighbours) -> None:
    neighbours.agent.set_verdict("secure_boot", "pass", expires_at=time.time() - 1)
    assert "</svg>Out of date</span>" in await page(desk, "/compliance/checks/secure_boot")
    assert "You are all right" not in await page(desk, "/")


async def test_a_whole_chain_verifies_and_a_bundle_is_downloaded_byte_for_byte(
    desk: Desk, neighbours: Neighbours
) -> None:
    assert "Bundles 1260 to 1284 verified just now" in await page(desk, "/evidence?verify=1")
    answer = await desk.client.get("/evidence/1284/download")
    assert answer.content == neighbours.agent.envelopes[1284].to_bytes()
    assert answer.headers["content-disposition"] == 'attachment; filename="evidence-00001284.dsse.json"'


async def test_a_missing_bundle_is_a_visible_gap(desk: Desk, neighbours: Neighbours) -> None:
    del neighbours.agent.envelopes[1270]
    text = await page(desk, "/evidence?verify=1")
    assert "The numbers do not follow each other." in text and "After number 1271 comes 1269." in text


async def test_an_exchanged_bundle_does_not_verify(desk: Desk, neighbours: Neighbours) -> None:
    neighbours.agent.envelopes[1270] = neighbours.agent.envelopes[1269]
    assert "did not verify" in await page(desk, "/evidence?verify=1")


async def test_a_foreign_key_does_not_verify(desk: Desk, neighbours: Neighbours) -> None:
    neighbours.agent.status["public_key"] = "A" * 43 + "="
    assert "25 of 25 bundles did not verify." in await page(desk, "/evidence?verify=1")


async def test_without_a_key_nothing_is_called_verified(desk: Desk, neighbours: Neighbours) -> None:
    neighbours.agent.status["public_key"] = ""
    assert "nothing could be verified" in await page(desk, "/evidence?verify=1")


@pytest.mark.parametrize("path", ["/evidence/99999", "/evidence/0/download", "/evidence/9" + "9" * 30, "/devices/none",
                                  "/devices/..%2f", "/compliance/checks/none", "/nothing", "/healthz/"])
async def test_what_does_not_exist_is_a_page_that_says_so(desk: Desk, path: str) -> None:
    answer = await desk.client.get(path)
    assert answer.status_code == 404 and "<h1>There is no such page</h1>" in answer.text


async def test_the_ca_certificate_is_there_for_everybody(claimed: Desk) -> None:
    assert (await claimed.browser().get("/ca.crt")).status_code == 404
    claimed.portal.certificates.ensure(claimed.portal.own_names(), time.time())
    answer = await claimed.browser().get("/ca.crt")
    assert answer.text.startswith("-----BEGIN CERTIFICATE-----")
    assert answer.headers["content-type"] == "application/x-x509-ca-cert"


async def test_the_system_page_shows_the_fingerprint_that_the_console_shows(desk: Desk) -> None:
    desk.portal.certificates.ensure(desk.portal.own_names(), time.time())
    assert desk.portal.certificates.fingerprint() in await page(desk, "/system")


async def test_a_state_disk_that_cannot_be_written_does_not_stop_people_from_looking(desk: Desk) -> None:
    desk.portal.store.database.execute("PRAGMA query_only = ON")
    assert "You are all right" in await page(desk, "/")
    other = Desk(desk.portal, desk.hands, desk.browser())
    assert (await other.login()).status_code == 303


async def test_a_database_that_is_gone_is_a_clear_answer_and_no_crash(desk: Desk, tmp_path: Path) -> None:
    desk.portal.store.database.close()
    answer = await desk.client.get("/")
    assert answer.status_code in (500, 503)
    assert (await desk.client.get("/healthz")).status_code != 200
