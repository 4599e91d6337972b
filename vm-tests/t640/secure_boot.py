"""Secure Boot and a state that the TPM opens, for the virtual T640: keys, enrolled variables, and signed images.

Keys are made for each run and thrown away. What is signed is signed by the program that a publisher signs with
(image/sign/sign-image), in the tool root, on files that were built without any key.
"""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

from t640 import toolroot
from t640.artifacts import Artifacts
from t640.errors import Missing, RigError
from t640.hardware import secure_firmware
from t640.paths import REPOSITORY, cache_directory

OWNER = uuid.uuid5(uuid.NAMESPACE_DNS, "secure-boot.appliance.test")
SIGNER = REPOSITORY / "image/sign/sign-image"
PUBLIC_KEY = "/usr/lib/systemd/tpm2-pcr-public-key.pem"
PACKAGES = ("systemd-cryptsetup", "cryptsetup-bin", "tpm2-tools")
"""What the stand-in needs beside its own packages to open a state that is sealed to a TPM."""


@dataclass(frozen=True)
class Keys:
    """The platform's three certificates with their keys, and the pair of the PCR policy, all PEM files in `folder`."""

    folder: Path

    def certificate(self, name: str) -> Path:
        """The certificate of `pk`, `kek` or `db`."""
        return self.folder / f"{name}.crt"

    def key(self, name: str) -> Path:
        """The private key of `pk`, `kek`, `db` or `pcr`."""
        return self.folder / f"{name}.key"

    @property
    def pcr_public(self) -> Path:
        """The public key of the PCR policy."""
        return self.folder / "pcr.pub"


def make_keys() -> Keys:
    """New keys below the cache directory, where the tool root sees them. Raises `RigError`."""
    keys = Keys(cache_directory() / f"secure-boot-{uuid.uuid4().hex[:12]}")
    keys.folder.mkdir(mode=0o700, parents=True)
    for name in ("pk", "kek", "db"):
        files = ["-keyout", str(keys.key(name)), "-out", str(keys.certificate(name))]
        _openssl("req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-sha256", "-days", "3650",
                 "-subj", f"/CN=rig {name}/", *files)  # fmt: skip
    _openssl("genrsa", "-out", str(keys.key("pcr")), "2048")
    _openssl("rsa", "-in", str(keys.key("pcr")), "-pubout", "-out", str(keys.pcr_public))
    return keys


def _openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RigError(f"openssl {arguments[0]} failed: {done.stderr.strip()[-400:]}")


def enrolled_variables(keys: Keys, target: Path) -> Path:
    """The firmware's variables with these keys enrolled and Secure Boot on. Raises `Missing`, `RigError`."""
    program = shutil.which("virt-fw-vars") or str(REPOSITORY / ".venv/bin/virt-fw-vars")
    if not Path(program).exists():
        raise Missing("virt-fw-vars is not installed: pip install virt-firmware (requirements/development.in).")
    owner = str(OWNER)
    call = [program, "--input", str(secure_firmware()[1]), "--output", str(target),
            "--set-pk", owner, str(keys.certificate("pk")), "--add-kek", owner, str(keys.certificate("kek")),
            "--add-db", owner, str(keys.certificate("db")), "--secure-boot"]  # fmt: skip
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RigError(f"virt-fw-vars failed: {done.stderr.strip()[-400:]}")
    return target


def sign(keys: Keys, source: Path, target: Path, *, policy: bool) -> Path:
    """Sign one file as a publisher does; with `policy` its PCR 11 as well. Raises `RigError`."""
    signer = keys.folder / SIGNER.name
    if not signer.exists():
        shutil.copy(SIGNER, signer)
    target.unlink(missing_ok=True)
    arguments = ["--key", _inside(keys.key("db")), "--certificate", _inside(keys.certificate("db"))]
    if policy:
        arguments += ["--pcr-key", _inside(keys.key("pcr")), "--pcr-public-key", _inside(keys.pcr_public)]
    toolroot.run(["sh", _inside(signer), *arguments, _inside(source), _inside(target)])
    return target


def signed(keys: Keys, built: Artifacts) -> Artifacts:
    """The same version with a signed loader and kernel image; its slot is the very same. Raises `RigError`."""
    folder = keys.folder / built.version
    folder.mkdir(exist_ok=True)
    for path in (built.data, built.verity):
        if not (folder / path.name).exists():
            (folder / path.name).hardlink_to(path)
    return dataclasses.replace(
        built,
        directory=folder,
        data=folder / built.data.name,
        verity=folder / built.verity.name,
        uki=sign(keys, built.uki, folder / built.uki.name, policy=True),
        loader=sign(keys, built.loader, folder / built.loader.name, policy=False),
    )


def encrypted_state(keys: Keys) -> dict[str, str]:
    """Files of an image whose state is made encrypted, sealed to the PCR policy's key and to PCR 7."""
    unit = "usr/lib/systemd/system"
    repart = "systemd-repart --dry-run=no --tpm2-pcrs=7 --tpm2-public-key-pcrs=11"
    return {
        "usr/lib/repart.d/50-state.conf.d/10-encrypted.conf": "[Partition]\nEncrypt=tpm2\n",
        PUBLIC_KEY.lstrip("/"): keys.pcr_public.read_text(),
        f"{unit}/systemd-repart.service.d/10-encrypted.conf":
            f"[Service]\nExecStart=\nExecStart={repart} --tpm2-public-key={PUBLIC_KEY}\n",
        # It waits for a person for as long as that takes; what is wrong stands on the console.
        "etc/crypttab": "state PARTLABEL=state - tpm2-device=auto,tries=0,timeout=0\n",
        f"{unit}/systemd-cryptsetup@state.service.d/10-encrypted.conf": "[Unit]\nAfter=systemd-repart.service\n",
        f"{unit}/var.mount.d/10-encrypted.conf": "[Unit]\nJobTimeoutSec=infinity\n[Mount]\nWhat=/dev/mapper/state\n",
        f"{unit}/dev-mapper-state.device.d/10-encrypted.conf": "[Unit]\nJobTimeoutSec=infinity\n",
    }  # fmt: skip


def _inside(path: Path) -> str:
    return str(toolroot.inside(path))
