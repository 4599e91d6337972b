"""The session to Central Command: requests, without what of it would lie in memory unused for months.

Whoever needs requests in the service takes it from here.
"""

from __future__ import annotations

import ssl
import sys

# What guesses an answer's encoding, 2.5 MiB of tables: answers here are bytes whose signature is verified. Without it
# requests takes charset_normalizer, and without that it does not guess.
sys.modules.setdefault("chardet", None)  # type: ignore[arg-type]

import requests  # noqa: E402 - after the line before
from requests import adapters, utils  # noqa: E402

__all__ = ["open_session", "requests"]

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
