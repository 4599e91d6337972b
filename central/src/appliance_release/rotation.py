"""New keys for a role, or one key less: a new root, signed by the old threshold and the new one.

A role's present metadata is signed by its old and its new keys before the root changes, so that at no moment a device
finds a root and metadata that do not fit. Only when the old keys are lost the root has to go first.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]
from tuf.api.metadata import Root, Targets  # type: ignore[attr-defined]

from appliance_release.keys import ROLES, KeyFileError, file_names
from appliance_release.releases import PublishError
from appliance_release.repository import Repository

NAMED_BY = {"targets": ("snapshot", "timestamp"), "snapshot": ("timestamp",)}
"""The roles whose metadata names that of a role, and is signed anew with it."""


@dataclass(frozen=True)
class Rotation:
    """What a change of keys has done. `made` and `retired` are private keys, `root` the new root metadata."""

    root: Path
    version: int
    made: tuple[Path, ...] = ()
    retired: tuple[Path, ...] = ()

    def document(self) -> dict[str, Any]:
        """As `--json` shows it."""
        return {
            "root": str(self.root),
            "root_version": self.version,
            "made": [str(path) for path in self.made],
            "retired": [str(path) for path in self.retired],
        }


def overview(repository: Repository) -> dict[str, dict[str, Any]]:
    """For each role its threshold, and its keys' ids with the file that holds the private one (empty: not here)."""
    root = repository.root()
    found = {}
    for role in ROLES:
        files = {signer.public_key.keyid: str(path) for path, signer in repository.ring.present(role)}
        keyids = {keyid: files.get(keyid, "") for keyid in root.roles[role].keyids}
        found[role] = {"threshold": root.roles[role].threshold, "keys": keyids}
    return found


def rotate(repository: Repository, role: str, count: int = 0, threshold: int = 0) -> Rotation:
    """Replace all keys of a role by `count` new ones, of which `threshold` must sign; 0 keeps what there was.

    Raises `PublishError`, `KeyFileError`; then nothing has changed but that unused new keys may lie in their folder.
    """
    with repository.exclusive():
        old = repository.root()
        count, needed = count or len(old.roles[role].keyids), threshold or old.roles[role].threshold
        if not 1 <= needed <= count:
            raise PublishError(f"{needed} of {count} keys cannot be asked for")
        for other in ("root", *NAMED_BY.get(role, ())):
            repository.signers(other)  # before a key is made for nothing, and a root that nothing fits
        names = file_names(role, count, f"r{old.version + 1}")
        fresh = repository.ring.make(role, names)
        new = copy.deepcopy(old)
        for keyid in list(new.roles[role].keyids):
            new.revoke_key(keyid, role)
        for signer in fresh:
            new.add_key(signer.public_key, role)
        new.roles[role].threshold = needed
        path = _change(repository, old, new, {role: fresh})
        made = tuple(repository.ring.folder(role) / name for name in names)
        return Rotation(path, new.version, made, tuple(repository.ring.retire(role, new)))


def revoke_key(repository: Repository, keyid: str) -> Rotation:
    """Take one key, named by (the beginning of) its id, from every role that has it. Raises `PublishError`."""
    with repository.exclusive():
        old = repository.root()
        roles = [role for role in ROLES for own in old.roles[role].keyids if len(keyid) >= 8 and own.startswith(keyid)]
        if not roles:
            raise PublishError(f"No role has a key {keyid!r} (at least 8 digits); see `appliance-release keys`")
        new = copy.deepcopy(old)
        for role in roles:
            left = [own for own in new.roles[role].keyids if not own.startswith(keyid)]
            if len(left) < new.roles[role].threshold:
                raise PublishError(
                    f"{role} needs {new.roles[role].threshold} keys and would have {len(left)}: use `rotate {role}`"
                )
            for own in [own for own in new.roles[role].keyids if own.startswith(keyid)]:
                new.revoke_key(own, role)
        path = _change(repository, old, new, {role: repository.ring.known(role, new) for role in roles})
        retired = tuple(item for role in roles for item in repository.ring.retire(role, new))
        return Rotation(path, new.version, (), retired)


def renew_root(repository: Repository) -> Rotation:
    """Sign the root anew with the same keys, before it expires. Raises `KeyFileError`."""
    with repository.exclusive():
        old = repository.root()
        new = copy.deepcopy(old)
        return Rotation(_change(repository, old, new, {}), new.version)


def _change(repository: Repository, old: Root, new: Root, fresh: Mapping[str, list[CryptoSigner]]) -> Path:
    new.version, new.expires = old.version + 1, repository.expiry("root")
    own = repository.ring.signers("root", old)
    own += [signer for signer in fresh.get("root", []) if signer.public_key.keyid not in _ids(own)]
    for role, signers in fresh.items():
        if len(signers) < new.roles[role].threshold:
            raise KeyFileError(f"{role} needs {new.roles[role].threshold} keys to sign, {len(signers)} are at hand")
    others = [role for role in fresh if role != "root"]
    try:
        both = {role: _both(repository.ring.signers(role, old), fresh[role]) for role in others}
    except KeyFileError:
        both = {}  # the old keys are lost: the root goes first, and for a moment nothing fits it
    if both:
        _sign(repository, both)
    path = repository.write(new, "root", f"{new.version}.root.json", own)
    if others and not both:
        _sign(repository, {role: fresh[role] for role in others})
    return path


def _sign(repository: Repository, signers: Mapping[str, list[CryptoSigner]]) -> None:
    """Sign the present metadata of these roles, and what names it."""
    targets = repository.load("targets").signed
    assert isinstance(targets, Targets)
    if "targets" in signers:
        targets.version += 1
        repository.sign_targets(targets, signers)
    elif "snapshot" in signers:
        repository.sign_snapshot(targets.version, signers)
    else:
        repository.sign_timestamp(repository.load("snapshot").signed.version, signers)


def _both(old: list[CryptoSigner], new: list[CryptoSigner]) -> list[CryptoSigner]:
    return [*old, *(signer for signer in new if signer.public_key.keyid not in _ids(old))]


def _ids(signers: list[CryptoSigner]) -> set[str]:
    return {signer.public_key.keyid for signer in signers}
