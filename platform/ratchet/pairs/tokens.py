"""Texts become token ids, once for each answer, with the boundary between prompt and answer proved.

Needs no Ray: `tokenise` turns a table of pairs into a table of tokens, and `TokenWriter` writes
such tables, in order, as the files of a tokens folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rapidfuzz.distance import Levenshtein

from ratchet.pairs.pair_table import SIDES, SKIPPED_SCHEMA, pair_of_row
from ratchet.pairs.prefix import render_whole
from ratchet.pairs.refusals import Refusal, RefusalReason
from ratchet.pairs.render import Rendered
from ratchet.pairs.style import Style
from ratchet.pairs.table import SCHEMA

VERSION = 5
"""Raise it when the same pairs and tokenizer would give other tokens."""

TOKENISED = pa.schema(
    [
        *SCHEMA,
        *SKIPPED_SCHEMA,
        ("trimmed", pa.bool_()),
        ("moved", pa.bool_()),
        ("length", pa.int32()),
    ]
)
_EDGES = 20


@dataclasses.dataclass(frozen=True)
class Policy:
    """What happens to a pair with more than `max_length` tokens of prompt and longer answer."""

    max_length: int
    overlong: Literal["drop", "trim_prompt"]


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Token ids of a pair. `trimmed`: the prompt lost its beginning; `moved`: tokens of the prompt's
    end differ between prompt and prompt + answer, so the answer begins at the last common token.
    """

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    trimmed: bool = False
    moved: bool = False


def tokenise(table: pa.Table, tokenizer: Any, style: Style, policy: Policy) -> pa.Table:
    """Return one row of TOKENISED for each pair of `table`, in order; `reason` is null where it is kept."""
    rows = table.to_pylist()
    rendered = [render_whole(tokenizer, style, pair) for pair in map(pair_of_row, rows)]
    encoded = iter(_encode_all(tokenizer, style, [pair for pair in rendered if isinstance(pair, Rendered)]))
    out = []
    for row, pair in zip(rows, rendered, strict=True):
        result = pair if isinstance(pair, Refusal) else next(encoded)
        if isinstance(result, Encoded):
            result = fit(result, style, policy)
        out.append(_out_row(row, result))
    return pa.Table.from_pylist(out, schema=TOKENISED)


def _out_row(row: dict[str, Any], result: Encoded | Refusal) -> dict[str, Any]:
    base = {key: row[key] for key in ("pair_id", "prompt_id", "dialogue", "file", "row")}
    if isinstance(result, Refusal):
        empty = {"prompt": [], "chosen": [], "rejected": [], "trimmed": False, "moved": False}
        facts = {"reason": str(result.reason), "detail": result.detail, "length": result.tokens}
        return base | empty | {"edit_distance": float("nan"), **facts}
    distance = Levenshtein.normalized_distance(result.chosen, result.rejected) if result.rejected else float("nan")
    return base | vars(result) | {"edit_distance": distance, "reason": None, "detail": None, "length": 0}


def _encode_all(tokenizer: Any, style: Style, pairs: Sequence[Rendered]) -> Iterator[Encoded | Refusal]:
    texts = [text for pair in pairs for text in (pair.prompt, pair.chosen, pair.rejected) if text is not None]
    if not texts:
        return
    # One call for all texts: fast tokenizers spread a batch over the cores. Special tokens are the template's to write.
    ids = iter(tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"])
    for pair in pairs:
        prompt, chosen = next(ids), next(ids)
        yield split_ids(style, prompt, chosen, None if pair.rejected is None else next(ids))


def split_ids(style: Style, prompt: list[int], chosen: list[int], rejected: list[int] | None) -> Encoded | Refusal:
    """Return prompt and answers from the ids of the prompt's text and of the whole texts.

    The prompt's ids must be a prefix of both whole texts' ids; where they are not, the longest common
    prefix of the three is the prompt.
    """
    wholes = [_whole(style, whole) for whole in (chosen, rejected) if whole is not None]
    prompt = _with_bos(style, prompt)
    # A token may join the end of the prompt and the beginning of an answer. The loss must not count what is in both.
    common = min(_common(prompt, whole) for whole in wholes)
    answers = [whole[common:] for whole in wholes]
    for answer in answers:
        # A second end within the answer would teach the model to stop there.
        if not answer or answer[-1] not in style.ends or style.ends.intersection(answer[:-1]):
            return Refusal(RefusalReason.END, "an answer does not end with its only end-of-turn token")
        if len(answer) < 2:
            return Refusal(RefusalReason.EMPTY_ANSWER, "an answer has no tokens of its own")
    if common <= (style.bos_id is not None):
        return Refusal(RefusalReason.EMPTY_PROMPT, "no prompt tokens are common to both answers")
    # Some templates begin every turn of a user with one. Two side by side are one too many: the tokenizer's own.
    if style.bos_id not in {None, style.end_id} and prompt[:2] == [style.bos_id] * 2:
        return Refusal(RefusalReason.BOS, "2 beginning-of-sequence tokens instead of one")
    if len(answers) == 2 and answers[0] == answers[1]:
        return Refusal(RefusalReason.SAME, "both answers have the same tokens")
    return Encoded(prompt[:common], answers[0], answers[1] if rejected else [], moved=common < len(prompt))


def _whole(style: Style, ids: list[int]) -> list[int]:
    return _with_bos(style, ids if style.tail_ends else [*ids, style.end_id])


def _with_bos(style: Style, ids: list[int]) -> list[int]:
    return ids if style.bos_id is None or ids[:1] == [style.bos_id] else [style.bos_id, *ids]


def _common(left: list[int], right: list[int]) -> int:
    if right[: len(left)] == left:
        return len(left)
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def fit(pair: Encoded, style: Style, policy: Policy) -> Encoded | Refusal:
    """Apply the length policy: answers are never cut, and a trimmed prompt keeps its BOS and its end."""
    answer = max(len(pair.chosen), len(pair.rejected))
    total = len(pair.prompt) + answer
    if total <= policy.max_length:
        return pair
    # Models that were trained with it do badly without: it is kept where the prompt is cut.
    head = pair.prompt[:1] if style.bos_id is not None else []
    room = policy.max_length - answer - len(head)
    if room < 1:
        return Refusal(
            RefusalReason.ANSWER_TOO_LONG,
            f"an answer of {answer} tokens leaves no room within {policy.max_length}",
            total,
        )
    if policy.overlong == "drop":
        return Refusal(RefusalReason.TOO_LONG, f"{total} tokens, more than {policy.max_length}", total)
    return dataclasses.replace(pair, prompt=[*head, *pair.prompt[len(pair.prompt) - room :]], trimmed=True)


class TokenWriter:
    """Writes TOKENISED tables, in the order they come, as train.arrow, heldout.arrow, skipped.parquet."""

    def __init__(self, folder: Path) -> None:
        self._open = contextlib.ExitStack()
        self._arrow = {}
        for side in SIDES:
            sink = self._open.enter_context(pa.OSFile(str(folder / f"{side}.arrow"), "wb"))
            self._arrow[side] = self._open.enter_context(pa.ipc.new_file(sink, SCHEMA))
        self._skipped = self._open.enter_context(pq.ParquetWriter(folder / "skipped.parquet", SKIPPED_SCHEMA))
        self._count: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._histogram = np.zeros(_EDGES, np.int64)
        self._distances: list[np.ndarray[Any, np.dtype[np.float32]]] = []
        self._longest = self._longest_seen = 0
        self._demonstrations = False

    def __enter__(self) -> TokenWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def write(self, side: str, table: pa.Table) -> None:
        """Add a table to a side (train or heldout)."""
        keep = pc.is_null(table.column("reason"))
        kept, skipped = table.filter(keep), table.filter(pc.invert(keep))
        self._count["read"] += len(table)
        self._reasons.update(skipped.column("reason").to_pylist())
        if len(skipped):
            self._longest_seen = max(self._longest_seen, int(pc.max(skipped.column("length")).as_py()))
            self._skipped.write_table(skipped.select(SKIPPED_SCHEMA.names).cast(SKIPPED_SCHEMA))
        if not len(kept):
            return
        self._arrow[side].write_table(kept.select(SCHEMA.names).cast(SCHEMA).combine_chunks())
        prompt, chosen, rejected = (
            pc.list_value_length(kept.column(name)).to_numpy() for name in ("prompt", "chosen", "rejected")
        )
        self._count[side] += len(kept)
        self._count[f"tokens_{side}"] += int(prompt.sum() + chosen.sum() + rejected.sum())
        self._count["trimmed"] += int(pc.sum(kept.column("trimmed")).as_py())
        self._count["boundary_moved"] += int(pc.sum(kept.column("moved")).as_py())
        self._longest = max(self._longest, int((prompt + np.maximum(chosen, rejected)).max()))
        self._demonstrations |= bool((rejected == 0).any())
        distances = kept.column("edit_distance").to_numpy()
        distances = distances[~np.isnan(distances)]
        self._histogram += np.histogram(distances, bins=_EDGES, range=(0.0, 1.0))[0]
        # 4 bytes a pair, kept for the median alone: a histogram would round it.
        self._distances.append(distances)

    def counts(self) -> dict[str, Any]:
        """Return the record's counts: read = kept + skipped, and kept = train + heldout."""
        numbers = {key: self._count[key] for key in ("read", "train", "heldout")}
        tokens = {key: self._count[key] for key in ("tokens_train", "tokens_heldout", "trimmed", "boundary_moved")}
        skipped = dict(sorted(self._reasons.items()))
        return numbers | {"kept": numbers["train"] + numbers["heldout"], "skipped": skipped} | tokens

    def facts(self) -> dict[str, Any]:
        """Return the record's facts; the median edit distance is null where there are no pairs."""
        distances = np.concatenate([np.zeros(0, np.float32), *self._distances])
        return {
            "edit_distance": {
                "edges": [round(i / _EDGES, 2) for i in range(_EDGES + 1)],
                "counts": self._histogram.tolist(),
                "median": round(float(np.median(distances)), 6) if len(distances) else None,
            },
            "demonstrations": self._demonstrations,
            "longest": self._longest,
            "longest_seen": max(self._longest, self._longest_seen),
        }
