"""The appliance updater: a whole system image, A/B, on trial, with automatic rollback.

It imports nothing of the other distributions, on purpose: what repairs a system must not break with it.
"""
