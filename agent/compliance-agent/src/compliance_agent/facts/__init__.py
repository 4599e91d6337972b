"""Facts about the box that several parts of the agent need; each reader states what it could not tell, and why."""
