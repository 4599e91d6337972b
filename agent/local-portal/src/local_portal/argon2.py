"""Argon2id in a process of its own: run as `python -m local_portal.argon2`, never loaded by the service.

Standard input is a hash in the PHC string form, or nothing, then a line feed and the password's bytes. Standard output
is `right` or `wrong`, or, without a hash to compare with, the password's own.
"""

from __future__ import annotations

import sys

import nacl.exceptions
from nacl.pwhash import argon2id


def answer(document: bytes) -> bytes:
    """What belongs on standard output.

    64 MiB for about a quarter of a second, one at a time: RFC 9106's second choice fits a small machine.
    """
    known, _, password = document.partition(b"\n")
    if not known:
        return argon2id.str(password, argon2id.OPSLIMIT_MODERATE, argon2id.MEMLIMIT_INTERACTIVE)
    try:
        argon2id.verify(known, password)
    except (nacl.exceptions.InvalidkeyError, nacl.exceptions.ValueError):
        return b"wrong"
    return b"right"


def rehearse() -> None:
    """Hash something cheaply. Raises what is wrong with libsodium: at the start, not at somebody's login."""
    argon2id.str(b"rehearsal", argon2id.OPSLIMIT_MIN, argon2id.MEMLIMIT_MIN)


if __name__ == "__main__":
    sys.stdout.buffer.write(answer(sys.stdin.buffer.read(65536)))
