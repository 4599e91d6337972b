"""Whatever anybody sends, the answer is a 4xx problem document, and the next good message is taken."""

from __future__ import annotations

import json
import urllib.parse
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance_protocol import device_api
from appliance_protocol.envelope import PayloadType, seal
from central_command import shown
from tests.central_command.rig import Central, DeviceClient, Person

pytestmark = pytest.mark.exhaustive

PATHS = {
    device_api.ENROL: PayloadType.ENROLMENT,
    device_api.CHECKIN: PayloadType.CHECKIN,
    device_api.EVIDENCE: PayloadType.EVIDENCE_UPLOAD,
    device_api.ORDER_RESULT: PayloadType.ORDER_RESULT,
}
FUZZ = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
PAGES = settings(FUZZ, max_examples=12)
text = st.text(max_size=40) | st.sampled_from(["\x00", "\ud83d", "<script>", "' OR 1=1 --", "A" * 3000, "\x1b[2J"])
number = st.integers() | st.sampled_from([2**53, 2**63, -1, 0]) | st.floats(allow_nan=False, allow_infinity=False)
SHARE = st.integers(0, 10**6)
anything = st.recursive(
    st.none() | st.booleans() | number | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)


def good_payload(device: DeviceClient, path: str) -> dict[str, Any]:
    """A message that would be taken, as plain JSON to be spoilt."""
    models: dict[str, Any] = {
        device_api.ENROL: device.request("0000-0000-0000-0000"),
        device_api.CHECKIN: device.checkin_payload(),
        device_api.EVIDENCE: device_api.EvidenceUpload(device.device_id, (device.bundle(head=device.head),)),
        device_api.ORDER_RESULT: {
            "device_id": device.device_id,
            "order_id": "ord_0",
            "state": "completed",
            "message": "",
            "at": 1.0,
            "details": {},
        },
    }
    plain: dict[str, Any] = msgspec.to_builtins(models[path])
    return plain


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [place for key, item in inner for place in leaves(item, (*path, key))]


def anywhere(value: Any, share: int) -> tuple[Any, ...]:
    """One place of a document. `share` is drawn without knowing the document, which differs from run to run."""
    places = leaves(value)
    return places[share % len(places)]


def replaced(value: Any, path: tuple[Any, ...], news: Any) -> Any:
    if not path:
        return news
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], news)
    return copy


def check(answer: Any, allowed: tuple[int, ...] = ()) -> None:
    assert answer.status_code in allowed or 400 <= answer.status_code < 500, (answer.status_code, answer.text)
    if answer.status_code not in allowed:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == answer.status_code and answer.json()["detail"]


@pytest.fixture(scope="module")
def device(central: Central) -> DeviceClient:
    return central.device()


@pytest.mark.parametrize("path", PATHS)
@FUZZ
@given(body=st.binary(max_size=300) | anything.map(lambda value: json.dumps(value).encode("utf-8", "replace")))
def test_bodies_that_are_no_envelope(device: DeviceClient, path: str, body: bytes) -> None:
    check(device.post(path, body))


@pytest.mark.parametrize("path", PATHS)
@FUZZ
@given(data=st.data())
def test_envelopes_cut_off_or_with_a_wrong_field(device: DeviceClient, path: str, data: st.DataObject) -> None:
    whole = seal(good_payload(device, path), PATHS[path], device.key)
    if data.draw(st.booleans()):
        raw = whole.to_bytes()
        body = raw[: data.draw(SHARE) % len(raw)]
    else:
        plain = msgspec.to_builtins(whole)
        place = anywhere(plain, data.draw(SHARE))
        news = data.draw(anything)
        body = json.dumps(replaced(plain, place, news)).encode("utf-8", "replace")
    check(device.post(path, body), (200,) if path != device_api.ENROL else ())


@pytest.mark.parametrize("path", PATHS)
@FUZZ
@given(data=st.data())
def test_signed_payloads_with_one_wrong_field(device: DeviceClient, path: str, data: st.DataObject) -> None:
    plain = good_payload(device, path)
    place = anywhere(plain, data.draw(SHARE))
    body = json.dumps(replaced(plain, place, data.draw(anything))).encode("utf-8", "replace")
    check(device.post(path, device.sealed(PATHS[path], body)), (200,))


@FUZZ
@given(data=st.data())
def test_signed_bundles_with_one_wrong_field_never_lose_the_good_one_after_them(
    central: Central, data: st.DataObject
) -> None:
    fresh = central.device()
    good = fresh.bundle()
    plain = json.loads(good.payload_bytes)
    place = anywhere(plain, data.draw(SHARE))
    body = json.dumps(replaced(plain, place, data.draw(anything))).encode("utf-8", "replace")
    bad = json.loads(fresh.sealed(PayloadType.EVIDENCE, body))
    upload = {"device_id": fresh.device_id, "bundles": [bad, msgspec.to_builtins(good)]}
    answer = fresh.post(device_api.EVIDENCE, fresh.sealed(PayloadType.EVIDENCE_UPLOAD, json.dumps(upload).encode()))
    assert answer.status_code == 200, answer.text
    assert fresh.check_in().evidence_head.sequence == 1


@pytest.mark.parametrize("path", PATHS)
def test_bodies_that_are_too_large_are_not_read(device: DeviceClient, path: str) -> None:
    answer = device.post(path, b"x" * (4 * 1024 * 1024 + 1))
    assert answer.status_code == 413
    check(answer)


def test_a_body_without_a_length_is_counted_as_it_comes(device: DeviceClient) -> None:
    def endless() -> Any:
        for _ in range(600):
            yield b"x" * 1024

    answer = device.session.post(device.central.url + device_api.ENROL, data=endless(), timeout=20)
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"payloadType": 1e999}',
        b"\xff\xfe",
        b"null",
        b"",
        b'{"payload":"' + b"A" * 9999,
    ],
)
@pytest.mark.parametrize("path", PATHS)
def test_hostile_documents(device: DeviceClient, path: str, body: bytes) -> None:
    check(device.post(path, body))


@pytest.mark.parametrize("path", PATHS)
def test_the_device_side_takes_nothing_but_post_and_ignores_cookies(device: DeviceClient, path: str) -> None:
    person = Person(device.central)
    assert person.session.get(device.central.url + path, timeout=20).status_code == 405
    answer = person.session.post(device.central.url + path, data=b"{}", timeout=20)
    assert answer.status_code == 400 and "set-cookie" not in answer.headers


@PAGES
@given(value=st.text(max_size=60))
def test_paths_and_filters_from_people_are_never_a_server_error(central: Central, value: str) -> None:
    person = ADMIN.setdefault(central.url, Person(central))
    url = central.url
    for path, params in (
        ("/devices", {"text": value, "site_id": value, "state": value}),
        ("/audit", {"before": value}),
        ("/api/v1/devices", {"text": value, "site_id": value, "state": value}),
        ("/login", {"next": value}),
        ("/devices/x/evidence", {"before": value}),
    ):
        params = {key: item.encode("utf-8", "replace").decode() for key, item in params.items()}
        answer = person.session.get(url + path, params=params, timeout=20, allow_redirects=False)
        assert answer.status_code < 500
    quoted = urllib.parse.quote(value.encode("utf-8", "replace"), safe="")
    for path in (
        f"/devices/{quoted}",
        f"/api/v1/orders/{quoted}",
        f"/devices/{quoted}/evidence/{quoted}",
        f"/api/v1/devices/{quoted}/orders",
        f"/static/{quoted}",
    ):
        assert person.session.get(url + path, timeout=20, allow_redirects=False).status_code < 500


@PAGES
@given(body=st.binary(max_size=200), path=st.sampled_from(["/login", "/sites", "/devices/x/orders", "/logout"]))
def test_forms_that_are_none_are_never_a_server_error(central: Central, body: bytes, path: str) -> None:
    person = ADMIN.setdefault(central.url, Person(central))
    answer = person.session.post(
        central.url + path,
        data=body,
        timeout=20,
        allow_redirects=False,
        headers={"Origin": central.url, "Content-Type": "application/x-www-form-urlencoded"},
    )
    assert 400 <= answer.status_code < 500


ADMIN: dict[str, Person] = {}


@given(st.floats() | st.none())
def test_any_time_a_device_names_can_be_shown(at: float | None) -> None:
    assert isinstance(shown.when(at), str) and isinstance(shown.iso(at), str) and isinstance(shown.span(at), str)
