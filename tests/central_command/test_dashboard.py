"""The dashboard: who gets in, who may do what, and what an attacker's page or device cannot do."""

from __future__ import annotations

import re
import time

import pytest
import sqlalchemy as sa

from appliance_protocol.verdict import Verdict
from central_command.accounts import Role
from central_command.identifiers import fingerprint
from central_command.tables import audit, devices, incidents, orders, sessions, users
from tests.central_command.rig import PASSWORD, Central, DeviceClient, Person, check_result

HOSTILE = "<img src=x onerror=alert(1)>\"'{{7*191}}\x1b[31m\u202eevil"


def test_without_a_login_every_page_leads_to_the_login(central: Central) -> None:
    person = Person(central, None)
    device = central.device()
    page = f"/devices/{device.device_id}"
    for path in ("/devices", page, f"{page}/evidence", "/sites", "/audit"):
        answer = person.get(path)
        assert answer.status_code == 303 and answer.headers["location"].startswith("/login"), path
    assert person.get("/api/v1/devices").status_code == 401


@pytest.mark.parametrize("path", ["/devices", "/sites", "/devices/{device}", "/devices/{device}/evidence"])
@pytest.mark.parametrize("role", list(Role))
def test_every_role_sees_the_fleet(central: Central, role: Role, path: str) -> None:
    device = central.device()
    device.check_in()
    device.upload(device.bundle())
    answer = Person(central, role).get(path.format(device=device.device_id))
    assert answer.status_code == 200 and "<h1>" in answer.text


def test_the_device_page_shows_what_a_technician_needs(central: Central) -> None:
    device = central.device(hostname="t640-reception", macs=("AA:BB:CC:00:11:33",))
    device.upload(device.bundle(
        check_result("clock"), check_result("firewall", Verdict.FAIL, "no default deny on input"),
        check_result("tpm", Verdict.PASS, "present", age=90000),
    ))
    device.check_in()
    shown = Person(central, Role.READONLY).get(f"/devices/{device.device_id}").text
    for wanted in ("t640-reception", "online", "93 %", "2026.11.1", "slot a", "no default deny on input",
                   "look at the time server", "stale", "164.312(b)", "aa:bb:cc:00:11:33", device.head.digest,
                   device.key.public.key_id, "that the log is read"):
        assert wanted in shown, wanted
    assert "Issue order" not in shown, "a reader gets no forms"


def test_an_unverified_bundle_shows_as_an_incident_and_can_be_dealt_with(central: Central) -> None:
    device = central.device()
    device.bundle()
    device.upload(device.bundle())
    operator = Person(central, Role.OPERATOR)
    page = operator.get(f"/devices/{device.device_id}").text
    assert "evidence-gap" in page and "expected 1, got 2" in page
    found = re.search(r"/incidents/(inc_\w+)", page)
    assert found is not None
    answer = operator.submit(f"/devices/{device.device_id}/incidents/{found[1]}")
    assert answer.status_code == 303
    row = central.query(sa.select(incidents).where(incidents.c.id == found[1]))[0]
    assert row["resolved_by"] == "operator"


def test_the_list_is_filtered_by_name_mac_site_and_state(central: Central) -> None:
    wanted = central.device(hostname="needle-7", macs=("02-00-5e-10-00-07",))
    other = central.device(hostname="hay-1")
    wanted.check_in()
    person = Person(central)
    site = central.query(sa.select(devices.c.site_id).where(devices.c.id == wanted.device_id))[0]["site_id"]
    for query in ("text=NEEDLE", "text=0200.5e10.0007", f"site_id={site}"):
        shown = person.get(f"/devices?{query}").text
        assert wanted.device_id in shown and other.device_id not in shown, query
    assert wanted.device_id in person.get("/devices?state=online&text=needle-7").text
    assert wanted.device_id not in person.get("/devices?state=never").text
    assert other.device_id in person.get("/devices?state=never&text=hay-1").text


def test_text_from_a_device_is_never_markup_anywhere(central: Central) -> None:
    device = central.device(hostname=HOSTILE)
    device.upload(device.bundle(check_result(HOSTILE, Verdict.FAIL, HOSTILE)))
    device.check_in(hostname=HOSTILE, slot=HOSTILE, ip_addresses=(HOSTILE,))
    device.bundle()
    device.upload(device.bundle())
    admin = Person(central)
    for path in ("/devices", f"/devices/{device.device_id}", f"/devices/{device.device_id}/evidence", "/audit"):
        shown = admin.get(path).text
        assert "<img src=x" not in shown and "\x1b" not in shown and "\u202e" not in shown
        assert ("{{7*191}}" in shown) == (path != "/audit"), "shown as it is written, not evaluated"


def test_a_wrong_password_says_nothing_about_the_account(central: Central) -> None:
    person = Person(central, None)
    wrong, unknown = person.log_in("readonly", "wrong password here"), person.log_in("nobody", "wrong password here")
    assert wrong.status_code == unknown.status_code == 401
    assert wrong.text.replace("readonly", "") == unknown.text.replace("nobody", "")
    person.log_in("readonly", PASSWORD)


def test_an_account_is_locked_for_a_while_and_an_address_after_more(strict_central: Central) -> None:
    central = strict_central
    person = Person(central, None)
    for _ in range(5):
        assert person.log_in("operator", "not the password").status_code == 401
    assert person.log_in("operator", PASSWORD).status_code == 401, "even the right password waits"
    assert person.log_in("admin", PASSWORD).status_code == 303, "others are not affected"
    central.change(sa.update(users).where(users.c.name == "operator").values(locked_until=time.time() - 1))
    assert person.log_in("operator", PASSWORD).status_code == 303
    actions = [row["action"] for row in central.query(sa.select(audit.c.action).where(audit.c.actor == "operator"))]
    assert actions.count("login.failed") == 4 and actions.count("login.locked") == 1
    seen = [person.log_in(f"user{number}", "whatever it is").status_code for number in range(5)]
    assert seen == [401, 401, 401, 429, 429], "nine failures of one address, six of them above"


def test_the_session_cookie_is_out_of_reach_of_scripts_and_other_sites(central: Central) -> None:
    cookie = Person(central, None).log_in("admin", PASSWORD).headers["set-cookie"]
    assert cookie.startswith("__Host-central-session=")
    for word in ("HttpOnly", "Secure", "SameSite=lax", "Path=/"):
        assert word in cookie
    token = cookie.split("=", 1)[1].split(";")[0]
    assert all(token not in str(row["token_hash"]) for row in central.query(sa.select(sessions)))


def test_a_login_is_over_after_log_out_on_the_server_too(central: Central) -> None:
    person = Person(central, fresh=True)
    stolen = dict(person.session.cookies)
    assert person.submit("/logout").status_code == 303
    thief = Person(central, None)
    thief.session.cookies.update(stolen)
    assert thief.get("/devices").status_code == 303


def test_a_session_ends_after_its_time_and_after_idling(central: Central) -> None:
    for column in ("expires_at", "seen_at"):
        person = Person(central, fresh=True)
        assert person.get("/devices").status_code == 200
        token, = person.session.cookies.values()
        mine = sessions.c.token_hash == fingerprint(token)
        central.change(sa.update(sessions).where(mine).values({column: time.time() - 9000}))
        assert person.get("/devices").status_code == 303


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://127.0.0.1:1", ""])
def test_a_form_on_another_site_changes_nothing(central: Central, origin: str) -> None:
    device, person = central.device(), Person(central)
    path = f"/devices/{device.device_id}/orders"
    fields = {"csrf": person.csrf, "type": "run_checks"}
    assert person.post(path, fields, origin=origin).status_code == 403
    assert person.post("/login", {"name": "admin", "password": PASSWORD}, origin=origin).status_code == 403
    assert central.query(sa.select(orders).where(orders.c.device_id == device.device_id)) == []


def test_a_form_without_the_sessions_own_token_changes_nothing(central: Central) -> None:
    device, person = central.device(), Person(central)
    path = f"/devices/{device.device_id}/orders"
    for token in ("", "wrong", Person(central, fresh=True).csrf, "ü"):
        assert person.post(path, {"csrf": token, "type": "run_checks"}).status_code == 403
    answer = person.session.post(
        f"{central.url}/api/v1/devices/{device.device_id}/orders", json={"type": "run_checks"}, timeout=20,
        headers={"Origin": central.url},
    )
    assert answer.status_code == 403
    assert central.query(sa.select(orders).where(orders.c.device_id == device.device_id)) == []


@pytest.mark.parametrize("role, path, status", [
    (Role.READONLY, "/devices/{device}/orders", 403), (Role.READONLY, "/devices/{device}/assignment", 403),
    (Role.READONLY, "/sites/{site}/codes", 403), (Role.OPERATOR, "/sites", 403),
    (Role.OPERATOR, "/devices/{device}/retirement", 403), (Role.OPERATOR, "/devices/{device}/orders", 303),
    (Role.OPERATOR, "/sites/{site}/codes", 200), (Role.ADMIN, "/sites", 303),
])
def test_what_each_role_may_change(central: Central, role: Role, path: str, status: int) -> None:
    device = central.device()
    site = central.query(sa.select(devices.c.site_id).where(devices.c.id == device.device_id))[0]["site_id"]
    where = path.format(device=device.device_id, site=site)
    answer = Person(central, role).submit(where, type="run_checks", version="", name=f"New {device.device_id}")
    assert answer.status_code == status
    assert Person(central, Role.READONLY).get("/audit").status_code == 403


def test_a_code_made_at_the_dashboard_is_shown_once_and_enrols(central: Central) -> None:
    site = central.query(sa.select(devices.c.site_id).where(devices.c.id == central.device().device_id))[0]["site_id"]
    operator = Person(central, Role.OPERATOR)
    shown = operator.submit(f"/sites/{site}/codes", label="front desk").text
    found = re.search(r"\b([0-9A-HJKMNP-TV-Z]{4}(?:-[0-9A-HJKMNP-TV-Z]{4}){3})\b", shown)
    assert found is not None
    assert found[1] not in operator.get("/sites").text and "front desk" in operator.get("/sites").text
    assert DeviceClient(central).enrol(found[1]).site_id == site


def test_a_release_is_assigned_from_the_device_page(central: Central) -> None:
    device, operator = central.device(), Person(central, Role.OPERATOR)
    device.check_in()
    path = f"/devices/{device.device_id}/assignment"
    assert operator.submit(path, version="not a version").status_code == 400
    assert operator.submit(path, version="2026.11.2").status_code == 303
    assert device.check_in().assigned_version == "2026.11.2"
    assert "should be 2026.11.2" in operator.get(f"/devices/{device.device_id}").text


def test_what_people_do_is_in_the_audit_log(central: Central) -> None:
    device, operator = central.device(), Person(central, Role.OPERATOR)
    operator.submit(f"/devices/{device.device_id}/orders", type="run_scan")
    shown = operator.get("/audit").text
    assert "order.run_scan" in shown and device.device_id in shown and "127.0.0.1" in shown


def test_a_bundle_and_the_chain_can_be_downloaded_and_verified(central: Central) -> None:
    device = central.device()
    bundle = device.bundle()
    device.upload(bundle, device.bundle())
    person = Person(central, Role.READONLY)
    one = person.get(f"/devices/{device.device_id}/evidence/1")
    assert one.content == bundle.to_bytes() and "attachment" in one.headers["content-disposition"]
    lines = person.get(f"/devices/{device.device_id}/evidence.jsonl").text.splitlines()
    assert len(lines) == 3 and device.key.public.text in lines[0]
    assert person.get(f"/devices/{device.device_id}/evidence/99").status_code == 404


def test_every_page_forbids_foreign_scripts_frames_and_caches(central: Central) -> None:
    person = Person(central)
    for path in ("/login", "/devices", "/sites", "/audit", "/nowhere"):
        headers = person.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
        assert headers["strict-transport-security"]
    shown = person.get("/devices").text
    assert "style=" not in shown and "onclick" not in shown and not re.search(r"<script(?! src=\"/static/)", shown)


@pytest.mark.parametrize("target, goes_to", [
    ("/sites", "/sites"), ("//evil.example", "/devices"), ("https://evil.example", "/devices"),
    ("/\\evil.example", "/devices"), ("", "/devices"),
])
def test_the_login_leads_back_but_never_to_another_site(central: Central, target: str, goes_to: str) -> None:
    answer = Person(central, None).post("/login", {"name": "admin", "password": PASSWORD, "next": target})
    assert answer.headers["location"] == goes_to


def test_an_api_token_acts_with_its_users_role_and_needs_no_csrf_token(central: Central) -> None:
    made = central.cli_here("token", "create", "--user", "operator", "--label", "ticket system")
    assert made.exit_code == 0, made.output
    session = Person(central, None).session
    session.headers["Authorization"] = f"Bearer {made.stdout.strip()}"
    device = central.device()
    base = f"{central.url}/api/v1"
    given = session.post(f"{base}/devices/{device.device_id}/orders", json={"type": "force_checkin"}, timeout=20)
    assert given.status_code == 201
    assert session.get(f"{base}/orders/{given.json()['id']}", timeout=20).json()["state"] == "pending"
    assert session.post(f"{base}/sites", json={"name": "x"}, timeout=20).status_code == 403
    put = session.put(f"{base}/devices/{device.device_id}/assignment", json={"version": "2026.11.9"}, timeout=20)
    assert put.json()["assigned_version"] == "2026.11.9"
    assert any(view["id"] == device.device_id for view in session.get(f"{base}/devices", timeout=20).json())
    assert session.get(f"{base}/devices/{device.device_id}/evidence", timeout=20).json() == []
    session.headers["Authorization"] = "Bearer cct_wrong"
    assert session.get(f"{base}/devices", timeout=20).status_code == 401
