"""The requirements checks may cite, by the field's own notation, so that no check can misquote one.

HIPAA titles are those of 45 CFR part 164, subpart C (eCFR; the marks are those of its appendix A: required or
addressable). Standards without implementation specifications (164.312(b) and (d), 164.310(c)) carry no mark: the
standard itself is to be met (164.306(c)). The titles of SOC 2 criteria are short labels of ours for the criteria of
TSP section 100 (2017, points of focus of 2022), which have numbers and sentences, but no titles.
"""

from __future__ import annotations

from appliance_protocol.verdict import Citation, Coverage, Framework

AUTOMATED = Coverage.AUTOMATED
PARTIAL = Coverage.PARTIAL
HUMAN = Coverage.HUMAN

_REQUIRED, _ADDRESSABLE, _STANDARD = True, False, None

HIPAA: dict[str, tuple[str, bool | None]] = {
    "164.308(a)(1)(ii)(A)": ("Risk analysis", _REQUIRED),
    "164.308(a)(1)(ii)(B)": ("Risk management", _REQUIRED),
    "164.308(a)(1)(ii)(D)": ("Information system activity review", _REQUIRED),
    "164.308(a)(3)(ii)(C)": ("Termination procedures", _ADDRESSABLE),
    "164.308(a)(4)(ii)(C)": ("Access establishment and modification", _ADDRESSABLE),
    "164.308(a)(5)(ii)(B)": ("Protection from malicious software", _ADDRESSABLE),
    "164.308(a)(5)(ii)(C)": ("Log-in monitoring", _ADDRESSABLE),
    "164.308(a)(5)(ii)(D)": ("Password management", _ADDRESSABLE),
    "164.308(a)(6)(ii)": ("Response and reporting", _REQUIRED),
    "164.308(a)(7)(ii)(B)": ("Disaster recovery plan", _REQUIRED),
    "164.308(a)(7)(ii)(C)": ("Emergency mode operation plan", _REQUIRED),
    "164.310(c)": ("Workstation security", _STANDARD),
    "164.312(a)(2)(i)": ("Unique user identification", _REQUIRED),
    "164.312(a)(2)(iv)": ("Encryption and decryption", _ADDRESSABLE),
    "164.312(b)": ("Audit controls", _STANDARD),
    "164.312(d)": ("Person or entity authentication", _STANDARD),
    "164.312(e)(2)(ii)": ("Encryption", _ADDRESSABLE),
}

SOC2: dict[str, str] = {
    "A1.1": "Processing capacity and use",
    "A1.2": "Environmental protections, software, backup and recovery infrastructure",
    "CC6.1": "Logical access security",
    "CC6.2": "Registration and authorisation of users",
    "CC6.3": "Access by role, with changes and removal",
    "CC6.6": "Protection against threats from outside the system boundary",
    "CC6.7": "Protection of information in transmission",
    "CC6.8": "Prevention and detection of unauthorised or malicious software",
    "CC7.1": "Detection of configuration changes and new vulnerabilities",
    "CC7.2": "Monitoring for anomalies",
    "CC7.3": "Evaluation of security events",
    "CC8.1": "Authorised and tested changes",
}


def hipaa(reference: str, coverage: Coverage) -> Citation:
    """A citation of the Security Rule. Raises `KeyError` for a reference that is not in the table."""
    title, required = HIPAA[reference]
    return Citation(Framework.HIPAA, reference, title, coverage, required)


def soc2(reference: str, coverage: Coverage) -> Citation:
    """A citation of a trust services criterion. Raises `KeyError` for a reference that is not in the table."""
    return Citation(Framework.SOC2, reference, SOC2[reference], coverage)
