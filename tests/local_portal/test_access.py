"""Who gets in: the claim code, passwords, lockout, sessions."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_portal import passwords
from local_portal.store import normalise_code, open_database
from local_portal.throttle import ACCOUNT, ADDRESS, EVERYBODY, Limit, Throttle
from local_portal.web import SESSION_COOKIE, safe_next
from tests.local_portal.conftest import NAME, PASSWORD, Desk, Hands


async def claim(desk: Desk, code: str | None = None, **other: str) -> int:
    fields = {"code": code or desk.portal.store.claim_code() or "", "name": NAME, "password": PASSWORD,
              "again": PASSWORD, **other}
    return (await desk.post("/claim", "/claim", **fields)).status_code


@pytest.mark.parametrize("path", ["/", "/devices", "/devices/dev-0001", "/compliance", "/evidence", "/evidence/1284",
                                  "/evidence/1284/download", "/updates", "/system", "/account", "/login", "/nothing"])
async def test_the_first_visitor_without_the_code_gets_nothing_but_the_claim_page(unclaimed: Desk, path: str) -> None:
    answer = await unclaimed.client.get(path)
    assert (answer.status_code, answer.headers["location"]) == (303, "/claim")
    assert not unclaimed.portal.agent._waiting


async def test_the_claim_page_says_nothing_about_the_clinic(unclaimed: Desk) -> None:
    page = (await unclaimed.client.get("/claim")).text
    assert "Riverside" not in page and "2026.11" not in page and unclaimed.portal.store.claim_code() not in page


async def test_the_code_works_once_in_any_case_and_with_confusable_letters(unclaimed: Desk) -> None:
    code = unclaimed.portal.store.claim_code() or ""
    typed = code.lower().replace("-", " ").replace("0", "o").replace("1", "l")
    assert await claim(unclaimed, typed) == 303
    assert unclaimed.portal.store.claimed() and unclaimed.portal.store.claim_code() is None
    assert (await unclaimed.browser().get("/claim")).headers["location"] == "/login"


async def test_a_wrong_code_claims_nothing(unclaimed: Desk) -> None:
    assert await claim(unclaimed, "0000-0000-0000") == 403
    assert not unclaimed.portal.store.claimed()


async def test_two_people_with_the_same_code_at_once_make_one_account(unclaimed: Desk) -> None:
    code = unclaimed.portal.store.claim_code() or ""
    await unclaimed.token("/claim")
    await asyncio.gather(*(claim(unclaimed, code, name=f"person{number}") for number in range(3)))
    rows = unclaimed.portal.store.database.execute("SELECT count(*) FROM account").fetchone()
    assert rows == (1,)


@pytest.mark.parametrize("fields", [
    {"password": "too short", "again": "too short"}, {"again": "meadow lantern orbit 8"}, {"name": "x"},
    {"name": "a b"}, {"name": "<b>bold</b>"}, {"password": "passwordpassword", "again": "passwordpassword"}])
async def test_a_bad_name_or_password_is_refused_and_the_code_stays_good(
    unclaimed: Desk, fields: dict[str, str]
) -> None:
    code = unclaimed.portal.store.claim_code()
    assert await claim(unclaimed, **fields) == 422
    assert unclaimed.portal.store.claim_code() == code


async def test_guessing_the_claim_code_is_slowed_down_ever_more(unclaimed: Desk) -> None:
    answers = [await claim(unclaimed, f"0000-0000-00{number:02}") for number in range(8)]
    assert answers == [403] * ADDRESS.free + [429] * 3
    code = unclaimed.portal.store.claim_code() or ""
    assert await claim(unclaimed, code) == 429  # even the right one has to wait
    unclaimed.hands.forward(ADDRESS.first + 1)
    assert await claim(unclaimed, code) == 303


async def test_guessing_passwords_is_slowed_down_by_account_from_many_addresses(claimed: Desk) -> None:
    statuses = []
    for number in range(ACCOUNT.free + 2):
        desk = Desk(claimed.portal, claimed.hands, claimed.browser(f"10.77.1.{number}"))
        statuses.append((await desk.login("wrong wrong wrong wrong")).status_code)
    assert statuses == [403] * ACCOUNT.free + [429] * 2


async def test_many_guesses_at_once_do_not_slip_through_together(claimed: Desk) -> None:
    token = await claimed.token("/login")
    fields = {"token": token, "name": NAME, "password": "wrong wrong wrong"}
    answers = await asyncio.gather(*(claimed.client.post("/login", data=fields) for _ in range(12)))
    assert sorted(answer.status_code for answer in answers) == [403] * ADDRESS.free + [429] * (12 - ADDRESS.free)


async def test_a_successful_login_forgets_the_failures_before(claimed: Desk) -> None:
    for _ in range(ADDRESS.free - 1):
        assert (await claimed.login("wrong wrong wrong")).status_code == 403
    assert (await claimed.login()).status_code == 303
    other = Desk(claimed.portal, claimed.hands, claimed.browser())
    assert (await other.login("wrong wrong wrong")).status_code == 403


async def test_an_unknown_name_and_a_wrong_password_get_the_same_answer(claimed: Desk) -> None:
    first, second = await claimed.login("wrong wrong wrong"), await claimed.login("wrong wrong wrong", name="nobody")
    assert first.status_code == second.status_code == 403
    assert "Name or password is wrong." in first.text and "Name or password is wrong." in second.text


def test_lockouts_survive_a_restart_of_the_portal(tmp_path_factory: pytest.TempPathFactory) -> None:
    path, hands = tmp_path_factory.mktemp("run") / "sessions.db", Hands()
    first = Throttle(open_database(path), lambda: hands.boot)
    while first.admit("login", "10.0.0.9", "x") == 0:
        pass
    assert Throttle(open_database(path), lambda: hands.boot).admit("login", "10.0.0.9", "x") > 0


def test_a_host_with_a_whole_ipv6_network_counts_as_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    throttle = Throttle(open_database(tmp_path_factory.mktemp("run") / "s.db"), lambda: 5.0)
    waits = [throttle.admit("claim", f"fd00::1:{number:x}") for number in range(ADDRESS.free + 1)]
    assert waits[-1] > 0 and not any(waits[:-1])


def test_a_flood_of_invented_names_neither_fills_the_disk_nor_washes_out_the_common_counter(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    database, hands = open_database(tmp_path_factory.mktemp("run") / "s.db"), Hands()
    throttle = Throttle(database, lambda: hands.boot)
    for number in range(EVERYBODY.free + 20):
        hands.forward(EVERYBODY.longest + 1)
        assert throttle.admit("login", f"10.0.{number}.1", f"name{number}") == 0
    database.executemany("INSERT INTO attempt VALUES (?, 1, ?)", ((f"x{n}", hands.boot) for n in range(4000)))
    hands.forward(EVERYBODY.longest + 1)
    assert throttle.admit("login", "10.1.1.1", "one-more") == 0
    rows = database.execute("SELECT count(*) FROM attempt").fetchone()[0]
    assert rows <= 2001
    assert throttle.admit("login", "192.168.9.9", "somebody-else") > 0


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_more_failures_never_mean_a_shorter_wait(one: int, other: int) -> None:
    for limit in (ADDRESS, ACCOUNT, EVERYBODY, Limit(1, 1, 10)):
        assert 0 <= limit.wait(min(one, other)) <= limit.wait(max(one, other)) <= limit.longest


def test_strangers_can_lock_everybody_out_for_a_minute_at_most() -> None:
    assert EVERYBODY.wait(10**6) == 60


async def test_a_session_ends_when_nobody_uses_it(desk: Desk) -> None:
    desk.hands.forward(29 * 60)
    assert (await desk.client.get("/system")).status_code == 200
    desk.hands.forward(29 * 60)
    assert (await desk.client.get("/system")).status_code == 200
    desk.hands.forward(30 * 60)
    assert (await desk.client.get("/system")).status_code == 303


async def test_a_session_ends_after_twelve_hours_however_busy(desk: Desk) -> None:
    for _ in range(12 * 60 // 20 - 1):
        desk.hands.forward(20 * 60)
        assert (await desk.client.get("/updates")).status_code == 200
    desk.hands.forward(20 * 60)
    assert (await desk.client.get("/updates")).status_code == 303


async def test_a_page_that_refreshes_itself_does_not_keep_the_session_alive(desk: Desk) -> None:
    for _ in range(29):
        desk.hands.forward(60)
        assert (await desk.client.get("/updates", headers={"X-Refresh": "1"})).status_code == 200
    desk.hands.forward(61)
    assert (await desk.client.get("/updates")).status_code == 303


async def test_a_clock_that_jumps_from_1970_to_today_ends_no_session(desk: Desk) -> None:
    desk.hands.wall = 12.0
    assert (await desk.client.get("/system")).status_code == 200
    desk.hands.wall = 1.8e9
    assert (await desk.client.get("/system")).status_code == 200


async def test_logging_out_ends_the_session_on_the_server(desk: Desk) -> None:
    stolen = desk.client.cookies[SESSION_COOKIE]
    assert (await desk.post("/logout", "/")).headers["location"] == "/login"
    thief = desk.browser()
    thief.cookies.set(SESSION_COOKIE, stolen, domain="appliance.local")
    assert (await thief.get("/system")).status_code == 303


async def test_a_login_never_takes_over_a_session_the_browser_brought(claimed: Desk) -> None:
    planted = "A" * 43
    claimed.client.cookies.set(SESSION_COOKIE, planted, domain="appliance.local")
    given = (await claimed.login()).headers.get_list("set-cookie")
    assert any(cookie.startswith(SESSION_COOKIE) for cookie in given) and planted not in "".join(given)
    assert claimed.portal.sessions.find(planted) is None


async def test_cookies_are_bound_to_this_host_and_hidden_from_scripts(claimed: Desk) -> None:
    answer = await claimed.login()
    cookie = next(value for value in answer.headers.get_list("set-cookie") if value.startswith(SESSION_COOKIE))
    assert cookie.startswith("__Host-session=")
    for flag in ("HttpOnly", "Secure", "SameSite=strict", "Path=/"):
        assert flag in cookie
    assert "Domain" not in cookie and "Max-Age" not in cookie


async def test_changing_the_password_ends_every_other_session(desk: Desk) -> None:
    other = Desk(desk.portal, desk.hands, desk.browser())
    assert (await other.login()).status_code == 303
    changed = await desk.post("/account", "/account", current=PASSWORD, password="a wholly different phrase",
                              again="a wholly different phrase")
    assert changed.status_code == 303
    assert (await desk.client.get("/system")).status_code == 200
    assert (await other.client.get("/system")).status_code == 303
    assert (await other.login("a wholly different phrase")).status_code == 303


async def test_changing_the_password_needs_the_current_one(desk: Desk) -> None:
    refused = await desk.post("/account", "/account", current="wrong wrong wrong", password="a wholly different phrase",
                              again="a wholly different phrase")
    assert refused.status_code == 403


async def test_a_reset_of_the_claim_ends_every_session_at_once(desk: Desk) -> None:
    code = desk.portal.store.reset_claim()
    assert (await desk.client.get("/system")).headers["location"] == "/claim"
    assert await claim(desk, code) == 303


async def test_who_did_what_is_kept_and_shown(claimed: Desk) -> None:
    desk = claimed
    await desk.login()
    await Desk(desk.portal, desk.hands, desk.browser("10.77.0.99")).login("wrong wrong wrong")
    page = (await desk.client.get("/system")).text
    assert "login refused" in page and "10.77.0.99" in page and "logged in" in page


@pytest.mark.parametrize("password", [
    "short", "fourteen chars", "passwordpassword", "PasswordPassword", "123456789012345", "aaaaaaaaaaaaaaaaaaaa",
    "abcabcabcabcabcabc", "abababababababab", "abcdefghijklmnop", "987654321098765", "correct horse battery staple",
    "dr.okafor dr.okafor", "appliance-portal-1", "x" * 300])
def test_weak_passwords_are_refused(password: str) -> None:
    assert passwords.objections(password, "dr.okafor")


@pytest.mark.parametrize("password", [
    "meadow lantern orbit 7",
    "zehn kleine Igel fahren", "ääääääää öööööö üü ß x",
    "河上の月がとても綺麗だったので", "7431 9027 5518 6602"])
def test_long_passwords_need_no_special_characters(password: str) -> None:
    assert passwords.objections(password, "dr.okafor") == []


def test_a_password_typed_in_another_unicode_form_is_the_same(password_hash: str) -> None:
    assert passwords.verify(PASSWORD.replace("e", "\uff45"), password_hash)
    assert not passwords.verify(PASSWORD.upper(), password_hash)


def test_the_hash_is_argon2id_with_64_mib(password_hash: str) -> None:
    assert password_hash.startswith("$argon2id$v=19$m=65536,t=3,p=1$")


@given(st.text(max_size=40))
def test_any_typed_code_can_be_compared(code: str) -> None:
    assert isinstance(normalise_code(code), bytes)


@given(st.text(max_size=60) | st.sampled_from([
    "//evil.example", "/\\evil.example", "https://evil.example", "/login", "javascript:alert(1)", "/%0d%0aX: y",
    "/\r\nX"]))
def test_after_login_nobody_is_sent_to_another_site(target: str) -> None:
    found = safe_next(target)
    assert found.startswith("/") and not found.startswith(("//", "/\\")) and "\n" not in found and "\r" not in found
