"""What the clinic's devices answer. One process a host runs these: `python -m t640.clinic.services SPECIFICATION`.

Everything a silent device receives is written to its record, so that a test can show that nothing was.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from t640.clinic import announce

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Device:
    """The host this process plays: its name and address, and the record of what it received."""

    def __init__(self, specification: dict[str, Any]) -> None:
        self.address: str = specification["address"]
        self.hostname: str = specification["hostname"]
        self.record = Path(specification["record"])

    def received(self, port: int, data: bytes) -> None:
        """Note received bytes: a line with port and hex digits."""
        with self.record.open("a") as handle:
            handle.write(f"{port} {data.hex()}\n")


async def _serve(port: int, answer: Answer) -> None:
    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
            await answer(reader, writer)
        writer.close()

    await asyncio.start_server(guarded, "0.0.0.0", port)


def _recorder(device: Device, port: int, reply: bytes = b"") -> Answer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            device.received(port, data)
            if reply:
                writer.write(reply)
                await writer.drain()

    return answer


def _web(server: str, title: str, body: str = "", status: str = "200 OK") -> Answer:
    page = f"<!doctype html><html><head><title>{title}</title></head><body>{body or title}</body></html>".encode()
    head = (f"HTTP/1.1 {status}\r\nServer: {server}\r\nContent-Type: text/html\r\n"
            f"Content-Length: {len(page)}\r\nConnection: close\r\n\r\n").encode()  # fmt: skip

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        writer.write(head if request.startswith(b"HEAD") else head + page)
        await writer.drain()

    return answer


async def printer(device: Device) -> None:
    """A network printer: whatever arrives on 9100 would be printed; its web and IPP pages record as well."""
    for port in (80, 631, 9100):
        await _serve(port, _recorder(device, port))


async def printer_announcements(device: Device) -> None:
    """How the printer makes itself known: mDNS and SSDP."""
    service = {"_pdl-datastream._tcp": 9100, "_ipp._tcp": 631, "_printer._tcp": 515}
    text = {"ty": "Brother HL-L6400DW series", "product": "(Brother HL-L6400DW series)", "note": "Reception"}
    await announce.mdns(device.hostname, device.address, service, text)
    await announce.ssdp(device.address, "urn:schemas-upnp-org:device:Printer:1", "Brother HL-L6400DW")


async def dicom(device: Device) -> None:
    """A DICOM storage and verification provider (pynetdicom) on 104 and 11112; it records associations."""
    from pynetdicom import AE, AllStoragePresentationContexts, evt

    entity = AE(ae_title="ULTRASOUND1")
    entity.supported_contexts = AllStoragePresentationContexts[:120]
    entity.add_supported_context("1.2.840.10008.1.1")  # verification (C-ECHO)

    def note(event: Any) -> None:
        device.received(event.assoc.acceptor.port, b"association")

    handlers: list[Any] = [(evt.EVT_REQUESTED, note)]
    for port in (104, 11112):
        threading.Thread(
            target=functools.partial(entity.start_server, ("0.0.0.0", port), block=True, evt_handlers=handlers),
            daemon=True,
        ).start()


async def hl7(device: Device) -> None:
    """An HL7 v2 listener with minimal lower layer framing: answers every message with an AA acknowledgement."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while frame := await reader.readuntil(b"\x1c\r"):
            device.received(2575, frame)
            control = frame.split(b"|")[9] if frame.count(b"|") > 9 else b"0"
            writer.write(b"\x0bMSH|^~\\&|MONITOR|ICU|||20260101||ACK|1|P|2.5\rMSA|AA|" + control + b"\r\x1c\r")
            await writer.drain()

    await _serve(2575, answer)


async def camera(device: Device) -> None:
    """A network camera: RTSP on 554, its web page on 80, mDNS."""

    async def rtsp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        sequence = next((line for line in request.split(b"\r\n") if line.lower().startswith(b"cseq")), b"CSeq: 1")
        writer.write(b"RTSP/1.0 200 OK\r\n" + sequence + b"\r\nPublic: OPTIONS, DESCRIBE, SETUP, PLAY\r\n\r\n")
        await writer.drain()

    await _serve(554, rtsp)
    await _serve(80, _web("Apache", "AXIS P3245-V Network Camera", status="401 Unauthorized"))
    await announce.mdns(device.hostname, device.address, {"_axis-video._tcp": 80}, {"macaddress": "B8A44F100016"})


async def sip_phone(device: Device) -> None:
    """A desk telephone: SIP over UDP, and its configuration page."""

    class Sip(asyncio.DatagramProtocol):
        transport: asyncio.DatagramTransport

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.DatagramTransport)
            self.transport = transport

        def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
            kept = (b"via", b"from", b"to", b"call-id", b"cseq")
            headers = [line for line in data.split(b"\r\n")[1:] if line.split(b":")[0].lower() in kept]
            reply = [b"SIP/2.0 200 OK", *headers, b"User-Agent: Yealink SIP-T46U 108.86.0.20", b"Content-Length: 0"]
            self.transport.sendto(b"\r\n".join(reply) + b"\r\n\r\n", address)

    await asyncio.get_running_loop().create_datagram_endpoint(Sip, ("0.0.0.0", 5060))
    await _serve(80, _web("embed httpd", "Yealink T46U Phone"))


async def access_point(device: Device) -> None:
    """A wireless access point's page (ssh and SNMP beside it are real daemons)."""
    await _serve(80, _web("lighttpd", "UniFi access point"))


async def thermometer(device: Device) -> None:
    """The vaccine fridge's thermometer: an ESP32 with a small page, and mDNS."""
    await _serve(80, _web("Tasmota/13.4.0 (ESP32-D0WD-V3)", "Vaccine fridge - Main Menu", "Tasmota 4.6 °C"))
    await announce.mdns(device.hostname, device.address, {"_http._tcp": 80}, {"devicetype": "tasmota"})


async def windows(device: Device) -> None:
    """A Windows workstation as the network sees it: 135, 139, 445 open, and its NetBIOS name."""

    async def closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)

    for port in (135, 139, 445):
        await _serve(port, closes)
    await announce.netbios(device.hostname)


SERVICES: dict[str, Callable[[Device], Awaitable[None]]] = {
    "printer": printer,
    "printer-announcements": printer_announcements,
    "dicom": dicom,
    "hl7": hl7,
    "camera": camera,
    "sip-phone": sip_phone,
    "access-point": access_point,
    "thermometer": thermometer,
    "windows": windows,
}


async def _play(specification: dict[str, Any]) -> None:
    device = Device(specification)
    for name in specification["services"]:
        await SERVICES[name](device)
    print("ready", flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()


if __name__ == "__main__":
    asyncio.run(_play(json.loads(sys.argv[1])))
