"""The vendor table: every prefix of every registry, the longest first, and nothing for made-up addresses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from network_scanner import oui
from network_scanner.oui import OuiError, VendorTable, compile_directory, compile_table, read_registry

SOURCE = Path("/usr/share/ieee-data")
installed = pytest.mark.skipif(not SOURCE.exists(), reason="the package ieee-data is not installed")


@installed
def test_every_prefix_of_the_installed_registries_is_found() -> None:
    table, entries = VendorTable(compile_directory(SOURCE)), dict[tuple[int, int], str]()
    for registry in oui.REGISTRIES:
        with (SOURCE / registry).open(encoding="utf-8", errors="replace", newline="") as file:
            for bits, prefix, name in read_registry(iter(file)):
                entries.setdefault((bits, prefix), name)
    assert len(table) == len(entries) > 40_000
    for (bits, prefix), name in list(entries.items())[::7]:
        mac = (prefix << (48 - bits) | 1).to_bytes(6, "big")
        if mac[0] & 2:
            continue
        longer = [entries[size, int.from_bytes(mac, "big") >> (48 - size)] for size in (36, 28) if size > bits
                  and (size, int.from_bytes(mac, "big") >> (48 - size)) in entries]
        assert table.vendor(mac.hex(":")) == (longer or [name])[0]


def test_the_shipped_table_knows_a_vendor_of_each_registry() -> None:
    table = VendorTable.load()
    known = {
        "00:09:fb:00:00:01": "Philips Patient Monitoring",  # MA-L
        "50:a0:30:80:00:01": "GE Medical System China Co. Ltd.",  # MA-M
        "70:b3:d5:71:90:01": "2M Technology",  # MA-S
        "00:50:c2:7d:50:01": "DEUTA-WERKE GmbH",  # IAB
    }
    assert {mac: table.vendor(mac) for mac in known} == known
    assert len(table) > 40_000


def test_the_longest_prefix_wins_over_the_block_it_lies_in() -> None:
    table = VendorTable(compile_table({(24, 0x70B3D5): "Block", (36, 0x70B3D5719): "Small", (28, 0x70B3D58): "Middle"}))
    assert table.vendor("70:b3:d5:71:9f:ff") == "Small"
    assert table.vendor("70:b3:d5:80:00:00") == "Middle"
    assert table.vendor("70:b3:d5:00:00:00") == "Block"
    assert table.vendor("70:b3:d6:00:00:00") == ""


@given(st.integers(0, 2**48 - 1))
def test_a_locally_administered_address_never_has_a_vendor(value: int) -> None:
    mac = (value | 2 << 40).to_bytes(6, "big").hex(":")
    assert VendorTable.load().vendor(mac) == ""


@given(st.dictionaries(
    st.one_of(*(st.tuples(st.just(bits), st.integers(0, 2**bits - 1)) for bits in (24, 28, 36))),
    st.text(st.characters(min_codepoint=33, max_codepoint=0x2FFF), min_size=1, max_size=80), max_size=30,
))
@settings(max_examples=60, deadline=None)
def test_what_is_compiled_is_found_again(entries: dict[tuple[int, int], str]) -> None:
    table = VendorTable(compile_table(entries))
    for (bits, prefix), name in entries.items():
        mac = (prefix << (48 - bits)).to_bytes(6, "big")
        hidden = any((size, int.from_bytes(mac, "big") >> (48 - size)) in entries for size in (28, 36) if size > bits)
        if not mac[0] & 2 and not hidden:
            assert table.vendor(mac.hex(":")) == name.encode()[:255].decode("utf-8", "ignore")


@given(st.lists(st.text(max_size=80), max_size=20))
@settings(max_examples=100, deadline=None)
def test_a_damaged_registry_file_yields_what_can_be_read(lines: list[str]) -> None:
    good = "MA-L,001122,Good Vendor,Somewhere\n"
    found = list(read_registry(iter([good, *lines])))
    assert found[0] == (24, 0x001122, "Good Vendor")
    for bits, prefix, name in found:
        assert bits in (24, 28, 36)
        assert name.isprintable()
        assert 0 <= prefix < 2**bits


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_a_damaged_table_is_refused_or_answers_but_never_crashes(raw: bytes) -> None:
    for data in (raw, compile_table({(24, 1): "A"})[: len(raw)], oui.MAGIC + raw):
        try:
            VendorTable(data).vendor("00:00:01:00:00:00")
        except OuiError:
            continue


def test_compiling_from_an_empty_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(OuiError, match="ieee-data"):
        compile_directory(tmp_path)


def test_the_table_costs_little_memory_and_space() -> None:
    path = Path(oui.__file__).parent / "data" / "oui.bin"
    assert path.stat().st_size < 1_500_000
    code = (
        "import resource\nfrom network_scanner.oui import VendorTable\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\ntable = VendorTable.load()\n"
        "for number in range(20000):\n"
        "    table.vendor('%02x:%02x:%02x:00:00:01' % (number & 252, number >> 7 & 255, number % 251))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 5 * 1024
