"""Held-out prompts that are nearly prompts to train on: the split keeps equal wordings together, and no others.

Near: at least 80 % of the runs of 3 words of both are in both, by MinHash (Broder 1997) of 64 values in 16 bands. At
80 % a pair of prompts shares a band but for 2 times in 10,000. Seeds are fixed, so the same prompts give the same
count. Each prompt is looked at once; memory grows with the held-out prompts alone, 2 kB for each.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from ratchet.documents.data_report import DataAnalysis, DataPlace
from ratchet.pairs.contamination import words_of
from ratchet.pairs.counting import of_all

NEAR = 0.8
_VALUES, _BANDS, _RUN = 64, 16, 3
_WARNED = 0.01
_PLACES = 5
_FRAME = 1000
"""Held-out prompts that share a band beyond this number have a frame in common, and the band says nothing of any."""
_DRAW = np.random.Generator(np.random.PCG64(36))
_FACTORS = _DRAW.integers(0, 1 << 63, _VALUES, np.uint64) * np.uint64(2) + np.uint64(1)
_TERMS = _DRAW.integers(0, 1 << 63, _VALUES, np.uint64)
_Signature = npt.NDArray[np.uint32]


def near_prompts(folder: Path) -> DataAnalysis | None:
    """Return how many held-out prompts of a pairs folder are near one to train on; None where nothing is held out."""
    places: dict[str, DataPlace] = {}
    signatures: list[_Signature] = []
    bands: dict[bytes, list[int]] = {}
    for key, place, words in _prompts(folder / "heldout.parquet"):
        if key not in places:
            signatures.append(signature := _signature(words))
            for band in _bands(signature):
                bands.setdefault(band, []).append(len(places))
            places[key] = place
    if not places:
        return None
    some = {band: np.array(held) for band, held in bands.items() if len(held) <= _FRAME}
    near_H = _near(folder / "train.parquet", np.array(signatures), some)
    count, many = int(near_H.sum()), near_H.mean() > _WARNED
    return DataAnalysis(
        code="near-prompts",
        gravity="warns" if many else "notes",
        count=count,
        of=len(places),
        counted="prompts",
        says=f"{of_all(count, len(places), 'held-out prompts')} share {NEAR:.0%} of their words with one to train on",
        do="hold out rows of their own (held_out: {path: …}), as held-out figures flatter here" if many else "",
        places=tuple(place for place, near in zip(places.values(), near_H, strict=True) if near)[:_PLACES],
    )


def _near(train: Path, signatures_HV: _Signature, bands: dict[bytes, npt.NDArray[np.int64]]) -> npt.NDArray[np.bool_]:
    """Say of each held-out prompt whether one to train on is near it."""
    near_H, last = np.zeros(len(signatures_HV), np.bool_), ""
    for one, _, words in _prompts(train):
        if one == last:  # pairs of one prompt mostly stand together
            continue
        last, signature = one, _signature(words)
        perhaps_H = np.zeros_like(near_H)
        for band in _bands(signature):
            if band in bands:
                perhaps_H[bands[band]] = True
        those = np.flatnonzero(perhaps_H & ~near_H)
        near_H[those] = (signatures_HV[those] == signature).mean(1) >= NEAR
    return near_H


def _prompts(path: Path) -> Iterator[tuple[str, DataPlace, list[str]]]:
    """Yield each pair's prompt key, place, and the words of its first user turn, as the split takes that."""
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(1024, columns=["prompt_key", "file", "row", "prompt", "asked"]):
            for row in batch.to_pylist():
                text = row["asked"] or _asked(row["prompt"])
                yield row["prompt_key"], DataPlace(row["file"], row["row"], text[:100]), words_of(text)


def _asked(turns: list[dict[str, Any]]) -> str:
    texts = [turn["content"] or "" for turn in turns]
    return next((text for turn, text in zip(turns, texts, strict=True) if turn["role"] == "user"), "\n".join(texts))


def _signature(words: list[str]) -> _Signature:
    runs = {" ".join(words[at : at + _RUN]) for at in range(max(1, len(words) - _RUN + 1))}
    hashes_N = np.fromiter((zlib.crc32(run.encode()) for run in runs), np.uint64, len(runs))
    mixed: _Signature = ((hashes_N[:, None] * _FACTORS + _TERMS) >> np.uint64(32)).min(axis=0).astype(np.uint32)
    return mixed


def _bands(signature: _Signature) -> Iterator[bytes]:
    for number, band in enumerate(signature.reshape(_BANDS, -1)):
        yield bytes([number]) + band.tobytes()
