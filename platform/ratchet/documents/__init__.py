"""The documents that Ratchet writes and reads: one frozen dataclass each, and the one codec of all."""
