"""Parsers and builders, one protocol a module: bytes in, small frozen values out, `PacketError` for anything else.

No parser keeps state, raises anything but `PacketError`, or returns text that was not cleaned.
"""


class PacketError(ValueError):
    """Bytes that are not what they claim to be: too short, inconsistent, or nested without end."""
