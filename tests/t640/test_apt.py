"""The mirror comes from the machine's own apt, never from this repository."""

from __future__ import annotations

import pytest

from t640.apt import Mirror, choose_mirror, choose_settings
from t640.errors import Missing

TARGETS = """\
http://mirror.example/debian/ bookworm main
http://mirror.example/debian/ bookworm-updates main
http://mirror.example/security/ bookworm-security main
http://other.example/things/ nodistro main
"""


def test_the_main_archive_of_the_running_release_is_chosen() -> None:
    assert choose_mirror(TARGETS, "bookworm") == "http://mirror.example/debian"


def test_security_updates_have_their_own_address() -> None:
    assert choose_mirror(TARGETS, "bookworm-security") == "http://mirror.example/security"


def test_a_machine_without_a_source_is_told_where_to_look() -> None:
    with pytest.raises(Missing, match=r"/etc/apt/sources\.list"):
        choose_mirror("http://other.example/things/ nodistro main\n", "bookworm")


def test_only_settings_that_help_to_reach_the_mirror_are_taken_over() -> None:
    dump = """\
APT::NeverAutoRemove:: "^linux";
Acquire::http "";
Acquire::http::Proxy "http://proxy.example:3142";
Acquire::https::Verify-Peer "true";
Acquire::httpx::Something "no";
DPkg::Pre-Install-Pkgs:: "/usr/bin/touch /tmp/oops";
Acquire::Check-Date "false";
"""
    assert choose_settings(dump) == (
        'Acquire::http::Proxy "http://proxy.example:3142";',
        'Acquire::https::Verify-Peer "true";',
        'Acquire::Check-Date "false";',
    )


def test_the_stable_release_brings_its_security_updates_and_others_do_not() -> None:
    mirror = Mirror("http://mirror.example/debian", "http://mirror.example/security", ())
    assert "Suites: trixie-security" in mirror.sources_file("trixie")
    assert "security" not in mirror.sources_file("forky")
