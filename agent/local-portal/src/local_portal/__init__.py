"""The appliance's own pages: HTTPS on the clinic's network, for the clinic's staff.

The portal holds no privilege. It reads the compliance agent and the network scanner through their unix sockets and
the updater through its files, and it says plainly what it could not read.
"""

from pathlib import Path

__version__ = "2026.11.0"
"""As in pyproject.toml; asking importlib.metadata would cost the service more than a MiB for as long as it runs."""

FOLDER = Path(__file__).parent
"""Templates, static files and the blocklist lie here."""
