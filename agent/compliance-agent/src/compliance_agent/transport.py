"""The session to Central Command."""

from __future__ import annotations

import ssl

import requests
from requests import adapters, utils

# The public authorities that requests reads ahead, 2 MiB: every session here names its own.
setattr(adapters, "_preloaded_ssl_context", None)  # noqa: B010 - not in every version of it


def open_session(url: str, *, proxy: str = "", ca_file: str = "", headers: dict[str, str]) -> requests.Session:
    """Connections whose server shows a certificate of `ca_file`, or of the system's authorities when that is empty.

    Of the environment only the proxy for `url` is taken, where none is given: requests by itself would let it replace
    the authorities as well, and send what a .netrc holds.
    """
    session = requests.Session()
    session.trust_env = False
    session.headers.update(headers)
    system = ssl.get_default_verify_paths()
    session.verify = ca_file or system.cafile or system.capath or True
    session.proxies = {"http": proxy, "https": proxy} if proxy else utils.get_environ_proxies(url)
    return session
