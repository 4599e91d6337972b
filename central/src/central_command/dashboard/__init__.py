"""The fleet view for people: server-made pages that work without JavaScript."""
