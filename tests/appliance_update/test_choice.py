"""Which release is next: every rule of its own, and that no device ever walks into a dead end."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from appliance_update.choice import Choice, Situation, bucket, choose, in_cohort
from appliance_update.release import Beyond, Cohort, Downgrade, Release, version_key

NOW = 1_795_257_600.0
DAY = 86_400.0


def version(number: int) -> str:
    return f"2026.11.{number}"


def release(number: int, **changes: object) -> Release:
    return replace(Release(version(number), "0" * 64, ()), **changes)  # type: ignore[arg-type]


def at(number: int, **changes: object) -> Situation:
    return replace(Situation(version(number), NOW, device_id="0123456789abcdef" * 2), **changes)  # type: ignore[arg-type]


def unreadable(offer: Release) -> Beyond:
    """What an older updater sees of it."""
    away = offer.downgrade.from_versions if offer.downgrade else ()
    return Beyond(offer.version, offer.min_reader, offer.from_versions, away)


def chosen(offers: list[Release], here: Situation, beyond: tuple[Beyond, ...] = ()) -> str:
    found = choose(offers, beyond, here).release
    return found.version if found else ""


def walk(offers: list[Release], start: int, reader: int = 1) -> list[str]:
    """The versions that a device goes through, every update succeeding; it reads what its updater can read."""
    here, path = at(start, reader=reader), [version(start)]
    for _ in range(len(offers) + 1):
        readable = [offer for offer in offers if offer.min_reader <= here.reader]
        beyond = [unreadable(offer) for offer in offers if offer.min_reader > here.reader]
        found = choose(readable, beyond, here).release
        if found is None:
            return path
        path.append(found.version)
        here = replace(here, running=found.version, reader=max(found.reader, 1), security_epoch=found.security_epoch)
    raise AssertionError(f"it never rests: {path}")


# -- the plain case ---------------------------------------------------------------------------------------------------


def test_the_newest_release_is_taken() -> None:
    assert chosen([release(2), release(10), release(9)], at(1)) == version(10)


def test_nothing_is_newer() -> None:
    found = choose([release(1), release(2)], (), at(2))
    assert found == Choice(None, "", f"{version(2)} is up to date")


def test_a_version_that_failed_here_is_named_with_its_reason_and_a_lower_one_taken() -> None:
    failed = {version(3): "the gate failed"}
    assert chosen([release(2), release(3)], at(1, put_away=failed)) == version(2)
    found = choose([release(2), release(3)], (), at(2, put_away=failed))
    assert (found.release, found.put_away) == (None, version(3))
    assert "the gate failed" in found.sentence


def test_what_cannot_be_used_is_said_when_there_is_nothing_better() -> None:
    found = choose([], (), at(1), {"t640/x.efi": "it is for t740, not for a t640"})
    assert "x.efi is offered, but it is for t740" in found.sentence


# -- from-versions and stepping stones --------------------------------------------------------------------------------


def test_a_release_that_was_not_proven_from_here_is_not_taken_directly() -> None:
    assert chosen([release(5, from_versions=(version(4),))], at(1)) == ""
    assert "was not proven from 2026.11.1" in choose([release(5, from_versions=(version(4),))], (), at(1)).sentence


def test_the_best_release_on_the_way_is_taken_first() -> None:
    offers = [release(2), release(3), release(5, from_versions=(version(3),))]
    assert walk(offers, 1) == [version(1), version(3), version(5)]


def test_a_higher_release_that_ends_in_a_dead_end_is_passed_over() -> None:
    offers = [release(2), release(4), release(5, from_versions=(version(2),))]
    assert chosen(offers, at(1)) == version(2)


def test_a_device_that_was_off_for_twelve_releases_takes_the_stepping_stones_in_order() -> None:
    stones = (4, 7, 10)
    offers = [
        release(
            number, stepping_stone=number in stones, from_versions=tuple(version(n) for n in range(number - 3, number))
        )
        for number in range(2, 14)
    ]
    assert walk(offers, 1) == [version(n) for n in (1, 4, 7, 10, 13)]


def test_a_newer_reader_is_reached_over_the_release_that_carries_it() -> None:
    offers = [release(2, reader=2), release(3, reader=1), release(4, min_reader=2, reader=2)]
    assert walk(offers, 1) == [version(1), version(2), version(4)]


def test_a_stepping_stone_that_does_not_name_its_reader_reads_all_that_follows() -> None:
    offers, beyond = [release(2, stepping_stone=True), release(3)], (Beyond(version(9), 7),)
    assert chosen(offers, at(1), beyond) == version(2)
    assert chosen([release(2), release(3)], at(1), beyond) == version(3)


def test_a_release_for_a_newer_reader_without_any_way_is_named() -> None:
    sentence = choose([], (Beyond(version(9), 7),), at(1)).sentence
    assert version(9) in sentence
    assert "reader 7" in sentence
    assert "no stepping stone" in sentence


def test_a_stepping_stone_that_failed_here_is_not_walked_over() -> None:
    offers = [release(2), release(3), release(5, from_versions=(version(3),))]
    assert chosen(offers, at(1, put_away={version(3): "no"})) == version(2)


# -- security epoch ---------------------------------------------------------------------------------------------------


def test_a_lower_security_epoch_than_the_committed_one_is_refused() -> None:
    found = choose([release(2, security_epoch=2)], (), at(1, security_epoch=3))
    assert found.release is None
    assert "security epoch 2 is lower than 3" in found.sentence


@pytest.mark.parametrize("epoch", [3, 4])
def test_the_same_or_a_higher_security_epoch_is_taken(epoch: int) -> None:
    assert chosen([release(2, security_epoch=epoch)], at(1, security_epoch=3)) == version(2)


def test_a_way_over_a_higher_epoch_to_a_lower_one_is_no_way() -> None:
    offers = [release(2), release(3, security_epoch=5), release(4, from_versions=(version(2), version(3)))]
    assert walk(offers, 1)[1] == version(2)


# -- downgrades -------------------------------------------------------------------------------------------------------


def back(number: int, *versions: int, until: float = NOW + DAY, **changes: object) -> Release:
    return release(number, downgrade=Downgrade(tuple(version(n) for n in versions), until), **changes)


def test_a_signed_dated_downgrade_is_taken() -> None:
    assert chosen([back(3, 5), release(5)], at(5)) == version(3)


def test_nothing_lower_is_ever_taken_without_one() -> None:
    assert chosen([release(1), release(2), release(3)], at(5)) == ""


def test_a_downgrade_that_has_lapsed_is_refused() -> None:
    assert chosen([back(3, 5, until=NOW - 1)], at(5)) == ""


def test_a_downgrade_for_other_versions_is_refused() -> None:
    assert chosen([back(3, 6)], at(5)) == ""


def test_a_downgrade_below_the_security_epoch_is_refused() -> None:
    assert chosen([back(3, 5, security_epoch=1)], at(5, security_epoch=2)) == ""
    assert chosen([back(3, 5, security_epoch=2)], at(5, security_epoch=2)) == version(3)


def test_a_fix_is_taken_rather_than_a_downgrade() -> None:
    assert chosen([back(3, 5), release(6)], at(5)) == version(6)


@pytest.mark.parametrize("until", [NOW + DAY, NOW - DAY])
def test_after_a_downgrade_the_withdrawn_version_is_not_taken_again(until: float) -> None:
    assert chosen([back(3, 5, until=until), release(5)], at(3)) == ""
    assert chosen([back(3, 5, until=until), release(5)], at(1)) == version(3)


def test_a_downgrade_that_this_updater_cannot_read_withdraws_all_the_same() -> None:
    """Else a device that came back over it would go there again, and back again."""
    assert chosen([release(5)], at(3), (Beyond(version(3), 2, (), (version(5),)),)) == ""


# -- cohorts ----------------------------------------------------------------------------------------------------------


def test_the_bucket_is_the_documented_hash() -> None:
    digest = hashlib.sha256(b"0123456789abcdef0123456789abcdef" + b"2026.11.2").hexdigest()
    assert bucket("0123456789abcdef0123456789abcdef", "2026.11.2") == int(digest, 16) % 100
    assert bucket("0123456789abcdef0123456789abcdef", "2026.11.2") == 53, "it must never change: rollouts are under way"


@given(st.text(max_size=40), st.text(max_size=20), st.integers(-10, 110), st.integers(0, 60))
def test_a_wider_rollout_never_leaves_out_who_had_it(device: str, salt: str, percent: int, more: int) -> None:
    if in_cohort(Cohort(percent, salt), device):
        assert in_cohort(Cohort(percent + more, salt), device)
    assert in_cohort(Cohort(100, salt), device)
    assert not in_cohort(Cohort(0, salt), device)


def test_a_tenth_is_about_a_tenth_and_another_salt_draws_anew() -> None:
    devices = [f"{number:032x}" for number in range(5000)]
    first = {device for device in devices if in_cohort(Cohort(10, "a"), device)}
    second = {device for device in devices if in_cohort(Cohort(10, "b"), device)}
    assert 400 < len(first) < 600
    assert len(first & second) < 100


def test_a_device_without_an_id_comes_last() -> None:
    assert not in_cohort(Cohort(99, "a"), "")
    assert in_cohort(Cohort(100, "a"), "")


def test_who_is_not_in_the_cohort_takes_the_release_before() -> None:
    assert chosen([release(2), release(3, cohort=Cohort(0, "x"))], at(1)) == version(2)
    assert "rollout has not come" in choose([release(3, cohort=Cohort(0, "x"))], (), at(1)).sentence


# -- invariants -------------------------------------------------------------------------------------------------------

VERSIONS = st.integers(1, 8)


@st.composite
def offered(draw: st.DrawFn) -> list[Release]:
    numbers = draw(st.lists(VERSIONS, unique=True, max_size=7))
    found = []
    for number in numbers:
        lower = st.lists(st.integers(1, max(number - 1, 1)).map(version), max_size=3, unique=True)
        higher = st.lists(st.integers(number + 1, number + 3).map(version), min_size=1, max_size=2, unique=True)
        min_reader = draw(st.integers(1, 3))
        found.append(
            release(
                number,
                min_reader=min_reader,
                reader=draw(st.just(0) | st.integers(min_reader, 3)),
                from_versions=tuple(draw(st.just([]) | lower)),
                security_epoch=draw(st.integers(0, 2)),
                cohort=draw(st.none() | st.builds(Cohort, st.integers(0, 100), st.sampled_from("ab"))),
                downgrade=draw(
                    st.none() | st.builds(Downgrade, higher.map(tuple), st.sampled_from([NOW - DAY, NOW + DAY]))
                ),
            )
        )
    return found


SITUATIONS = st.builds(
    lambda number, epoch, away, device: at(
        number, security_epoch=epoch, put_away={version(n): "it failed" for n in away}, device_id=device
    ),
    VERSIONS, st.integers(0, 2), st.sets(VERSIONS, max_size=2), st.sampled_from(["", "a" * 32, "b" * 32]),
)  # fmt: skip


@given(offered(), SITUATIONS)
def test_whatever_is_offered_no_rule_is_ever_broken(offers: list[Release], here: Situation) -> None:
    readable = [offer for offer in offers if offer.min_reader <= 1]
    beyond = [unreadable(offer) for offer in offers if offer.min_reader > 1]
    found = choose(readable, beyond, here)
    if found.release is None:
        assert found.sentence
        return
    step = found.release
    assert step in readable
    assert step.version not in here.put_away
    assert step.security_epoch >= here.security_epoch
    assert in_cohort(step.cohort, here.device_id)
    if version_key(step.version) > version_key(here.running):
        assert not step.from_versions or here.running in step.from_versions
    else:
        assert step.downgrade is not None
        assert here.running in step.downgrade.from_versions
        assert here.now <= step.downgrade.until


@given(offered(), SITUATIONS, st.randoms(use_true_random=False))
def test_the_order_in_which_releases_are_listed_does_not_matter(
    offers: list[Release], here: Situation, random: object
) -> None:
    shuffled = list(offers)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert choose(offers, (), here) == choose(shuffled, (), here)


@given(offered(), VERSIONS)
def test_every_device_comes_to_rest_without_a_downgrade_it_only_rises(offers: list[Release], start: int) -> None:
    plain = [replace(offer, downgrade=None) for offer in offers]
    path = walk(plain, start)
    assert all(version_key(first) < version_key(second) for first, second in pairwise(path))


@given(offered(), VERSIONS)
def test_downgrades_never_make_a_device_go_round_in_circles(offers: list[Release], start: int) -> None:
    path = walk(offers, start)
    assert len(set(path)) == len(path)


@given(offered(), VERSIONS)
def test_no_other_first_step_leads_higher(offers: list[Release], start: int) -> None:
    """Against an exhaustive search over all ways."""
    plain = [replace(offer, downgrade=None, cohort=None, min_reader=1, security_epoch=0) for offer in offers]
    path = walk(plain, start)
    assume(len(path) > 1)

    def best(current: str) -> tuple[int, ...]:
        ahead = [
            best(offer.version)
            for offer in plain
            if version_key(offer.version) > version_key(current)
            and (not offer.from_versions or current in offer.from_versions)
        ]
        return max([version_key(current), *ahead])

    assert version_key(path[-1]) == best(version(start))
