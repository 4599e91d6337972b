"""The dashboard in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from appliance_protocol.orders import OrderState
from appliance_protocol.verdict import Verdict
from central_command.accounts import Role
from tests.central_command.rig import PASSWORD, Central, check_result

pytestmark = pytest.mark.browser
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, sqlite_central: Central) -> Iterator[Page]:
    """A page that fails the test on any script error or policy violation."""
    context = browser.new_context(ignore_https_errors=True, base_url=sqlite_central.url)
    page = context.new_page()
    page.set_default_timeout(15_000)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if is_ours(message) else None)
    yield page
    context.close()
    assert complaints == []


def is_ours(message: ConsoleMessage) -> bool:
    """Whether the console says that something is wrong; that a page we asked for is not there is no such thing."""
    return message.type == "error" and "404" not in message.text


def log_in(page: Page, role: Role = Role.ADMIN) -> None:
    page.goto("/")
    page.get_by_label("Name").fill(role.value)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Devices", level=1)).to_be_visible()


def serious(page: Page) -> list[Any]:
    found = Axe().run(page).response["violations"]
    return [
        (item["id"], [node["html"] for node in item["nodes"]][:3]) for item in found
        if item["impact"] in ("serious", "critical")
    ]


def test_an_operator_logs_in_finds_a_device_and_orders_a_check(page: Page, sqlite_central: Central) -> None:
    device = sqlite_central.device(hostname="t640-theatre")
    device.upload(device.bundle())
    device.check_in()
    log_in(page, Role.OPERATOR)
    page.get_by_label("Find").fill("theatre")
    page.get_by_role("button", name="Filter").click()
    page.get_by_role("link", name="t640-theatre").click()
    expect(page.locator("h1")).to_contain_text("online")
    expect(page.locator("#checks")).to_contain_text("no default deny")
    page.get_by_label("Order", exact=True).select_option("run_checks")
    page.get_by_role("button", name="Issue order").click()
    expect(page.get_by_role("status")).to_have_text("The order waits for the device.")
    expect(page.locator("#orders table")).to_contain_text("pending")
    order, = device.orders(device.check_in())
    device.result(order.order_id, OrderState.COMPLETED, "16 checks ran")
    page.evaluate("refresh()")
    expect(page.locator("#orders table")).to_contain_text("16 checks ran")


def test_a_hostile_device_is_text_and_nothing_else(page: Page, sqlite_central: Central) -> None:
    device = sqlite_central.device(hostname=HOSTILE)
    device.upload(device.bundle(check_result(HOSTILE, Verdict.FAIL, HOSTILE + "A" * 4096)))
    device.check_in(hostname=HOSTILE, slot=HOSTILE)
    log_in(page)
    expect(page.locator("main")).to_contain_text("<img src=x")
    page.goto(f"/devices/{device.device_id}")
    expect(page.locator("h1")).to_contain_text("<script>")
    assert "owned" not in page.title().replace(HOSTILE, "")
    assert page.locator("main img, main script").count() == 0


def test_no_page_has_serious_accessibility_findings(page: Page, sqlite_central: Central) -> None:
    device = sqlite_central.device(hostname="t640-axe")
    device.upload(*[device.bundle() for _ in range(3)])
    device.check_in()
    device.bundle()
    device.upload(device.bundle())
    page.goto("/login")
    assert serious(page) == []
    log_in(page)
    shown = f"/devices/{device.device_id}"
    for path in ("/devices", shown, f"{shown}/evidence", "/sites", "/audit", "/devices/nothing"):
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.goto(path)
            assert serious(page) == [], (path, scheme)


def test_the_keyboard_alone_is_enough(page: Page, sqlite_central: Central) -> None:
    sqlite_central.device(hostname="t640-keyboard").check_in()
    page.goto("/login")
    expect(page.get_by_label("Name")).to_be_focused()
    page.keyboard.type("operator")
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Devices", level=1)).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    link = page.get_by_role("link", name="t640-keyboard")
    for _ in range(60):
        page.keyboard.press("Tab")
        if link.evaluate("element => element === document.activeElement"):
            break
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_contain_text("t640-keyboard")
