"""The pictures in the documentation, taken from the real portal with the fixtures' clinic.

usage: python -m tests.local_portal.screenshot [FILE]        default: docs/images/portal-overview.png, 1280 x 800
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.local_portal.browsing import chromium, claim, screenshot, visit
from tests.local_portal.conftest import Neighbours, start_portal, stop_portal
from tests.local_portal.peers import Agent, Scanner, Updater

DEFAULT = Path(__file__).parents[2] / "docs" / "images" / "portal-overview.png"


def main(path: Path = DEFAULT) -> None:
    """Start everything, claim, look at the overview."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        neighbours = Neighbours(directory, Agent(directory / "agent.sock"), Scanner(directory / "scanner.sock"),
                                Updater(directory))
        neighbours.agent.start()
        neighbours.scanner.start()
        running = start_portal(neighbours, backend_seconds=5)
        try:
            with chromium() as browser, visit(browser, running) as page:
                claim(page, running.claim_code)
                path.parent.mkdir(parents=True, exist_ok=True)
                screenshot(page, path)
        finally:
            stop_portal(running)
            neighbours.agent.stop()
            neighbours.scanner.stop()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
