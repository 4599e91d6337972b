"""`python -m local_portal`."""

from local_portal.cli import main

main()
