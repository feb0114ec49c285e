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
    least_PB = _filled(_least(texts))
    numbers_P = np.array([zlib.crc32(text.translate(None, _NO_DIGITS)) for text in texts], np.uint32)
    values_PB = (least_PB ^ numbers_P[:, None]) * np.uint32(0xC2B2AE35)
    return (values_PB >> np.uint32(24)).astype(np.uint8)


def _least(texts: Sequence[bytes]) -> npt.NDArray[np.uint32]:
    """Return the least hash of the runs in each bin of each text, shape (P, BINS)."""
    lengths_P = np.array(list(map(len, texts)))
    bytes_L = np.frombuffer(b"".join(texts), np.uint8)
    windows_L = np.lib.stride_tricks.sliding_window_view(bytes_L, _RUN)
    hashes_L = _mixed(np.ascontiguousarray(windows_L).view(np.uint64)[:, 0])
    bins_L = np.repeat(np.arange(0, len(texts) * BINS, BINS), lengths_P)[: len(hashes_L)]
    bins_L += (hashes_L & np.uint64(BINS - 1)).view(np.int64)
    # What goes on into the next text counts for none: it has a bin of its own.
    ends_P = np.cumsum(lengths_P)[:-1]
    bins_L[(ends_P[:, None] - np.arange(1, _RUN)).ravel()] = len(texts) * BINS
    least = np.full(len(texts) * BINS + 1, _EMPTY)
    np.minimum.at(least, bins_L, (hashes_L >> np.uint64(33)).astype(np.uint32))
    return least[:-1].reshape(-1, BINS)


def _mixed(numbers_L: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Mix the bits of each number, so that every one depends on all (Steele, Lea and Flood 2014); in its place."""
    shifted_L = np.empty_like(numbers_L)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        np.right_shift(numbers_L, np.uint64(shift), out=shifted_L)
        numbers_L ^= shifted_L
        numbers_L *= np.uint64(factor)
    return numbers_L


def _filled(least_PB: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Return bins of which an empty one has the value of the next that is full, and says from how far."""
    empty_PB = least_PB == _EMPTY
    rows, bins = np.nonzero(empty_PB)
    some = np.flatnonzero(empty_PB.any(1))
    places = np.arange(2 * BINS, dtype=np.int16)
    ahead = np.where(np.concatenate([empty_PB[some]] * 2, 1), np.int16(2 * BINS), places)
    ahead = np.minimum.accumulate(ahead[:, ::-1], 1)[:, ::-1]
    next_ = ahead[np.searchsorted(some, rows), bins]
    filled_PB = least_PB.copy()
    far = (next_ - bins).astype(np.uint32)
    filled_PB[rows, bins] = least_PB[rows, next_ % BINS] + far * np.uint32(0x85EBCA6B)
    return filled_PB
