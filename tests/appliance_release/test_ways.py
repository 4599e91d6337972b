"""No release strands a device: what the publisher lets through, every updater in the field finds its way over."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance_release.publishing import refuse
from appliance_release.releases import Description, Downgrade, Former, Published, PublishError, checked
from appliance_release.ways import stranded
from appliance_update.choice import Situation, choose
from appliance_update.release import Beyond, Release, version_key
from appliance_update.release import Downgrade as ReadDowngrade


def version(number: int) -> str:
    return f"2026.11.{number}"


def published(number: int, **changes: object) -> Published:
    return replace(Published(version(number), ("t640",), "standin", "", 0, 0.0), **changes)  # type: ignore[arg-type]


def former(number: int, **changes: object) -> Former:
    return replace(Former(version(number), ("t640",), "standin"), **changes)  # type: ignore[arg-type]


def lost(*present: Published, gone: tuple[Former, ...] = ()) -> list[str]:
    return [item.version for item in stranded(list(present), list(gone))]


def test_without_conditions_everybody_reaches_the_newest() -> None:
    assert lost(published(1), published(2), published(3)) == []


def test_a_version_that_is_not_among_the_proven_ones_is_lost_unless_a_way_leads_round() -> None:
    newest = published(3, from_versions=(version(2),))
    assert lost(published(1), published(2, from_versions=(version(0),)), newest) == [version(1)]
    assert lost(published(1), published(2), newest) == []


def test_a_revoked_version_is_still_in_the_field() -> None:
    assert lost(published(3, from_versions=(version(2),)), gone=(former(1),)) == [version(1)]
    assert lost(published(3, from_versions=(version(1),)), gone=(former(1),)) == []


def test_a_revoked_version_above_the_newest_waits_for_the_fix() -> None:
    assert lost(published(3), gone=(former(4),)) == []
    assert lost(published(5, security_epoch=0), gone=(former(4, security_epoch=1),)) == [version(4)]


def test_a_newer_reader_needs_a_stepping_stone() -> None:
    assert lost(published(1), published(3, min_reader=2, reader=2)) == [version(1)]
    assert lost(published(1), published(2, reader=2), published(3, min_reader=2, reader=2)) == []


def test_a_withdrawn_version_needs_its_downgrade_or_a_fix() -> None:
    back = published(2, downgrade=Downgrade((version(4),), 9e9))
    assert lost(published(1), back, published(4)) == []
    assert lost(published(1, from_versions=(version(0),)), back, published(4)) == []


def test_other_classes_and_flavours_have_ways_of_their_own() -> None:
    other = published(9, device_classes=("t740",), from_versions=(version(8),))
    assert lost(published(1), published(2), other) == []
    assert lost(published(1), published(2, flavour="nixos", from_versions=(version(0),))) == []


def test_the_refusal_says_what_to_publish_first() -> None:
    with pytest.raises(PublishError, match=r"--stepping-stone --min-reader 1 --reader 2"):
        refuse(checked(Description(version(2), min_reader=2)), "standin", [published(1)], [])
    with pytest.raises(PublishError, match=r"--from-version 2026\.11\.1"):
        refuse(checked(Description(version(3), from_versions=(version(2),))), "standin", [published(1)], [])


def test_epochs_and_readers_never_fall() -> None:
    with pytest.raises(PublishError, match="security epoch"):
        refuse(checked(Description(version(2))), "standin", [published(1, security_epoch=1)], [])
    with pytest.raises(PublishError, match="read less"):
        refuse(checked(Description(version(2), reader=1)), "standin", [published(1, reader=2)], [])


# -- the device agrees ------------------------------------------------------------------------------------------------


@st.composite
def attempts(draw: st.DrawFn) -> list[tuple[str, Description | int]]:
    """What a publisher might try: releases of any kind, and revocations."""
    steps: list[tuple[str, Description | int]] = []
    for number in range(2, draw(st.integers(3, 9))):
        min_reader = draw(st.integers(1, 3))
        proven = draw(st.just([]) | st.lists(st.integers(1, number - 1).map(version), max_size=3, unique=True))
        description = Description(
            version(number),
            min_reader=min_reader,
            reader=draw(st.just(0) | st.integers(min_reader, 3)),
            stepping_stone=draw(st.booleans()),
            security_epoch=draw(st.integers(0, 1)),
            from_versions=tuple(proven),
        )
        steps.append(("publish", description))
        if draw(st.integers(0, 3)) == 0:
            steps.append(("revoke", draw(st.integers(1, number))))
    return steps


def field(steps: list[tuple[str, Description | int]]) -> tuple[list[Published], list[Former]]:
    """What is published after these attempts, as far as the publisher lets them through."""
    present, gone = [published(1)], []
    for kind, what in steps:
        if kind == "publish":
            assert isinstance(what, Description)
            description = checked(what)
            try:
                refuse(description, "standin", present, gone)
            except PublishError:
                continue
            present.append(
                published(
                    int(description.version.rpartition(".")[2]), min_reader=description.min_reader,
                    reader=description.reader, security_epoch=description.security_epoch,
                    stepping_stone=description.stepping_stone, from_versions=description.from_versions,
                )
            )  # fmt: skip
        else:
            release = next((item for item in present if item.version == version(int(str(what)))), None)
            rest = [item for item in present if item is not release]
            if release is None or not rest:
                continue
            left = [*gone, former(int(str(what)), reader=release.reader, security_epoch=release.security_epoch)]
            if not stranded(rest, left):
                present, gone = rest, left
    return present, gone


def as_seen(release: Published) -> Release:
    downgrade = release.downgrade and ReadDowngrade(release.downgrade.from_versions, release.downgrade.until)
    return Release(
        release.version, "", (), security_epoch=release.security_epoch, min_reader=release.min_reader,
        reader=release.reader, stepping_stone=release.stepping_stone, from_versions=release.from_versions,
        downgrade=downgrade or None,
    )  # fmt: skip


def end_of(present: list[Published], start: Published | Former) -> str:
    """Where today's updater comes to rest."""
    here = Situation(start.version, 0.0, start.security_epoch, reader=start.reader)
    for _ in range(len(present) + 1):
        offers = [as_seen(item) for item in present if item.min_reader <= here.reader]
        beyond = [Beyond(i.version, i.min_reader, i.from_versions) for i in present if i.min_reader > here.reader]
        step = choose(offers, beyond, here).release
        if step is None:
            return here.running
        here = replace(here, running=step.version, reader=step.reader, security_epoch=step.security_epoch)
    raise AssertionError("it never rests")


def greedy_end_of(present: list[Published], start: Published | Former) -> str:
    """Where the first updater ever shipped comes to rest: it takes the highest version it can read."""
    running, reader = start.version, start.reader
    while ahead := [
        item for item in present if item.min_reader <= reader and version_key(item.version) > version_key(running)
    ]:
        step = max(ahead, key=lambda item: version_key(item.version))
        running, reader = step.version, step.reader
    return running


@given(attempts())
@settings(max_examples=60)
def test_from_everything_ever_published_a_device_reaches_the_newest(
    steps: list[tuple[str, Description | int]],
) -> None:
    present, gone = field(steps)
    newest = max(present, key=lambda item: version_key(item.version)).version
    for start in (*present, *gone):
        if version_key(start.version) <= version_key(newest):
            assert end_of(present, start) == newest
            assert greedy_end_of(present, start) == newest
