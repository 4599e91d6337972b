"""A service without what its libraries only load: everything it uses is still there."""

from __future__ import annotations

import subprocess
import sys

import pytest

SERVES = """
import sys
from appliance_protocol.lean import HOLLOW, WEB, leave_out
leave_out("chardet")
import asyncio, html
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

async def hello(request):
    await request.body()
    return PlainTextResponse(html.escape("<hello>"))

async def main():
    app = Starlette(routes=[Route("/", hello, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off", http="h11", ws="none"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\nContent-Length: 2\\r\\n\\r\\nhi")
    answer = await reader.read()
    server.should_exit = True
    await serving
    return answer

answer = asyncio.run(main())
assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"&lt;hello&gt;"), answer
assert not any(sys.modules.get(name) for name in WEB)
print(*sys.modules)
"""
REQUESTS = """
import warnings
warnings.simplefilter("error")
from appliance_protocol.lean import leave_out
leave_out("chardet")
import requests
assert requests.compat.chardet is None or requests.compat.chardet.__name__ != "chardet"
"""


def run(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    ).stdout


def test_a_web_service_runs_without_what_is_left_out() -> None:
    loaded = run(SERVES).split()
    assert "uvicorn" in loaded
    assert not {"uvicorn.supervisors.multiprocess", "multiprocessing.process", "python_multipart.multipart"} & {*loaded}


def test_requests_does_without_the_first_of_its_detectors() -> None:
    run(REQUESTS)


def test_what_is_loaded_already_stays() -> None:
    run("import html.entities as before\nfrom appliance_protocol.lean import leave_out\nleave_out()\n"
        "from html import unescape, entities\nassert entities is before and unescape('&auml;') == '\u00e4'")


@pytest.mark.parametrize("service", ["compliance_agent.cli", "local_portal.cli", "network_scanner.cli"])
def test_a_command_is_not_a_service(service: str) -> None:
    assert "uvicorn.supervisors" not in run(f"import sys, {service}; print(*sys.modules)").split()
