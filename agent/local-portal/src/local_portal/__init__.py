"""The appliance's own pages: HTTPS on the clinic's network, for the clinic's staff.

The portal holds no privilege. It reads the compliance agent and the network scanner through their unix sockets and
the updater through its files, and it says plainly what it could not read.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("local-portal")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "unknown"
