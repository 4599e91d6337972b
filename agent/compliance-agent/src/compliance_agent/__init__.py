"""The compliance agent: checks the appliance, writes signed evidence, and answers to Central Command."""

__version__ = "2026.11.0"
