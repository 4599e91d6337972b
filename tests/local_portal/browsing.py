"""A real headless Chromium, and a list of everything it complains about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, Request, sync_playwright

from tests.local_portal.conftest import NAME, PASSWORD, Running

ARGUMENTS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
]
PAGES = {
    "overview": "/", "devices": "/devices", "device": "/devices/dev-0016", "compliance": "/compliance",
    "soc2": "/compliance?framework=soc2", "check": "/compliance/checks/secure_boot", "evidence": "/evidence",
    "verified": "/evidence?verify=1", "bundle": "/evidence/1284", "updates": "/updates", "system": "/system",
    "account": "/account",
}


def failure(request: Request) -> list[str]:
    """What to say of a request that failed; nothing when the next page had begun and the browser gave it up itself."""
    return [] if request.failure == "net::ERR_ABORTED" else [f"failed: {request.url} ({request.failure})"]


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def visit(browser: Browser, running: Running, *, complaints: list[str] | None = None, **options: Any) -> Iterator[Page]:
    """A page in a browser profile of its own; what the console says and what fails to load ends in `complaints`."""
    options.setdefault("viewport", {"width": 1280, "height": 800})
    context = browser.new_context(ignore_https_errors=True, base_url=running.url, **options)
    page = context.new_page()
    page.set_default_timeout(15_000)
    heard = complaints if complaints is not None else []
    page.on("console", lambda message: heard.append(f"console {message.type}: {message.text}"))
    page.on("pageerror", lambda error: heard.append(f"error: {error}"))
    page.on("requestfailed", lambda request: heard.extend(failure(request)))
    page.on("dialog", lambda dialog: (heard.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    yield page
    context.close()


def claim(page: Page, code: str) -> None:
    """Take the appliance into use as a person would."""
    page.goto("/")
    page.get_by_label("Claim code").fill(code.lower())
    page.get_by_label("Your name for logging in").fill(NAME)
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_label("Password, once more").fill(PASSWORD)
    page.get_by_role("button", name="Take into use").click()
    page.wait_for_url("**/")


def login(page: Page, path: str = "/") -> None:
    """Log in on the way to a page."""
    page.goto(path)
    page.get_by_label("Name").fill(NAME)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(f"**{path}")


def screenshot(page: Page, path: Path, *, full_page: bool = False) -> None:
    """A picture, once the fonts are there."""
    page.evaluate("document.fonts.ready")
    page.screenshot(path=path, full_page=full_page)
