"""Central Command in the rig's cloud: the real program, on HTTPS with the rig's authority."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

from t640 import certificates
from t640.clinic.network import CENTRAL_NAME, CLOUD_ADDRESS
from t640.errors import RigError
from t640.processes import wait_for
from t640.session import Session

PORT = 8443
URL = f"https://{CENTRAL_NAME}:{PORT}"
SITE = "Harbour Street Clinic"
ADMINISTRATOR = "admin"


class Central:
    """A Central Command with one site and one administrator, until the session ends."""

    def __init__(self, session: Session, cloud: str, checkin_interval: int = 60) -> None:
        self._session = session
        self.data = session.work / "central"
        self.data.mkdir()
        self.password = secrets.token_urlsafe(12)
        names, addresses = (CENTRAL_NAME, "localhost"), (CLOUD_ADDRESS, "127.0.0.1")
        self.authority = certificates.create(session.work / "authority", names, addresses)
        self.config = self.data / "config.toml"
        self.config.write_text(f"checkin_interval = {checkin_interval}\n")
        self.call("migrate")
        self.call("user", "create", ADMINISTRATOR, "--role", "admin", text=f"{self.password}\n")
        self.call("site", "create", SITE)
        self._serve(cloud)

    def _serve(self, cloud: str) -> None:
        argv = [*self._program(), "serve", "--host", CLOUD_ADDRESS, "--port", str(PORT), "--tls-cert",
                str(self.authority.certificate), "--tls-key", str(self.authority.key)]  # fmt: skip
        process = self._server = self._session.start("central-command", argv, namespace=cloud)

        def listening() -> bool:
            return "listening on" in process.tail(200) or not process.running

        wait_for(listening, timeout=60, what="The start of Central Command")
        process.require_running("Central Command")

    def stop(self) -> None:
        """End the server; its data stay and can be asked."""
        self._server.stop()

    def _program(self) -> list[str]:
        program = Path(sys.executable).with_name("central-command")
        return [str(program), "--config", str(self.config), "--data", str(self.data)]

    def call(self, *arguments: str, text: str = "", accept: tuple[int, ...] = (0,)) -> str:
        """Run a `central-command` command on the server's data. Raises `RigError` with what it said."""
        done = subprocess.run([*self._program(), *arguments], input=text, capture_output=True, text=True, timeout=120)
        if done.returncode not in accept:
            raise RigError(f"central-command {' '.join(arguments)} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def query(self, *arguments: str) -> Any:
        """The same with `--json`, decoded."""
        return json.loads(self.call(*arguments, "--json"))

    def enrolment_credential(self) -> str:
        """A new one-time code as the text of the credential `compliance-agent.enrolment`."""
        code = self.query("enrolment-code", "create", "--site", SITE)["code"]
        return f'url = "{URL}"\ncode = "{code}"\nca = """\n{self.authority.ca.read_text()}"""\n'

    def assign(self, version: str) -> None:
        """Say which release the site's devices should run."""
        self.call("site", "assign", SITE, version)

    def devices(self) -> list[dict[str, Any]]:
        """Every enrolled device."""
        return list(self.query("device", "list"))

    def device(self) -> dict[str, Any]:
        """The one device of the rig with its orders and incidents. Raises `RigError` unless there is exactly one."""
        found = self.devices()
        if len(found) != 1:
            raise RigError(f"Central Command knows {len(found)} devices, one was expected.")
        return dict(self.query("device", "show", found[0]["id"]))

    def order(self, kind: str, *options: str) -> str:
        """Give the device an order; returns the order's id."""
        return str(self.query("order", "create", self.device()["id"], kind, *options)["id"])

    def order_state(self, order: str) -> dict[str, Any]:
        """Where an order stands."""
        return dict(self.query("order", "show", order))
