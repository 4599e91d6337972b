"""What a packet that nobody asked for meets: a small reading of `nft -j list ruleset` (libnftables-json(5)).

It answers one question: is the default on input to drop, for IPv4 and for IPv6? It follows the rules that hold for
every packet (policies, unconditional accept, drop, reject, jump, goto, return) and treats a rule with a match as an
exception to the default, unless the match is so wide that it lets in a whole protocol. A packet that nobody asked
for begins a connection, so a rule about the state `new` holds for it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from compliance_agent.errors import CheckError

SOURCE = "nft -j list ruleset"
FAMILIES = {"IPv4": ("inet", "ip"), "IPv6": ("inet", "ip6")}
PASSIVE = frozenset({"counter", "log", "comment", "limit", "quota", "mangle", "notrack", "meter", "set"})
"""Statements that do not by themselves decide about a packet."""
MOST_JUMPS = 16
"""nftables' own limit of nested jumps."""
WIDE_KEYS = frozenset({"nfproto", "protocol", "l4proto"})
WIDE_PROTOCOLS = frozenset({"tcp", "udp", "ip", "ip6", "ipv4", "ipv6"})


@dataclass(frozen=True)
class Chain:
    """A chain and its rules' expressions."""

    family: str
    table: str
    name: str
    hook: str
    kind: str
    policy: str
    rules: list[list[Any]] = field(default_factory=list)


@dataclass(frozen=True)
class InputPolicy:
    """What the ruleset does with input that no rule names."""

    dropped: tuple[str, ...]
    """Of `FAMILIES`, those whose default is to drop or reject."""
    wide: tuple[str, ...]
    """Rules that let in a whole protocol, in words."""
    open_ports: tuple[str, ...]
    """Ports that a rule opens: `tcp/443`."""
    chains: int


def input_policy(document: str) -> InputPolicy:
    """Read a ruleset. Raises `CheckError` when it is not one."""
    chains = _chains(document)
    bases = [chain for chain in chains.values() if chain.hook == "input" and chain.kind == "filter"]
    walks = {(chain.family, chain.table, chain.name): _Walk(chains) for chain in bases}
    dropped: set[str] = set()
    wide: dict[str, list[str]] = {family: [] for family in FAMILIES}
    for chain in bases:
        walk = walks[chain.family, chain.table, chain.name]
        outcome = walk.default(chain)
        for name, families in FAMILIES.items():
            if chain.family in families and outcome == "drop":
                # A later chain's drop is final: what one chain lets in too widely, another may still stop.
                wide[name] = walk.wide if name not in dropped else [rule for rule in wide[name] if rule in walk.wide]
                dropped.add(name)
    ports = sorted({port for walk in walks.values() for port in walk.ports})
    found = tuple(dict.fromkeys(rule for rules in wide.values() for rule in rules))
    return InputPolicy(tuple(name for name in FAMILIES if name in dropped), found, tuple(ports), len(bases))


class _Walk:
    """One walk through a base chain and what it jumps to."""

    def __init__(self, chains: dict[tuple[str, str, str], Chain]) -> None:
        self._chains = chains
        self.wide: list[str] = []
        self.ports: set[str] = set()

    def default(self, chain: Chain) -> str:
        """`drop` or `accept`: the fate of a packet that matches no condition."""
        return self._through(chain, 0) or ("drop" if chain.policy == "drop" else "accept")

    def _through(self, chain: Chain, depth: int) -> str | None:
        """The fate within a chain; None when it comes out at the end of it."""
        if depth > MOST_JUMPS:
            raise CheckError(f"{SOURCE}: chain {chain.name} jumps in a circle", SOURCE)
        for expressions in chain.rules:
            conditions, verdict, target = _rule(expressions)
            if conditions:
                self._exception(conditions, verdict, target, chain, depth)
            elif verdict in ("accept", "drop"):
                return verdict
            elif verdict == "return":
                return None
            elif target is not None:
                fate = self._through(self._target(chain, target), depth + 1)
                if fate is not None:
                    return fate
                if verdict == "goto":
                    return None
        return None

    def _exception(self, conditions: list[Any], verdict: str, target: str | None, chain: Chain, depth: int) -> None:
        """A rule with conditions does not change the default, but it may be an exception as wide as the default."""
        opens = verdict == "accept"
        wide = all(_is_wide(condition) for condition in conditions)
        if target is not None:
            before = len(self.wide)
            opens = self._through(self._target(chain, target), depth + 1) == "accept"
            if not wide:
                del self.wide[before:]
        if not opens:
            return
        self.ports.update(_ports(conditions))
        if wide:
            words = " ".join(_words(condition) for condition in conditions)
            self.wide.append(f"{chain.family} {chain.table} {chain.name}: {words} accept")

    def _target(self, chain: Chain, name: str) -> Chain:
        try:
            return self._chains[chain.family, chain.table, name]
        except KeyError:
            raise CheckError(f"{SOURCE}: {chain.name} jumps to {name!r}, which is not there", SOURCE) from None


def _chains(document: str) -> dict[tuple[str, str, str], Chain]:
    try:
        items = json.loads(document)["nftables"]
        if not isinstance(items, list) or not any("metainfo" in item for item in items):
            raise ValueError("no ruleset in it")
        chains: dict[tuple[str, str, str], Chain] = {}
        for item in items:
            if "chain" in item:
                chain = item["chain"]
                hook, kind, policy = (str(chain.get(key, "")) for key in ("hook", "type", "policy"))
                key = (str(chain["family"]), str(chain["table"]), str(chain["name"]))
                chains[key] = Chain(*key, hook, kind, policy)
        for item in items:
            if "rule" in item:
                rule = item["rule"]
                expressions = rule.get("expr", [])
                if not isinstance(expressions, list) or not all(isinstance(part, dict) for part in expressions):
                    raise ValueError("a rule that is no list of expressions")
                chains[str(rule["family"]), str(rule["table"]), str(rule["chain"])].rules.append(expressions)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckError(f"{SOURCE}: the answer cannot be understood: {error!r}", SOURCE) from error
    return chains


def _rule(expressions: list[Any]) -> tuple[list[Any], str, str | None]:
    """What a rule means to a packet that begins a connection: conditions, verdict, and the chain it goes to."""
    conditions: list[Any] = []
    for expression in expressions:
        for name, value in expression.items():
            if name == "vmap" and _names_state(value.get("key") if isinstance(value, dict) else None):
                return conditions, *_verdict(_for_new(value.get("data")))
            verdict, target = _verdict(expression)
            if verdict:
                return conditions, verdict, target
            if name == "match" and _names_state(value.get("left") if isinstance(value, dict) else None):
                if ("new" in _values(value.get("right"))) == (value.get("op") == "!="):
                    return conditions, "", None
            elif name not in PASSIVE:
                conditions.append(expression)
    return conditions, "", None


def _verdict(expression: Any) -> tuple[str, str | None]:
    """A statement that ends the rule, and the chain it goes to; an empty verdict for any other statement."""
    for name, value in expression.items() if isinstance(expression, dict) else ():
        if name in ("accept", "drop", "return"):
            return name, None
        if name in ("reject", "tproxy", "queue"):
            return "drop" if name == "reject" else "accept", None
        if name in ("jump", "goto"):
            return name, str(value.get("target", "") if isinstance(value, dict) else "")
    return "", None


def _names_state(key: Any) -> bool:
    """Whether a rule looks at the state of the connection, which is `new` for what nobody asked for."""
    ct = key.get("ct") if isinstance(key, dict) else None
    return isinstance(ct, dict) and ct.get("key") == "state"


def _for_new(data: Any) -> Any:
    """The verdict that a map of connection states has for `new`."""
    for entry in _listed(data.get("set") if isinstance(data, dict) else None):
        if isinstance(entry, list) and len(entry) == 2 and "new" in _values(entry[0]):
            return entry[1]
    return None


def _is_wide(condition: Any) -> bool:
    """Whether a match lets in a whole protocol or network: no port, no state, no loopback, no single address."""
    match = condition.get("match")
    if not isinstance(match, dict) or match.get("op") not in ("==", "in"):
        return False
    left, right = match.get("left"), match.get("right")
    if not isinstance(left, dict):
        return False
    meta, payload = left.get("meta"), left.get("payload")
    if isinstance(meta, dict):
        key = meta.get("key")
        if key in ("iif", "iifname"):
            return not set(_values(right)) <= {"lo"}
        return key in WIDE_KEYS and bool(WIDE_PROTOCOLS & set(_values(right)))
    if isinstance(payload, dict):
        if payload.get("field") in ("protocol", "nexthdr"):
            return bool(WIDE_PROTOCOLS & set(_values(right)))
        prefix = right.get("prefix") if isinstance(right, dict) else None
        return payload.get("field") == "saddr" and isinstance(prefix, dict) and prefix.get("len") == 0
    return False


def _ports(conditions: list[Any]) -> set[str]:
    found = set()
    for condition in conditions:
        match = condition.get("match")
        left = match.get("left") if isinstance(match, dict) else None
        payload = left.get("payload") if isinstance(left, dict) else None
        if isinstance(match, dict) and isinstance(payload, dict) and payload.get("field") == "dport":
            found |= {f"{payload.get('protocol')}/{value}" for value in _values(match.get("right"))}
    return found


def _values(right: Any) -> list[str]:
    """The single values of a right-hand side: a number, a name, a set, a range."""
    if isinstance(right, dict):
        if isinstance(right.get("range"), list):
            return ["-".join(str(end) for end in right["range"])]
        return [value for item in _listed(right.get("set")) for value in _values(item)]
    if isinstance(right, list):
        return [value for item in right for value in _values(item)]
    return [str(right)]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _words(condition: Any) -> str:
    match = condition.get("match", {})
    left = match.get("left", {})
    meta, payload = left.get("meta"), left.get("payload")
    key = meta.get("key") if isinstance(meta, dict) else payload.get("field") if isinstance(payload, dict) else "?"
    right = match.get("right")
    return f"{key} {json.dumps(right) if isinstance(right, dict) else right}"
