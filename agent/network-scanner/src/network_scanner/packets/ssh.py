"""The first steps of SSH (RFC 4253, 5656, 8731): banner, algorithms, host key. No log-in is ever tried.

The server shows its host key in answer to any key exchange, so a random Curve25519 point is enough: nothing is
computed with the answer but the key's fingerprint, which recognises a machine behind another network card.
"""

from __future__ import annotations

import base64
import hashlib
import os
import struct

from network_scanner.packets import PacketError
from network_scanner.text import BANNER_LIMIT, clean

BANNER = b"SSH-2.0-network-scanner\r\n"
KEXINIT, ECDH_INIT, ECDH_REPLY = 20, 30, 31
MAX_PACKET = 35000

_LISTS = (
    b"curve25519-sha256,curve25519-sha256@libssh.org",
    b"ssh-ed25519,ecdsa-sha2-nistp256,rsa-sha2-512,rsa-sha2-256,ssh-rsa",
    b"aes128-ctr,aes256-ctr,aes128-gcm@openssh.com,chacha20-poly1305@openssh.com",
    b"aes128-ctr,aes256-ctr,aes128-gcm@openssh.com,chacha20-poly1305@openssh.com",
    b"hmac-sha2-256,hmac-sha2-512,hmac-sha1",
    b"hmac-sha2-256,hmac-sha2-512,hmac-sha1",
    b"none", b"none", b"", b"",
)


def parse_banner(raw: bytes) -> str:
    """The identification line, which may follow other lines. Raises `PacketError` when there is none."""
    for line in raw[:4096].split(b"\n")[:20]:
        if line.startswith(b"SSH-"):
            return clean(line.rstrip(b"\r"), BANNER_LIMIT)
    raise PacketError("no SSH identification")


def key_exchange() -> bytes:
    """Our banner, algorithm lists and public point, sent in one go."""
    lists = b"".join(_string(names) for names in _LISTS)
    init = bytes([KEXINIT]) + os.urandom(16) + lists + b"\0" + bytes(4)
    return BANNER + _packet(init) + _packet(bytes([ECDH_INIT]) + _string(os.urandom(32)))


def host_key(raw: bytes) -> str:
    """Fingerprint (`SHA256:…`) of the host key in what a server sent after `key_exchange`.

    Raises `PacketError` while it is not (completely) there.
    """
    at = raw.find(b"SSH-")
    at = raw.find(b"\n", at) + 1 if at >= 0 else 0
    if not at:
        raise PacketError("no SSH identification")
    while at + 6 <= len(raw):
        length, padding = struct.unpack("!IB", raw[at : at + 5])
        if not 2 <= length <= MAX_PACKET or padding >= length:
            raise PacketError("an SSH packet of impossible length")
        payload = raw[at + 5 : at + 4 + length - padding]
        if len(raw) < at + 4 + length:
            break
        if payload[:1] == bytes([ECDH_REPLY]):
            size = int.from_bytes(payload[1:5], "big")
            key = payload[5 : 5 + size]
            if not 16 <= len(key) == size:
                raise PacketError("an SSH host key of impossible length")
            digest = base64.b64encode(hashlib.sha256(key).digest()).rstrip(b"=").decode()
            return f"SHA256:{digest}"
        at += 4 + length
    raise PacketError("no SSH host key yet")


def _string(raw: bytes) -> bytes:
    return struct.pack("!I", len(raw)) + raw


def _packet(payload: bytes) -> bytes:
    padding = 8 - (5 + len(payload)) % 8
    padding += 8 if padding < 4 else 0
    return struct.pack("!IB", len(payload) + padding + 1, padding) + payload + bytes(padding)
