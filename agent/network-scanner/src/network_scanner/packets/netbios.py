"""NetBIOS names (RFC 1001 and 1002): node status replies and the names in broadcasts."""

from __future__ import annotations

import struct

from network_scanner.packets import PacketError
from network_scanner.packets.dns import NBSTAT, parse
from network_scanner.text import clean

STATUS_QUERY = struct.pack("!6H", 0x4E53, 0, 1, 0, 0, 0) + b"\x20" + b"CK" + b"A" * 30 + b"\0" + b"\0\x21\0\x01"
"""A node status request for `*`: 50 bytes, answered by every NetBIOS node with its name table."""


def decode_name(label: str) -> tuple[str, int]:
    """Name and suffix of a first-level encoded NetBIOS name (32 letters A to P). Raises `PacketError`."""
    if len(label) != 32 or any(not "A" <= letter <= "P" for letter in label):
        raise PacketError("not an encoded NetBIOS name")
    codes = [ord(letter) - 65 for letter in label]
    raw = bytes(high << 4 | low for high, low in zip(codes[::2], codes[1::2], strict=True))
    return clean(raw[:15].rstrip(b" \0"), 15), raw[15]


def parse_status(raw: bytes) -> str:
    """The workstation name in a node status reply. Raises `PacketError` when there is none."""
    message = parse(raw)
    for record in message.records:
        if record.kind == NBSTAT and record.data:
            for index in range(min(record.data[0], 32)):
                entry = record.data[1 + 18 * index : 19 + 18 * index]
                if len(entry) < 18:
                    break
                # Suffix 0 without the group bit is the machine's own name.
                if entry[15] == 0 and not entry[16] & 0x80:
                    return clean(entry[:15].rstrip(b" \0"), 15)
    raise PacketError("no workstation name in the status reply")


def parse_registration(raw: bytes) -> str:
    """The name a node registers or refreshes by broadcast. Raises `PacketError` when the message is another one."""
    if len(raw) < 12 or (int.from_bytes(raw[2:4], "big") >> 11) & 0x1F not in (5, 8, 9):
        raise PacketError("not a name registration")
    message = parse(raw)
    for question in message.questions:
        name, suffix = decode_name(question.name.split(".")[0])
        if suffix == 0:
            return name
    raise PacketError("no workstation name in the registration")
