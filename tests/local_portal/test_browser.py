"""What people meet: a real Chromium against the real service over TLS."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.local_portal.browsing import PAGES, chromium, claim, login, visit
from tests.local_portal.conftest import Neighbours, Running
from tests.local_portal.test_text import HOSTILE

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as made:
        yield made


@pytest.fixture(scope="module")
def state(browser: Browser, running: Running) -> Any:
    """A browser profile that is logged in, from the first visit on: the claim itself is the first test."""
    complaints: list[str] = []
    with visit(browser, running, complaints=complaints) as page:
        claim(page, running.claim_code)
        expect(page.get_by_role("heading", level=1)).to_have_text("You are all right")
        assert complaints == []
        return page.context.storage_state()


@pytest.fixture(autouse=True)
def _well(shared_neighbours: Neighbours) -> None:
    for part in (shared_neighbours.agent, shared_neighbours.scanner, shared_neighbours.updater):
        part.recover()


def serious(page: Page, scheme: str = "light") -> list[str]:
    """What axe finds that a person with a disability would stumble over; in the dark only the colours differ."""
    colours = {"runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}}
    rules = {} if scheme == "light" else colours
    found = Axe().run(page, options={"resultTypes": ["violations"], **rules}).response["violations"]
    return [f"{item['id']}: {item['help']}: {item['nodes'][0]['html'][:200]}" for item in found
            if item["impact"] in ("serious", "critical")]


def test_the_first_visitor_claims_with_the_consoles_code(state: Any) -> None:
    cookies = {cookie["name"]: cookie for cookie in state["cookies"]}
    session = cookies["__Host-session"]
    assert session["httpOnly"] and session["secure"] and session["sameSite"] == "Strict"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_accessible_and_silent(browser: Browser, running: Running, state: Any, scheme: Any) -> None:
    complaints: list[str] = []
    with visit(browser, running, complaints=complaints, storage_state=state, color_scheme=scheme) as page:
        for name, path in PAGES.items():
            page.goto(path)
            if name == "compliance":
                page.evaluate("for (const item of document.querySelectorAll('details')) item.open = true")
            assert serious(page, scheme) == [], name
    assert complaints == []


def test_the_doors_are_accessible_too(browser: Browser, running: Running, state: Any) -> None:
    with visit(browser, running, color_scheme="dark") as page:
        page.goto("/")
        assert page.url.endswith("/login") and serious(page) == []
        page.get_by_label("Name").fill("nobody")
        page.get_by_label("Password").fill("wrong wrong wrong")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("alert")).to_contain_text("Name or password is wrong.")
        assert serious(page) == []


@pytest.mark.exhaustive
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_bad_news_is_accessible_as_well(
    browser: Browser, running: Running, state: Any, shared_neighbours: Neighbours, scheme: Any
) -> None:
    shared_neighbours.agent.set_verdict("secure_boot", "fail", reason="Secure Boot is off.")
    shared_neighbours.agent.set_verdict("clock", "error", reason="D-Bus did not answer.")
    shared_neighbours.scanner.vanish()
    shared_neighbours.updater.write({"state": "downloading", "candidate_version": "2026.11.3",
                                     "progress": {"bytes": 5e8, "total": 12e8}, "updated_at": time.time()})
    with visit(browser, running, storage_state=state, color_scheme=scheme) as page:
        for path in ("/", "/compliance", "/compliance/checks/secure_boot", "/devices", "/updates", "/system"):
            page.goto(path)
            assert serious(page, scheme) == [], path
        page.goto("/")
        expect(page.get_by_role("heading", level=1)).to_have_text("One thing needs attention")


def test_narrow_screens_need_no_sideways_scrolling(browser: Browser, running: Running, state: Any) -> None:
    for width in (320, 768, 1024):
        with visit(browser, running, storage_state=state, viewport={"width": width, "height": 700}) as page:
            for name, path in PAGES.items():
                page.goto(path)
                wide = page.evaluate("document.documentElement.scrollWidth")
                assert wide <= width, f"{name} is {wide} wide on {width}"


def test_the_keyboard_alone_leads_everywhere(browser: Browser, running: Running, state: Any) -> None:
    with visit(browser, running, storage_state=state) as page:
        page.goto("/")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        for name in ("Devices", "Compliance", "Evidence", "Updates", "System"):
            page.goto("/")
            walk_to(page, page.get_by_role("navigation").get_by_role("link", name=name))
            page.keyboard.press("Enter")
            expect(page.get_by_role("heading", level=1)).to_have_text(name)
        page.goto("/devices/dev-0017")
        walk_to(page, page.get_by_role("radio", name="Excluded"))
        page.keyboard.press("ArrowUp")
        expect(page.get_by_role("radio", name="Limited")).to_be_checked()
        walk_to(page, page.get_by_role("button", name="Save policy"))
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_contain_text("Saved: scan policy set to limited.")


def walk_to(page: Page, target: Any) -> None:
    """Press Tab until the target has the focus; every stop on the way must be visibly focused."""
    for _ in range(80):
        if target.evaluate("(node) => node === document.activeElement"):
            return
        page.keyboard.press("Tab")
        outline = page.evaluate(
            "(() => { const s = getComputedStyle(document.activeElement);"
            " return document.activeElement === document.body || parseFloat(s.outlineWidth) >= 2 })()")
        assert outline, "the focus is invisible at " + page.evaluate("document.activeElement.outerHTML.slice(0, 200)")
    raise AssertionError("80 steps did not reach the target")


def test_a_hostile_device_name_does_nothing(
    browser: Browser, running: Running, state: Any, shared_neighbours: Neighbours
) -> None:
    shared_neighbours.scanner.device("thermostat").update(name=HOSTILE + "A" * 4096, vendor=HOSTILE)
    complaints: list[str] = []
    with visit(browser, running, complaints=complaints, storage_state=state, viewport={"width": 360, "height": 700},
               ) as page:
        for path in ("/", "/devices", "/devices/dev-0028"):
            page.goto(path)
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
        expect(page.get_by_role("heading", level=1)).to_contain_text("<script>alert(1)</script>")
    assert complaints == []


def test_inline_script_would_not_run_even_if_it_got_in(browser: Browser, running: Running, state: Any) -> None:
    complaints: list[str] = []
    with visit(browser, running, complaints=complaints, storage_state=state) as page:
        page.goto("/")
        page.evaluate("document.body.insertAdjacentHTML('beforeend',"
                      " '<img src=\"data:,\" onerror=\"window.pwned=1\">')")
        page.evaluate("{ const s = document.createElement('script'); s.textContent = 'window.pwned=1';"
                      " document.body.append(s) }")
        assert page.evaluate("window.pwned") is None
    assert any("Content Security Policy" in complaint for complaint in complaints)


def test_everything_works_without_javascript(browser: Browser, running: Running, state: Any) -> None:
    with visit(browser, running, java_script_enabled=False) as page:
        login(page, "/devices")
        page.get_by_label("Search").fill("siemens")
        page.get_by_role("button", name="Show").click()
        page.get_by_role("link", name="CT-Scanner").click()
        page.get_by_label("This device is").select_option("server")
        page.get_by_role("button", name="Save class").click()
        expect(page.get_by_role("status")).to_contain_text("Saved: class set to server.")
        page.get_by_role("link", name="Overview").click()
        page.get_by_role("button", name="Run checks now").click()
        expect(page.get_by_role("status")).to_contain_text("All checks have run: 19 results")
        page.get_by_role("link", name="Compliance").click()
        page.get_by_text("Secure Boot is on").first.click()
        expect(page.get_by_text("That the firmware is free of faults.").first).to_be_visible()
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Log in")


def test_a_running_scan_is_followed_without_reloading(
    browser: Browser, running: Running, state: Any, shared_neighbours: Neighbours
) -> None:
    with visit(browser, running, storage_state=state) as page:
        page.goto("/devices")
        page.get_by_role("button", name="Scan now").click()
        expect(page.get_by_text("Scanning now")).to_be_visible()
        shared_neighbours.scanner.status.update(scanning=False, last_scan_at=time.time())
        expect(page.get_by_text("Scanning now")).to_be_hidden()
        expect(page.get_by_text("Last scan just now")).to_be_visible()


def test_a_bundle_downloads_as_a_file(browser: Browser, running: Running, state: Any) -> None:
    with visit(browser, running, storage_state=state) as page:
        page.goto("/evidence")
        with page.expect_download() as download:
            page.get_by_role("link", name="Download bundle 1283").click()
        assert download.value.suggested_filename == "evidence-00001283.dsse.json"


def test_another_site_can_neither_frame_nor_post_to_the_portal(browser: Browser, running: Running, state: Any) -> None:
    with visit(browser, running, storage_state=state) as page:
        evil = f"<iframe id=f src='{running.url}/'></iframe><form method=post action='{running.url}/scans'></form>"
        page.route("https://evil.example/", lambda route: route.fulfill(body=evil, content_type="text/html"))
        page.goto("https://evil.example/")
        assert page.frames[-1].url in ("", "about:blank", "chrome-error://chromewebdata/", f"{running.url}/")
        assert "all right" not in page.frames[-1].content()
        page.evaluate("document.forms[0].submit()")
        page.wait_for_url("**/scans")
        assert "did not come from the appliance's own pages" in page.content()


def test_a_page_prints_without_its_controls(browser: Browser, running: Running, state: Any) -> None:
    with visit(browser, running, storage_state=state) as page:
        page.goto("/compliance")
        page.emulate_media(media="print")
        expect(page.get_by_role("navigation", name="Pages")).to_be_hidden()
        expect(page.get_by_role("button", name="Run checks now")).to_be_hidden()
        expect(page.get_by_text("That the firmware is free of faults.").first).to_be_visible()


def test_a_browser_that_trusts_the_ca_shows_no_warning(running: Running) -> None:
    """curl stands in for a browser with the CA in its store: same verification, no profile to prepare."""
    for host in ("localhost", "127.0.0.1", "appliance.local"):
        port = running.url.rsplit(":", 1)[1]
        done = subprocess.run(
            ["curl", "-sS", "--noproxy", "*", "--cacert", str(running.ca_file), "--resolve",
             f"appliance.local:{port}:127.0.0.1", f"https://{host}:{port}/healthz"],
            capture_output=True, text=True, check=False)
        assert done.stdout == "ok", done.stderr
