"""Requests that a browser on the right page would never send, and answers that tell browsers what not to do."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.datastructures import Headers

from local_portal.guard import SECURITY_HEADERS, host_name, same_origin
from tests.local_portal.conftest import NAME, ORIGIN, PASSWORD, Desk

POSTS = ["/claim", "/login", "/logout", "/account", "/checks", "/scans", "/devices/dev-0016/policy",
         "/devices/dev-0016/class"]


async def send(desk: Desk, path: str, *, drop: tuple[str, ...] = (), **headers: str) -> httpx.Response:
    """A well-formed form with a right token, from a page of ours, apart from what is asked for."""
    data = {"token": await desk.token("/account"), "policy": "limited", "device_class": "medical"}
    request = desk.client.build_request("POST", path, data=data, headers=headers)
    for name in drop:
        del request.headers[name]
    return await desk.client.send(request)


@pytest.mark.parametrize("headers", [
    {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://appliance.local"},
    {"Origin": "https://appliance.local:444"}, {"Origin": "https://appliance.local.evil.example"},
    {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}])
async def test_a_form_from_elsewhere_is_refused_whatever_else_is_right(desk: Desk, headers: dict[str, str]) -> None:
    for path in POSTS:
        assert (await send(desk, path, **headers)).status_code == 403, path


async def test_a_form_that_no_browser_vouches_for_is_refused(desk: Desk) -> None:
    assert (await send(desk, "/scans", drop=("Origin",))).status_code == 403
    assert (await send(desk, "/scans", drop=("Origin",), **{"Sec-Fetch-Site": "same-origin"})).status_code == 303


@pytest.mark.parametrize("token", ["", "0" * 64, "é", "x" * 500])
async def test_a_form_without_the_right_token_is_refused(desk: Desk, token: str) -> None:
    for path in POSTS:
        answer = await desk.client.post(path, data={"token": token, "policy": "limited"})
        assert answer.status_code == 403 and "reload" in answer.text, path


async def test_the_token_of_one_session_is_worthless_in_another(desk: Desk) -> None:
    other = Desk(desk.portal, desk.hands, desk.browser())
    await other.login()
    answer = await other.client.post("/scans", data={"token": await desk.token("/account")})
    assert answer.status_code == 403


async def test_logging_somebody_in_from_another_site_is_refused_as_well(claimed: Desk) -> None:
    stranger = claimed.browser()
    fields = {"name": NAME, "password": PASSWORD, "token": await claimed.token("/login")}
    assert (await stranger.post("/login", data=fields)).status_code == 403


@pytest.mark.parametrize("host", [
    "evil.example", "appliance.local.evil.example", "10.99.0.1", "", "appliance.local:443:443", "appliance.local:x",
    "[::1", "appliance local", "xn--appliance.local", "0.0.0.0", "[::ffff:10.1.1.1]"])
async def test_another_name_gets_no_page_so_that_dns_rebinding_fails(claimed: Desk, host: str) -> None:
    for path in ("/", "/healthz", "/login", "/ca.crt", "/static/portal.css"):
        assert (await claimed.client.get(path, headers={"Host": host})).status_code == 421, path


@pytest.mark.parametrize("host", ["appliance.local", "APPLIANCE.LOCAL", "appliance.local.", "appliance.local:8443",
                                  "localhost:443", "127.0.0.1", "127.0.0.1:8443", "[::1]", "[::1]:443"])
async def test_the_appliances_own_names_are_answered(claimed: Desk, host: str) -> None:
    assert (await claimed.client.get("/healthz", headers={"Host": host})).text == "ok"


@given(st.text(st.characters(codec="latin-1"), max_size=40))
def test_any_host_header_is_read_or_refused(host: str) -> None:
    name = host_name(host)
    assert name == name.lower() and not name.endswith(".")


@given(st.text(st.characters(codec="latin-1"), max_size=40))
def test_only_our_very_own_origin_vouches(origin: str) -> None:
    headers = Headers({"origin": origin})
    assert same_origin(headers, "appliance.local") == (origin.lower() == "https://appliance.local")


@pytest.mark.parametrize("path", ["/", "/login", "/healthz", "/ca.crt", "/nothing", "/static/portal.css", "/static/no"])
async def test_every_answer_carries_the_security_headers(desk: Desk, path: str) -> None:
    answer = await desk.client.get(path)
    for name, value in SECURITY_HEADERS.items():
        assert answer.headers[name] == value
    assert "server" not in answer.headers and "strict-transport-security" not in answer.headers


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "https://evil.example"}])
async def test_refusals_carry_the_security_headers_too(claimed: Desk, headers: dict[str, str]) -> None:
    answer = await claimed.client.post("/login", headers=headers)
    assert answer.status_code in (403, 421)
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'self'")


async def test_pages_are_never_kept_and_static_files_with_a_digest_are(desk: Desk) -> None:
    page = await desk.client.get("/devices")
    assert page.headers["cache-control"] == "no-store"
    style = page.text.split('rel="stylesheet" href="')[1].split('"')[0]
    assert "immutable" in (await desk.client.get(style)).headers["cache-control"]


@pytest.mark.parametrize("path", [
    "/static/../config.py", "/static/%2e%2e/config.py", "/static//etc/passwd", "/static/..%2f..%2fpasswords.txt"])
async def test_static_files_do_not_lead_out_of_their_folder(desk: Desk, path: str) -> None:
    assert (await desk.client.get(path)).status_code == 404


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
async def test_other_methods_are_refused(desk: Desk, method: str) -> None:
    assert (await desk.client.request(method, "/devices")).status_code == 405


async def test_a_form_that_is_too_large_is_refused(desk: Desk) -> None:
    token = await desk.token("/account")
    answer = await desk.client.post("/scans", data={"token": token, "x": "y" * 20_000})
    assert answer.status_code == 413


async def test_a_form_that_lies_about_its_size_is_refused_too(desk: Desk) -> None:
    async def endless():  # type: ignore[no-untyped-def]
        for _ in range(40):
            yield b"x" * 1024

    answer = await desk.client.post(
        "/scans", content=endless(), headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert answer.status_code == 413


@pytest.mark.parametrize(("kind", "body", "status"), [
    ("application/json", b'{"token": "x"}', 415), ("multipart/form-data; boundary=x", b"--x--", 415),
    ("text/plain", b"token=x", 415), ("application/x-www-form-urlencoded", b"\xff\xfe=%ff", 400),
    ("application/x-www-form-urlencoded", b"a=1&a=2", 400), ("application/x-www-form-urlencoded", b"nonsense", 400),
    ("application/x-www-form-urlencoded", b"&".join(b"f%d=1" % n for n in range(50)), 400),
    ("application/x-www-form-urlencoded", b"", 403)])
async def test_a_malformed_form_gets_its_own_clear_answer(desk: Desk, kind: str, body: bytes, status: int) -> None:
    answer = await desk.client.post("/scans", content=body, headers={"Content-Type": kind})
    assert answer.status_code == status


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from(POSTS), body=st.binary(max_size=300))
def test_any_bytes_as_a_form_are_answered_without_a_crash(claimed: Desk, path: str, body: bytes) -> None:
    async def attempt() -> int:
        async with claimed.browser() as client:
            kind = {"Content-Type": "application/x-www-form-urlencoded"}
            answer = await client.post(path, content=body, headers=kind)
        return answer.status_code

    assert 400 <= asyncio.run(attempt()) < 500


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.text(max_size=60), query=st.text(max_size=60))
def test_any_address_is_answered_without_a_crash(claimed: Desk, path: str, query: str) -> None:
    async def attempt() -> int:
        token = claimed.portal.sessions.create(NAME).token
        async with claimed.browser() as client:
            client.cookies.set("__Host-session", token, domain="appliance.local")
            for base in ("/devices/", "/compliance/checks/", "/evidence/", "/"):
                url = f"{ORIGIN}{base}{quote(path, errors='replace')}?{quote(query, safe='=&', errors='replace')}"
                answer = await client.get(url)
                assert answer.status_code < 500, (base + path, answer.text)
        return 0

    asyncio.run(attempt())
