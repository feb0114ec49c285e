"""The sub-commands of `ratchet`, one module each, imported when asked for."""
