"""The checks, one a file, found by `compliance_agent.checks.base.discover`."""
