"""Which pairs are sampled and which are held out: decided by seeded hashes of ids, never by order."""

from __future__ import annotations

import hashlib

VERSION = 1


def sample_key(seed: int, pair_id: str) -> bytes:
    """Return 8 bytes, uniform over pairs; a sample of n rows is the n lowest, whatever their order."""
    return _hash(f"sample:{seed}:{pair_id}")


def held_out(seed: int, share: float, prompt_id: str) -> bool:
    """Say whether a prompt, with all its pairs, is held out. A larger share holds out a superset."""
    return int.from_bytes(_hash(f"split:{seed}:{prompt_id}")) < share * 2**64


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:8]
