"""Central Command, the provider's fleet server.

`device` answers the appliances (signed envelopes, no cookies), `dashboard` shows the fleet to people (sessions, CSRF
tokens, roles), `cli` is what an administrator types. All of them act through the same few modules: `enrolment`,
`checkin`, `evidence`, `orders`, `accounts`, each of which owns one noun and its tables.
"""
