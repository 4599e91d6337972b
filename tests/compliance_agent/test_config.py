"""Every configuration that ever existed can be read, and every mistake is named without stopping the service."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance_protocol.orders import Order, OrderState, OrderType
from compliance_agent import config_file
from compliance_agent.config import Config
from compliance_agent.config_file import ConfigError
from compliance_agent.orders.base import discover
from tests.compliance_agent.agent_world import SettableCheck, agent_in
from tests.compliance_agent.central_peer import DEVICE

CORPUS = Path(__file__).parent / "corpus"
READABLE = sorted(CORPUS.glob("*.toml"))
BROKEN = sorted((CORPUS / "broken").iterdir())
EVERY = [pytest.param(path, id=path.name) for path in (*READABLE, *BROKEN)]


@pytest.mark.parametrize("path", [pytest.param(path, id=path.name) for path in READABLE])
def test_every_past_and_future_format_loads_without_an_error_worth_stopping_for(path: Path) -> None:
    assert config_file.load_leniently(path).errors == []


@pytest.mark.parametrize("path", EVERY)
@pytest.mark.parametrize("kind", list(OrderType))
async def test_every_order_handler_runs_with_every_configuration_there_ever_was(
    path: Path, kind: OrderType, tmp_path: Path
) -> None:
    reading = config_file.load_leniently(path)
    agent = agent_in(tmp_path, SettableCheck())
    agent.config = Config(
        reading.config.log_level,
        reading.config.central,
        reading.config.evidence,
        reading.config.store,
        agent.config.paths,
        reading.config.checks,
    )
    parameters = {"version": "2026.11.2"}
    if kind is OrderType.NIXOS_REBUILD:
        parameters = {"store_path": f"/nix/store/{'a' * 32}-nixos-system"}
    order = Order("order-1", DEVICE, kind.value, 0.0, 1e12, parameters)
    agent.store.receive(order, 0.0)
    for name in ("check-in",):
        agent.tasks[name].start()
    await agent.orders.step(DEVICE)
    record = agent.store.order("order-1")
    await agent.tasks["check-in"].stop()
    assert record is not None
    expected = {
        OrderType.FORCE_CHECKIN: (OrderState.COMPLETED, ""),  # not enrolled: the round is a good one and sends nothing
        OrderType.RUN_CHECKS: (OrderState.FAILED, "the device has no key yet"),
        OrderType.RUN_SCAN: (OrderState.FAILED, "scanner.sock"),
        OrderType.UPDATE: (OrderState.EXECUTING, "The updater was asked."),
        OrderType.NIXOS_REBUILD: (OrderState.EXECUTING, "The updater was asked."),
    }
    state, words = expected[kind]
    assert (record.state, words in record.message) == (state, True), record.message


def test_every_order_type_has_a_handler() -> None:
    assert set(discover()) == set(OrderType)


def test_a_missing_file_is_all_defaults(tmp_path: Path) -> None:
    assert config_file.load(tmp_path / "none.toml").config == Config()


def test_an_unreadable_file_is_told_and_the_defaults_are_in_force(tmp_path: Path) -> None:
    reading = config_file.load_leniently(tmp_path)  # a directory
    assert reading.config == Config()
    assert "Is a directory" in reading.errors[0]


def test_every_error_names_file_key_and_reason() -> None:
    with pytest.raises(ConfigError) as raised:
        config_file.load(CORPUS / "broken/wrong-types.toml")
    lines = str(raised.value).splitlines()
    assert len(lines) == 6
    for line, key in zip(
        lines,
        (
            "log_level",
            "central.checkin_interval",
            "central.jitter",
            "evidence.interval",
            "paths.state",
            "store.retention_days",
        ),
        strict=True,
    ):
        assert "wrong-types.toml: " + key + ": Expected" in line or "wrong-types.toml: " + key + ": Invalid" in line
        assert line.endswith("its default is in force")


def test_a_wrong_value_leaves_the_others_in_force() -> None:
    reading = config_file.parse(b"[central]\ncheckin_interval = 'x'\njitter = 0.3\n", "c.toml")
    assert reading.config.central.jitter == 0.3
    assert reading.config.central.checkin_interval == 60


def test_unknown_keys_are_warnings_and_old_ones_say_what_took_their_place() -> None:
    reading = config_file.parse(b'api_key = "secret"\n[central]\nflavour = 1\n[moon]\nphase = 2\n', "c.toml")
    assert reading.errors == []
    assert len(reading.warnings) == 3
    assert "delete this one" in reading.warnings[0]
    assert "secret" not in "\n".join([w.replace("it is a secret", "") for w in reading.warnings])
    assert "central.flavour: not a known key" in reading.warnings[1]


def test_the_shipped_configuration_is_all_defaults_and_explains_only_keys_that_exist() -> None:
    shipped = Path(__file__).parents[2] / "agent/compliance-agent/etc/config.toml"
    assert config_file.load(shipped).config == Config()
    lines = shipped.read_text().splitlines()
    uncommented = [line.removeprefix("# ") if line.startswith("# ") and " = " in line else line for line in lines]
    reading = config_file.parse("\n".join(line for line in uncommented if not line.startswith("#")).encode(), "shipped")
    assert (reading.errors, reading.warnings) == ([], [])
    assert reading.config == Config()


@given(st.binary(max_size=300))
def test_no_bytes_make_the_reader_raise(document: bytes) -> None:
    config_file.parse(document, "c.toml")


@given(st.data())
def test_no_truncation_of_a_real_configuration_makes_it_raise(data: st.DataObject) -> None:
    document = data.draw(st.sampled_from([path.read_bytes() for path in (*READABLE, *BROKEN)]))
    cut = data.draw(st.integers(0, len(document)))
    config_file.parse(document[:cut] + data.draw(st.binary(max_size=8)), "c.toml")


VALUES = st.recursive(
    st.one_of(st.booleans(), st.integers(-(2**62), 2**62), st.floats(allow_nan=True), st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=6,
)


@given(VALUES, st.sampled_from(["central", "evidence", "checks", "paths", "log_level"]))
def test_no_value_of_any_type_at_any_key_makes_it_raise(value: object, key: str) -> None:
    reader = config_file._Reader("c.toml")
    for values in ({key: value}, {key: {"interval": value, "disabled": value, "state": value, "jitter": value}}):
        config = reader.table(values, Config, "")
        assert isinstance(config, Config)
        assert config.policy_digest


def test_a_configuration_of_many_megabytes_is_refused_and_not_parsed() -> None:
    reading = config_file.parse(b"#" * (config_file.MAX_CONFIG + 1), "c.toml")
    assert "larger than" in reading.errors[0]
