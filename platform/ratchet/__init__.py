"""Ratchet: align language models in steps that each lock in what the last one gained."""

__version__ = "0.1.0"
