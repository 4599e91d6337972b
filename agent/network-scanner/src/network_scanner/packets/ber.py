"""Tag, length, value: the encoding under certificates and SNMP (ITU-T X.690)."""

from __future__ import annotations

from network_scanner.packets import PacketError


def element(raw: bytes, at: int) -> tuple[int, bytes, int]:
    """Tag, content and end of the element at `at`. Raises `PacketError` when it does not fit."""
    if at + 2 > len(raw):
        raise PacketError("the encoding ends too early")
    tag, length, start = raw[at], raw[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        if not 1 <= size <= 3 or start + size > len(raw):
            raise PacketError("the encoding length of impossible size")
        length, start = int.from_bytes(raw[start : start + size], "big"), start + size
    if start + length > len(raw):
        raise PacketError("the encoding content runs past the end")
    return tag, raw[start : start + length], start + length
