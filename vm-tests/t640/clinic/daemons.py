"""Real programs on the clinic's hosts: nginx, sshd, snmpd."""

from __future__ import annotations

import subprocess
from pathlib import Path

from t640.clinic.truth import Host
from t640.processes import Process
from t640.session import Session


def start(session: Session, namespace: str, host: Host, daemon: str) -> Process:
    """Start one of a host's daemons, with its files in the run's folder."""
    folder = session.work / host.name / daemon
    folder.mkdir(parents=True)
    argv = {"nginx": _nginx, "sshd": _sshd, "snmpd": _snmpd}[daemon](folder, host)
    return session.start(f"{host.name}-{daemon}", argv, namespace=namespace)


def web_server(folder: Path, listen: str, root: Path) -> list[str]:
    """nginx's command line for a static site. `listen` is its `listen` directive's value."""
    configuration = folder / "nginx.conf"
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in
                        ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))  # fmt: skip
    configuration.write_text(
        f"daemon off; worker_processes 1; user root; pid {folder}/pid; error_log stderr;\n"
        f"events {{ worker_connections 64; }}\n"
        f"http {{ access_log {folder}/access.log; {temporary} sendfile on;\n"
        f"  types {{ application/json json; text/html html; }} default_type application/octet-stream;\n"
        f"  server {{ listen {listen}; root {root}; }} }}\n"
    )
    return ["nginx", "-e", "stderr", "-p", str(folder), "-c", str(configuration)]


def _nginx(folder: Path, host: Host) -> list[str]:
    (folder / "index.html").write_text(
        "<html><head><title>Clinic intranet</title></head><body>Duty roster</body></html>"
    )
    return web_server(folder, "80", folder)


def _sshd(folder: Path, host: Host) -> list[str]:
    key = folder / "host_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    Path("/run/sshd").mkdir(exist_ok=True)
    options = [f"HostKey={key}", f"PidFile={folder}/pid", "UsePAM=no", "PasswordAuthentication=no"]
    return ["/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", *(f"-o{option}" for option in options)]


def _snmpd(folder: Path, host: Host) -> list[str]:
    configuration = folder / "snmpd.conf"
    configuration.write_text(
        f"rocommunity public 10.77.0.0/24\nsysName {host.hostname}\nsysDescr {host.name} of the clinic\n"
        f"[snmp] persistentDir {folder}\n"
    )
    return ["snmpd", "-f", "-Lo", "-C", "-c", str(configuration), "-I", "system_mib,sysORTable", "-p", f"{folder}/pid",
            "udp:161"]  # fmt: skip
