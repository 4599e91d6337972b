"""The one error that checks, and what they read through, have in common."""

from __future__ import annotations


class CheckError(RuntimeError):
    """What a check looks at cannot be read; the message says what, why, and what to do. Becomes the verdict `error`.

    `source` names the file, command or query, where it is known.
    """

    def __init__(self, message: str, source: str = "") -> None:
        super().__init__(message)
        self.source = source
