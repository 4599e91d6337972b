"""The SSH keys that open the box are the declared ones."""

from __future__ import annotations

from compliance_agent.checks._citations import PARTIAL, hipaa, soc2
from compliance_agent.checks._inputs import Inputs, count, some
from compliance_agent.checks.base import Check, Finding, Host
from compliance_agent.errors import CheckError


class AuthorisedKeys(Check):
    """Compares fingerprints, so that neither a comment nor a file name can hide a key."""

    id = "authorised-keys"
    title = "Only declared SSH keys are installed"
    reads = "Every authorized_keys file sshd would use, as fingerprints, by the collector (root)"
    citations = (
        hipaa("164.312(d)", PARTIAL),
        hipaa("164.308(a)(3)(ii)(C)", PARTIAL),
        hipaa("164.308(a)(4)(ii)(C)", PARTIAL),
        soc2("CC6.1", PARTIAL),
        soc2("CC6.3", PARTIAL),
    )
    does_not_prove = (
        "Who holds the private half of a declared key. Keys that a certificate authority or a command vouches for "
        "(TrustedUserCAKeys, AuthorizedKeysCommand) are looked at by the check of the SSH policy."
    )
    remedy = "Remove the key, or declare it in the site's configuration if it is meant to be there."

    def run(self, host: Host) -> Finding:
        """Every installed key is declared, and every line could be read."""
        inputs = Inputs(host)
        facts_on_file = inputs.privileged()
        if facts_on_file.accounts_error:
            raise CheckError(f"the accounts cannot be read: {facts_on_file.accounts_error}", "authorized_keys")
        if not facts_on_file.accounts:
            raise CheckError("the list of accounts is empty: it is not complete", "authorized_keys")
        keys = [(account.name, key) for account in facts_on_file.accounts for key in account.keys]
        inputs.note("authorized_keys of every account, by the collector", repr(keys))
        declared = set(host.config.checks.authorised_keys)
        facts: dict[str, object] = {"installed keys": len(keys), "declared keys": len(declared)}
        unreadable = [f"{account.name}: {account.error}" for account in facts_on_file.accounts if account.error]
        unreadable += [f"{name}, {key.file}: {key.error}" for name, key in keys if key.error or not key.fingerprint]
        strange = [
            f"{key.fingerprint} ({key.kind or 'key'} of {name})"
            for name, key in keys
            if key.fingerprint and key.fingerprint not in declared
        ]
        if strange:
            facts["not declared"] = ", ".join(strange)
            return inputs.failed(
                f"{count(len(strange), 'SSH key')} installed that nobody declared: {some(strange, 2)}.", facts
            )
        if unreadable:
            return inputs.unknown(f"Not every authorized_keys file can be read: {some(unreadable, 2)}.", facts)
        if not keys:
            return inputs.passed("No SSH key is installed.", facts)
        return inputs.passed(f"All {len(keys)} installed SSH keys are declared.", facts)
