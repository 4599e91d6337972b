"""What the appliance and Central Command say to each other.

Wire models (frozen dataclasses, read strictly by type and tolerantly towards unknown fields), canonical JSON
(RFC 8785), signed envelopes (DSSE with Ed25519) and the evidence chain. Nothing in here does network or disk I/O,
except `keys` (the key file) and `local` (the client for the appliance's own unix sockets).
"""
