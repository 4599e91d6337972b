"""The accounts on the box are the declared ones, each a person's or a service's own."""

from __future__ import annotations

from collections import Counter

from compliance_agent.checks._citations import PARTIAL, hipaa, soc2
from compliance_agent.checks._inputs import Inputs, some
from compliance_agent.checks.base import Check, Finding, Host
from compliance_agent.errors import CheckError
from compliance_agent.privileged import Account, PasswordState

PEOPLE = range(1000, 60000)
"""User ids of people (login.defs UID_MIN to UID_MAX); NixOS's build users and nobody are beyond."""
NO_LOGIN = frozenset({"nologin", "false", "true", "sync", "halt", "shutdown"})


class Accounts(Check):
    """Reads passwd and shadow as the collector saw them; never a password hash."""

    id = "accounts"
    title = "Only declared accounts can log in"
    reads = "/etc/passwd and /etc/shadow as the collector saw them (root), without password hashes"
    citations = (
        hipaa("164.312(a)(2)(i)", PARTIAL),
        hipaa("164.308(a)(3)(ii)(C)", PARTIAL),
        hipaa("164.308(a)(4)(ii)(C)", PARTIAL),
        soc2("CC6.1", PARTIAL),
        soc2("CC6.2", PARTIAL),
        soc2("CC6.3", PARTIAL),
    )
    does_not_prove = (
        "That a declared account is used by one person only, that this person still works here, or anything about the "
        "accounts of the local portal and of the clinic's other computers."
    )
    remedy = (
        "Ask who added the account. If nobody can say, treat it as an intrusion: "
        "disconnect the box and call the provider."
    )

    def run(self, host: Host) -> Finding:
        """Root alone has user id 0, no user id twice, no open password, nobody undeclared."""
        inputs = Inputs(host)
        facts_on_file = inputs.privileged()
        if facts_on_file.accounts_error:
            raise CheckError(f"the accounts cannot be read: {facts_on_file.accounts_error}", "/etc/passwd, /etc/shadow")
        accounts = facts_on_file.accounts
        inputs.note("/etc/passwd and /etc/shadow, by the collector", repr(accounts))
        if not any(account.uid == 0 for account in accounts):
            raise CheckError("the list of accounts has no root in it: it is not complete", "/etc/passwd")
        settings = host.config.checks
        wrongs = _wrongs(accounts, set(settings.accounts), set(settings.password_accounts))
        unread = [account.name for account in accounts if account.password is PasswordState.UNKNOWN]
        facts = {
            "accounts": len(accounts),
            "declared people": ", ".join(settings.accounts) or "none",
            "with a password": ", ".join(_names(accounts, PasswordState.SET)) or "none",
        }
        if wrongs:
            facts["wrong"] = "; ".join(wrongs)
            return inputs.failed(f"{some(wrongs, 3)}.", facts)
        if unread:
            return inputs.unknown(f"It cannot be told whether these accounts have a password: {some(unread)}.", facts)
        return inputs.passed(f"All {len(accounts)} accounts are as declared; no other can log in.", facts)


def _wrongs(accounts: tuple[Account, ...], people: set[str], may_have_password: set[str]) -> list[str]:
    uids = Counter(account.uid for account in accounts)
    wrongs = []
    for account in accounts:
        name = repr(account.name)
        if account.uid == 0 and account.name != "root":
            wrongs.append(f"Account {name} has all rights of root (user id 0)")
        elif uids[account.uid] > 1 and account.name != "root":
            wrongs.append(f"Account {name} shares user id {account.uid} with another")
        if account.password is PasswordState.EMPTY:
            wrongs.append(f"Account {name} needs no password at all")
        elif account.password is PasswordState.SET and account.name not in may_have_password:
            wrongs.append(f"Account {name} has a password, which is not declared")
        if account.uid in PEOPLE and account.name not in people:
            wrongs.append(f"Account {name} is not declared")
        elif account.keys and _can_log_in(account) and account.name not in people | {"root"}:
            wrongs.append(f"Account {name} of a service can log in by key")
    return wrongs


def _can_log_in(account: Account) -> bool:
    return bool(account.shell) and account.shell.rsplit("/", 1)[-1] not in NO_LOGIN


def _names(accounts: tuple[Account, ...], state: PasswordState) -> list[str]:
    return [account.name for account in accounts if account.password is state]
