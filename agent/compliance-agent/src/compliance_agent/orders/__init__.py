"""The order handlers, one a file, found by `compliance_agent.orders.base.discover`."""
