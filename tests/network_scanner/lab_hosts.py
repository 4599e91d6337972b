"""The hosts of the lab: listens in many namespaces from one process and records every byte received.

Called as `lab_hosts.py SPECIFICATION RECORD`; says `ready` when everything listens. A port's text beginning with
`?` is said in answer to the first bytes received, any other as soon as somebody connects; after `?` and `!` the
connection is closed when the first bytes have come. A port with the text `~` hangs: it takes connections, and then
neither says a word nor ever closes one.
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import socket
import sys


def enter(namespace: str) -> None:
    handle = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(handle, 0x40000000) != 0:
        raise OSError(ctypes.get_errno(), namespace)
    os.close(handle)


def main() -> None:
    selector, hanging = selectors.DefaultSelector(), list[socket.socket]()
    for host in json.loads(sys.argv[1]):
        enter(host["namespace"])
        for port in host["ports"]:
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("0.0.0.0", port))
            listener.listen(16)
            listener.setblocking(False)
            says = host["speaks"].get(str(port), "")
            if says == "~":
                # The kernel accepts for it, as it does for a program that no longer gets round to it.
                hanging.append(listener)
                continue
            selector.register(listener, selectors.EVENT_READ, ("accept", host["name"], port, says))
    record = open(sys.argv[2], "a")  # noqa: SIM115 - for as long as the process lives
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            what, name, port, says = key.data
            if what == "accept":
                connection, _ = sock.accept()
                if says and not says.startswith("?"):
                    connection.sendall(says.removeprefix("!").encode("latin-1"))
                selector.register(connection, selectors.EVENT_READ, ("read", name, port, says))
                continue
            try:
                data = sock.recv(4096)
            except OSError:
                data = b""
            if data:
                record.write(f"{name} {port} {data.hex()}\n")
                record.flush()
            if data and says.startswith("?"):
                sock.sendall(says[1:].encode("latin-1"))
            if not data or says.startswith(("?", "!")):
                selector.unregister(sock)
                sock.close()


if __name__ == "__main__":
    main()
