"""Which prompts are near each other: most of their runs of letters are the same, and all of their numbers.

Near: by MinHash (Broder 1997) in one permutation (Li, Owen and Zhang 2012; Shrivastava and Li 2014) at least `NEAR` of
the runs of 8 bytes of both wordings are in both. In 130 letters, about 30 words, that is one word or two that differ.
The numbers must be equal: `7 + 12` and `7 + 13` below the same words are two questions. So must a prompt of fewer than
`LEAST` bytes, as in a short one a small edit asks something else ("the capital of France", "… of Finland").

A sketch follows from the wording alone, so it is the same whatever the rows beside it.

    _P  prompts    _L  bytes of their wordings    _B  bins
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

NEAR = 0.7
LEAST = 48
BINS = 64
BANDS = 16
"""Two prompts that are `NEAR` agree in all four bins of one of the bands but for 1 time in 100; at 0.8, in 5,000."""
Sketches = npt.NDArray[np.uint8]
"""Shape (P, BINS)."""

_RUN = 8
_AT_ONCE = 1 << 18
"""Bytes of wordings that are sketched together, so that memory is bounded whatever the rows."""
_EMPTY = np.uint32(0xFFFFFFFF)
_NO_DIGITS = bytes(code for code in range(256) if not chr(code).isascii() or not chr(code).isdigit())


def sketches_of(wordings: Sequence[str]) -> Sketches:
    """Return the sketches of wordings, each of at least `LEAST` bytes."""
    texts = [text.encode("utf-8", "surrogatepass") for text in wordings]
    if not texts:
        return np.zeros((0, BINS), np.uint8)
    return np.concatenate([_sketches(part) for part in _parts(texts)])


def has_sketch(wording: str) -> bool:
    """Say whether a wording is long enough that a small edit leaves its question as it is."""
    return len(wording) >= LEAST or (not wording.isascii() and len(wording.encode("utf-8", "surrogatepass")) >= LEAST)


def are_near(left: Sketches, right: Sketches) -> npt.NDArray[np.bool_]:
    """Say of each two sketches whether their prompts are near each other."""
    near_P: npt.NDArray[np.bool_] = (left == right).mean(-1) >= NEAR
    return near_P


def bands_of(sketches: Sketches) -> npt.NDArray[np.uint32]:
    """Return shape (P, BANDS): prompts that are near each other have one of these in common, in its place."""
    return np.ascontiguousarray(sketches).view(np.uint32)


def _parts(texts: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    start = held = 0
    for at, text in enumerate(texts):
        if held and held + len(text) > _AT_ONCE:
            yield texts[start:at]
            start, held = at, 0
        held += len(text)
    yield texts[start:]


def _sketches(texts: Sequence[bytes]) -> Sketches:
    lengths_P = np.array(list(map(len, texts)))
    bytes_L = np.frombuffer(b"".join(texts), np.uint8)
    runs_L = np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(bytes_L, _RUN)).view(np.uint64)[:, 0]
    ends_P = np.cumsum(lengths_P)
    owners_L = np.repeat(np.arange(len(texts)), lengths_P)[: len(runs_L)]
    whole_L = np.arange(len(runs_L)) <= ends_P[owners_L] - _RUN  # others go on into the next text
    hashes_L, owners_L = _mixed(runs_L[whole_L]), owners_L[whole_L]
    bins_L = owners_L * BINS + (hashes_L % np.uint64(BINS)).astype(np.int64)
    least = np.full(len(texts) * BINS, _EMPTY)
    np.minimum.at(least, bins_L, (hashes_L >> np.uint64(33)).astype(np.uint32))
    numbers_P = np.array([zlib.crc32(text.translate(None, _NO_DIGITS)) for text in texts], np.uint32)
    values_PB = (_filled(least.reshape(-1, BINS)) ^ numbers_P[:, None]) * np.uint32(0xC2B2AE35)
    return (values_PB >> np.uint32(24)).astype(np.uint8)


def _mixed(runs_L: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return numbers whose every bit depends on all bits of those given (Steele, Lea and Flood 2014)."""
    mixed = (runs_L ^ (runs_L >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _filled(least_PB: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Return bins of which an empty one has the value of the next that is full, and says from how far."""
    empty_PB = least_PB == _EMPTY
    if not empty_PB.any():
        return least_PB
    places = np.where(np.concatenate([empty_PB, empty_PB], 1), 2 * BINS, np.arange(2 * BINS))
    next_PB = np.minimum.accumulate(places[:, ::-1], 1)[:, ::-1][:, :BINS]
    far_PB = (next_PB - np.arange(BINS)).astype(np.uint32)
    return np.take_along_axis(least_PB, next_PB % BINS, 1) + far_PB * np.uint32(0x85EBCA6B)
