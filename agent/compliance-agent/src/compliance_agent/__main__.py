"""`python -m compliance_agent`."""

from compliance_agent.cli import main

main()
