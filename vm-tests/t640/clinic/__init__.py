"""A small clinic in network namespaces: real services on real ports, and the truth about every host."""
