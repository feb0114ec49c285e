"""Held-out prompts that are near one to train on all the same: of groups too large to be held out or kept as one.

Where rows are held out by themselves, nothing but equal wordings is taken out of what is trained on, and all that is
near them is counted here. Near is what `sketches` says. Memory grows with the held-out prompts alone.

    _H  held-out prompts    _T  prompts to train on    _C  two that share a band
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from ratchet.documents.data_report import DataAnalysis, DataPlace
from ratchet.pairs.counting import of_all
from ratchet.pairs.normal_form import opening_of, wording
from ratchet.pairs.sketches import NEAR, Sketches, are_near, bands_of, has_sketch, sketches_of

_WARNED = 0.01
_PLACES = 5
_FRAME = 1000
"""Held-out prompts that share a band beyond this number have a frame in common, and the band says nothing of any."""


def near_prompts(folder: Path) -> DataAnalysis | None:
    """Return how many held-out prompts of a pairs folder are near one to train on; None where nothing is held out."""
    places: dict[str, DataPlace] = {}
    found: list[Sketches] = []
    known, of = set[str](), 0
    for part in _prompts(folder / "heldout.parquet"):
        of += len(part.keys() - known)
        fresh = {key: one for key, one in part.items() if key not in known and has_sketch(one[1])}
        known |= part.keys()
        places |= {key: place for key, (place, _) in fresh.items()}
        found.append(sketches_of([text for _, text in fresh.values()]))
    if not of:
        return None
    near_H = _near(folder / "train.parquet", np.concatenate(found))
    count, many = int(near_H.sum()), near_H.sum() > _WARNED * of
    return DataAnalysis(
        code="near-prompts",
        gravity="warns" if many else "notes",
        count=count,
        of=of,
        counted="prompts",
        says=f"{of_all(count, of, 'held-out prompts')} share {NEAR:.0%} of their letters, and all numbers, with one to "
        "train on",
        do="held-out figures flatter here: leave out what is one template filled many times, or hold out rows that "
        "are not of it (held_out: {path: …})"
        if many
        else "",
        places=tuple(place for place, near in zip(places.values(), near_H, strict=True) if near)[:_PLACES],
    )


def _near(train: Path, held_HB: Sketches) -> npt.NDArray[np.bool_]:
    """Say of each held-out prompt whether one to train on is near it."""
    near_H = np.zeros(len(held_HB), np.bool_)
    bands = bands_of(held_HB).T
    orders = [np.argsort(band_H) for band_H in bands]
    ranked = [band_H[order_H] for band_H, order_H in zip(bands, orders, strict=True)]
    for part in _prompts(train) if len(held_HB) else ():
        sketches_TB = sketches_of([text for _, text in part.values() if has_sketch(text)])
        for order_H, sorted_H, band_T in zip(orders, ranked, bands_of(sketches_TB).T, strict=True):
            first_T, last_T = (np.searchsorted(sorted_H, band_T, side) for side in ("left", "right"))
            count_T = np.where(last_T - first_T <= _FRAME, last_T - first_T, 0)
            train_C = np.repeat(np.arange(len(band_T)), count_T)
            nth_C = np.arange(len(train_C)) - np.repeat(np.cumsum(count_T) - count_T, count_T)
            held_C = order_H[np.repeat(first_T, count_T) + nth_C]
            open_C = ~near_H[held_C]
            held_C, train_C = held_C[open_C], train_C[open_C]
            near_H[held_C[are_near(held_HB[held_C], sketches_TB[train_C])]] = True
    return near_H


def _prompts(path: Path) -> Iterator[dict[str, tuple[DataPlace, str]]]:
    """Yield the places and wordings of prompts by their keys, as the split takes them, some at a time."""
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(1024, columns=["prompt_key", "file", "row", "prompt", "asked"]):
            found: dict[str, tuple[DataPlace, str]] = {}
            for row in batch.to_pylist():
                if row["prompt_key"] not in found:  # pairs of one prompt mostly stand together
                    text = _wording(row)
                    place = DataPlace(row["file"], row["row"], (row["asked"] or _asked(row["prompt"]))[:100])
                    found[row["prompt_key"]] = place, text
            yield found


def _wording(row: dict[str, Any]) -> str:
    if row["asked"] is not None:
        return wording(row["asked"])
    return opening_of((turn["role"], turn["content"] or "") for turn in row["prompt"])


def _asked(turns: list[dict[str, Any]]) -> str:
    texts = [turn["content"] or "" for turn in turns]
    return next((text for turn, text in zip(turns, texts, strict=True) if turn["role"] == "user"), "\n".join(texts))
