"""Pairs to train on of a source that need not be read yet: all of a small one, else those of rows drawn by a seed.

They become token ids by a tokenizer alone, without a chat template, or a number for each character where there is none.
Neither torch nor transformers is loaded: `ratchet check` looks here.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ratchet.errors import DataError
from ratchet.pairs.checks import POLICY
from ratchet.pairs.estimate import CHARACTERS_A_TOKEN, known_reading
from ratchet.pairs.forms import KINDS
from ratchet.pairs.groups import prompt_groups
from ratchet.pairs.ids import sample_key
from ratchet.pairs.packed import file_size
from ratchet.pairs.pair import Ids, PreferencePair, Skipped, TokenisedPair
from ratchet.pairs.pair_table import items_table
from ratchet.pairs.read import plan_spans, read_span
from ratchet.pairs.source import SourceReading, make_reading, pairs_of
from ratchet.pairs.span import Span
from ratchet.pairs.tokens import Policy
from ratchet.plan.data import Source, held_out_source

_SMALL_BYTES = 4 << 20
_SMALL_ROWS = 2_000
# Places at which rows of a large source are read. Rows of a prompt stand side by side, so that each gives some.
_SPOTS = 16
_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class PairSample:
    """Pairs of a source's train part. `whole`: these are all of them, else as many as were asked for, or about.

    `read` rows and pairs were looked at, `all_read` or some of them; `bad` counts the reasons of those that are bad,
    and `first_bad` names some.
    """

    pairs: tuple[PreferencePair, ...]
    whole: bool
    all_read: bool = False
    read: int = 0
    bad: Mapping[str, int] = dataclasses.field(default_factory=dict)
    first_bad: tuple[str, ...] = ()


def sample_pairs(source: Source, system: str | None, most: int) -> PairSample:
    """Return at most about `most` pairs of a source, whole prompts; of one on the hub none.

    Raises DataError where a file is absent or damaged, PlanError where the source asks for what its rows cannot give.
    """
    if source.hub is not None:
        return PairSample((), whole=False)
    files = plan_spans(source, span_bytes=1 << 62, span_rows=1 << 62)
    reading = known_reading(source, system)
    small = all(_is_small(span) for span in files)
    spots = files if small else [spot for span in files for spot in _spots(span, source.seed, -(-_SPOTS // len(files)))]
    each = None if small else -(-most // len(spots))
    rows = itertools.chain.from_iterable(itertools.islice(read_span(spot, source), each) for spot in spots)
    items = [item for row in rows for item in pairs_of(row, reading)]
    bad = [item for item in items if isinstance(item, Skipped) and item.reason not in POLICY]
    unique = {item.pair_id: item for item in items if isinstance(item, PreferencePair)}
    aside = _held_out_keys(source, system, reading)
    open_ones = [pair for pair in unique.values() if aside.isdisjoint((pair.prompt_key, pair.last_key))]
    out = _fallen_out(open_ones, source, frozenset(shot.key for shot in reading.shots))
    ranked = sorted(open_ones, key=lambda pair: (sample_key(source.seed, pair.drawn_by), pair.pair_id))
    drawn = [pair.pair_id for pair in ranked[: source.max_rows if small else None]]
    kept = {*drawn}
    found = [pair for pair in open_ones if pair.pair_id in kept and pair.prompt_key not in out]
    some = whole_prompts([pair.prompt_id for pair in found], most, source.seed)
    return PairSample(
        pairs=tuple(found[i] for i in some),
        whole=small and len(some) == len(found),
        all_read=small,
        read=len(items),
        bad=Counter(item.reason for item in bad),
        first_bad=tuple(f"  {one.file}:{one.row}: {one.reason}: {one.detail}" for one in bad[:_SHOWN]),
    )


def _fallen_out(pairs: Sequence[PreferencePair], source: Source, shown: frozenset[str]) -> set[str]:
    """Return the keys of the prompts that a share of the source holds out, by the groups of these pairs alone."""
    if not source.held_out_share:
        return set()
    with tempfile.TemporaryDirectory(prefix="ratchet-sample-") as scratch, prompt_groups(Path(scratch)) as groups:
        groups.add(items_table(pairs, source))
        return groups.sides(source.seed, source.held_out_share, shown).held_out


def _held_out_keys(source: Source, system: str | None, like: SourceReading) -> set[str]:
    """Return the keys of prompts that are held out by rows of their own; of large files those of the first rows."""
    rows = held_out_source(source)
    if rows is None:
        return set()
    files = plan_spans(rows, span_bytes=1 << 62, span_rows=1 << 62)
    reading = make_reading(rows, plan_spans(rows), system, like)
    first = itertools.islice((row for span in files for row in read_span(span, rows)), _SMALL_ROWS)
    items = (item for row in first for item in pairs_of(row, reading))
    return {item.prompt_key for item in items if isinstance(item, PreferencePair)}


def whole_prompts(prompts: Sequence[str], most: int, seed: int) -> list[int]:
    """Return the places of the pairs of prompts that a seed draws until there are `most`; all where that is all."""
    if len(prompts) <= most:
        return list(range(len(prompts)))
    of: dict[str, list[int]] = {}
    for place, prompt in enumerate(prompts):
        of.setdefault(prompt, []).append(place)
    drawn = sorted(of, key=lambda prompt: sample_key(seed, prompt))
    starts = itertools.accumulate((len(of[prompt]) for prompt in drawn), initial=0)
    return sorted(place for prompt, start in zip(drawn, starts) if start < most for place in of[prompt])  # noqa: B905


def _is_small(span: Span) -> bool:
    if span.form == "generate":
        return span.stop <= _SMALL_ROWS
    return file_size(span.path) <= _SMALL_BYTES


def _spots(span: Span, seed: int, count: int) -> Iterator[Span]:
    """Yield parts of a file that begin at seeded places; of one that can only be read from its beginning, that."""
    draw = random.Random(f"{seed}:{span.file}")
    if span.form == "generate":
        for start in sorted(draw.sample(range(span.stop), min(count, span.stop))):
            yield dataclasses.replace(span, start=start, rows_before=start)
    else:
        yield from KINDS[span.form].spots(span, draw, count)


def encoded(pairs: Iterable[PreferencePair], tokenizer: Any, policy: Policy) -> list[TokenisedPair]:
    """Return pairs as ids, those alone that a length policy keeps; `tokenizer` is of the library tokenizers, or None.

    Without one each character is an id, and the policy's length is that many times `CHARACTERS_A_TOKEN`.
    """
    held = list(pairs)
    texts = list(dict.fromkeys(text for pair in held for text in _texts(pair) if text))
    ids_of = dict(zip(texts, _ids(texts, tokenizer), strict=True))
    ids_of[""] = np.zeros(0, np.int32)
    longest = policy.max_length * (1 if tokenizer else CHARACTERS_A_TOKEN)
    found = []
    for pair in held:
        prompt, chosen, rejected = (ids_of[text] for text in _texts(pair))
        room = longest - max(len(chosen), len(rejected))
        if policy.overlong == "trim_prompt" and room > 0:
            prompt = prompt[-room:]
        if 0 < len(prompt) <= room and len(chosen):
            found.append(TokenisedPair(pair.pair_id, prompt, chosen, rejected))
    return found


def _texts(pair: PreferencePair) -> tuple[str, str, str]:
    sides = (turn.texts if turn else () for turn in (pair.chosen, pair.rejected))
    prompt = [*((pair.tools,) if pair.tools else ()), *(text for turn in pair.prompt for text in turn.texts)]
    chosen, rejected = ("\n".join(texts) for texts in sides)
    return "\n".join(prompt), chosen, rejected


def _ids(texts: Sequence[str], tokenizer: Any) -> list[Ids]:
    if tokenizer is None:
        return [np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.int32) for text in texts]
    try:
        found = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    except Exception as error:  # the library raises bare ones
        raise DataError(f"the tokenizer cannot encode the texts: {error}") from error
    return [np.array(one.ids, np.int32) for one in found]
