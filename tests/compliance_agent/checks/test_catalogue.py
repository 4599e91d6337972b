"""What checks claim, and the page that is made of it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from appliance_protocol.verdict import Coverage, Framework
from compliance_agent.checks._citations import HIPAA, PARTIAL, hipaa
from compliance_agent.checks.base import Check, discover
from compliance_agent.checks.catalogue import catalogue
from compliance_agent.checks.settings import CheckSettings

CHECKS = discover()
PAGE = Path(__file__).parents[3] / "docs/checks.md"
SPECIFICATION = re.compile(r"164\.3(08|10|12)(\([a-e]\))(\([1-8]\))(\((i|ii|iii|iv)\))(\([A-E]\))?$")
STANDARDS_WITHOUT_SPECIFICATIONS = {"164.310(c)", "164.312(b)", "164.312(d)"}
EACH = pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)


def test_the_page_of_checks_is_current() -> None:
    made = catalogue(CHECKS)
    assert PAGE.read_text() == made, "run: python -m compliance_agent.checks.catalogue > docs/checks.md"


@EACH
def test_a_check_cites_both_frameworks_and_no_requirement_twice(check: Check) -> None:
    frameworks = [citation.framework for citation in check.citations]
    references = [citation.reference for citation in check.citations]
    assert set(frameworks) == set(Framework)
    assert len(references) == len(set(references))


@EACH
def test_a_check_says_who_reads_it_what_a_pass_does_not_prove_and_what_to_do_next(check: Check) -> None:
    for text in (check.does_not_prove, check.remedy):
        assert len(text) > 30
        assert text.endswith(".")
    assert check.reads
    assert not check.reads.endswith(".")
    assert check.does_not_prove.startswith(("That ", "What ", "Whose ", "Who ", "Why ", "Where "))
    assert check.expiry >= 2 * check.interval, "one late run must not make a pass stale"


@EACH
def test_no_check_claims_to_prove_a_requirement_wholly(check: Check) -> None:
    """Every one of these rules is about people and documents too; an appliance alone proves none of them."""
    assert {citation.coverage for citation in check.citations} <= {Coverage.PARTIAL, Coverage.HUMAN}


@pytest.mark.parametrize("reference", HIPAA)
def test_hipaa_is_cited_at_the_level_of_the_implementation_specification_where_there_is_one(reference: str) -> None:
    citation = hipaa(reference, PARTIAL)
    if reference in STANDARDS_WITHOUT_SPECIFICATIONS:
        assert citation.required is None
    else:
        assert SPECIFICATION.match(reference)
        assert citation.required is not None


@pytest.mark.parametrize(
    ("reference", "title", "required"),
    [
        # 45 CFR part 164, appendix A to subpart C.
        ("164.308(a)(1)(ii)(D)", "Information system activity review", True),
        ("164.308(a)(5)(ii)(C)", "Log-in monitoring", False),
        ("164.312(a)(2)(i)", "Unique user identification", True),
        ("164.312(a)(2)(iv)", "Encryption and decryption", False),
        ("164.312(e)(2)(ii)", "Encryption", False),
        ("164.312(b)", "Audit controls", None),
    ],
)
def test_titles_and_marks_are_those_of_the_rule(reference: str, title: str, required: bool | None) -> None:
    citation = hipaa(reference, PARTIAL)
    assert (citation.title, citation.required) == (title, required)


def test_every_citation_of_the_table_is_used() -> None:
    used = {citation.reference for check in CHECKS for citation in check.citations}
    assert set(HIPAA) <= used


def test_the_shipped_configuration_shows_every_setting_of_the_checks_with_its_default() -> None:
    shipped = (PAGE.parents[1] / "agent/compliance-agent/etc/config.toml").read_text()
    shown = re.sub(r"^# (?=\w+ = )", "", shipped[shipped.index("[checks]") :], flags=re.MULTILINE)
    assert msgspec.convert(tomllib.loads(shown)["checks"], CheckSettings) == CheckSettings()
    assert set(tomllib.loads(shown)["checks"]) == set(CheckSettings.__dataclass_fields__)
