"""A gentle inventory of a clinic's network: passive first, paced always, medical devices above all.

Frames come in through `listener`, go out through `pacer`, are read by `packets`, become `facts`, and the `inventory`
makes devices of them. Nothing here ever reads a TCP payload that somebody else sent or was meant to get (PHI).
"""

VERSION = "2026.11.0"
