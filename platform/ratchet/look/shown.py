"""Pairs as they are trained, token by token: what is the template's, what is thought, and what the loss counts.

Tokens are shown as the text that they stand for, by the tokenizer's offsets into what the chat template wrote.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ratchet.documents.data_report import DataPlace, ShownPair, ShownPart, ShownToken, TokenKind
from ratchet.pairs.ids import sample_key
from ratchet.pairs.pair import PreferencePair, Turn
from ratchet.pairs.pair_table import SIDES, pair_of_row
from ratchet.pairs.prefix import render_whole
from ratchet.pairs.refusals import Refusal
from ratchet.pairs.render import Rendered
from ratchet.pairs.style import Style
from ratchet.pairs.tokens import Encoded, Policy, fit, split_ids

SHOWN = 3
_HEAD, _TAIL = 160, 60
"""Tokens of a part that are shown, from its beginning and its end."""
_TEXT_HEAD, _TEXT_TAIL = 1_200, 400
"""Characters of a text that are shown where there is no tokenizer."""
_THOUGHTS = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL)
Span = tuple[int, int, TokenKind]
"""Beginning, end and kind of a part of a text."""


def drawn_pairs(folder: Path, seed: int) -> list[PreferencePair]:
    """Return three pairs to train on that a seed draws, whatever the order of rows; held-out ones where none are."""
    for side in SIDES:
        with pq.ParquetFile(folder / f"{side}.parquet", pre_buffer=False) as file:
            keyed = ((sample_key(seed, pair_id), row) for pair_id, row in _ids_and_rows(file))
            found = heapq.nsmallest(SHOWN, keyed, key=lambda item: item[0])
        if found:
            return [pair_of_row(row.to_pylist()[0]) for _, row in found]
    return []


def _ids_and_rows(file: pq.ParquetFile) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Yield each pair's id, and its row as Arrow: few of them are looked at."""
    for group in range(file.num_row_groups):  # each of bounded size
        for batch in file.read_row_group(group).to_batches():
            for at, pair_id in enumerate(batch.column("pair_id").to_pylist()):
                yield pair_id, batch.slice(at, 1)


def shown_pair(
    pair: PreferencePair, tokenizer: Any, style: Style | None, policy: Policy | None, *, rejected_scored: bool = True
) -> ShownPair:
    """Return a pair token by token, under a length policy; its texts by turn where there is no tokenizer or style.

    A stage that trains on chosen answers alone does not score the rejected ones.
    """
    by_turn = tuple(_texts(pair, rejected_scored=rejected_scored))
    place = DataPlace(pair.file, pair.row)
    if tokenizer is None or style is None:
        return ShownPair(place=place, parts=by_turn, texts_alone=True)
    rendered = render_whole(tokenizer, style, pair)
    if isinstance(rendered, Refusal):
        return ShownPair(place=place, parts=by_turn, texts_alone=True, refused=f"{rendered.reason}: {rendered.detail}")
    texts = [rendered.prompt, rendered.chosen, *([] if rendered.rejected is None else [rendered.rejected])]
    written = [_ids_and_ends(tokenizer, text) for text in texts]
    encoded = split_ids(style, *(ids for ids, _ in written), *([] if len(written) == 3 else [None]))
    if isinstance(encoded, Refusal):
        return ShownPair(place=place, parts=by_turn, texts_alone=True, refused=f"{encoded.reason}: {encoded.detail}")
    fitted = encoded if policy is None else fit(encoded, style, policy)
    refused = f"{fitted.reason}: {fitted.detail}" if isinstance(fitted, Refusal) else ""
    parts = [_prompt_part(pair, rendered, encoded, fitted, written[0], (tokenizer, style))]
    answers = (("chosen", encoded.chosen, 1, pair.chosen), ("rejected", encoded.rejected, 2, pair.rejected))
    for name, ids, at, answer in answers:
        if answer is None:
            continue
        counts = name == "chosen" or rejected_scored
        spans = _turn_spans(texts[at], len(rendered.prompt), answer, "text")
        tokens = _tokens(texts[at], written[at][1], spans, scored=counts)
        skipped = len(encoded.prompt) - _added(style, written[at][0])
        shown = tokens[skipped : skipped + len(ids)]
        # A template without an end of its own: the tokenizer's end token is put behind the text.
        shown += [ShownToken(_mark(tokenizer, one), "template", scored=counts) for one in ids[len(shown) :]]
        parts.append(_cut(name, shown))
    return ShownPair(place=place, parts=tuple(parts), texts_alone=False, refused=refused)


def _prompt_part(
    pair: PreferencePair,
    rendered: Rendered,
    encoded: Encoded,
    fitted: Encoded | Refusal,
    written: tuple[list[int], list[tuple[int, int]]],
    by: tuple[Any, Style],
) -> ShownPart:
    """Return the prompt; of one that is trimmed, what is left of it."""
    (ids, ends), (tokenizer, style) = written, by
    tokens = _tokens(rendered.prompt, ends, _prompt_spans(rendered.prompt, pair.prompt), scored=False)
    if _added(style, ids) and style.bos_id is not None:
        tokens.insert(0, ShownToken(_mark(tokenizer, style.bos_id), "template", scored=False))
    tokens = tokens[: len(encoded.prompt)]
    if isinstance(fitted, Encoded) and fitted.trimmed:
        head = 0 if style.bos_id is None else 1
        tokens = tokens[:head] + tokens[len(tokens) - len(fitted.prompt) + head :]
    return _cut("prompt", tokens)


def _added(style: Style, ids: Sequence[int]) -> int:
    """How many tokens stand before a text's own: one where the beginning of a sequence is not in the text."""
    return int(style.bos_id is not None and list(ids[:1]) != [style.bos_id])


def _mark(tokenizer: Any, token_id: int) -> str:
    return str(tokenizer.convert_ids_to_tokens(token_id))


def _ids_and_ends(tokenizer: Any, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return found["input_ids"], found["offset_mapping"]


def _tokens(text: str, ends: Sequence[tuple[int, int]], spans: Sequence[Span], *, scored: bool) -> list[ShownToken]:
    """Return tokens as the texts that they stand for; one after another they are the whole text.

    Of several tokens that write one character together, the first has it, and the others are empty.
    """
    tokens, at, waiting = [], 0, list(spans)
    for start, end in ends:
        # A token may begin with the blank before a text, which is not of its span.
        blanks = len(text[start:end]) - len(text[start:end].lstrip())
        first = max(start, min(start + blanks, end - 1))
        while waiting and waiting[0][1] <= first:
            waiting.pop(0)
        inside = waiting and waiting[0][0] <= first < waiting[0][1]
        # Many tokenizers leave the blank before a word out of its offsets.
        tokens.append(ShownToken(text[at : max(at, end)], waiting[0][2] if inside else "template", scored))
        at = max(at, end)
    return tokens


def _prompt_spans(text: str, prompt: Sequence[Turn]) -> list[Span]:
    """Return where the turns of a prompt stand in its text; all else is the template's."""
    spans: list[Span] = []
    for number, turn in enumerate(prompt, 1):
        given = turn.role == "assistant" and number == len(prompt)
        spans += _turn_spans(text, spans[-1][1] if spans else 0, turn, "prefix" if given else "text")
    return spans


def _turn_spans(text: str, start: int, turn: Turn, kind: TokenKind) -> list[Span]:
    """Return where a turn's texts stand from `start` on, in order; thoughts may also be written into its content."""
    spans: list[Span] = []
    for content in turn.texts:
        at = text.find(content.strip(), start)
        if at < 0 or not content.strip():
            continue
        start = at + len(content.strip())
        if content is turn.reasoning:
            spans.append((at, start, "thoughts"))
            continue
        thoughts: list[Span] = [(one.start(), one.end(), "thoughts") for one in _THOUGHTS.finditer(text, at, start)]
        spans += sorted([*thoughts, *_between(at, start, thoughts, kind)])
    return spans


def _between(start: int, end: int, taken: Iterable[Span], kind: TokenKind) -> Iterator[Span]:
    """Yield what of a part of a text no span has taken."""
    for left, right, _ in taken:
        if left > start:
            yield start, left, kind
        start = max(start, right)
    if end > start:
        yield start, end, kind


def _cut(name: str, tokens: Sequence[ShownToken]) -> ShownPart:
    left = max(0, len(tokens) - _HEAD - _TAIL)
    head = tokens[:_HEAD] if left else tokens
    tail = tokens[len(tokens) - _TAIL :] if left else ()
    return ShownPart(name=name, head=tuple(head), left_out=left, tail=tuple(tail), length=len(tokens))


def _texts(pair: PreferencePair, *, rejected_scored: bool) -> Iterator[ShownPart]:
    """Yield a pair's texts by turn; lengths are in characters."""
    for number, turn in enumerate(pair.prompt, 1):
        given = turn.role == "assistant" and number == len(pair.prompt)
        yield _text_part(turn.role, turn.text, "prefix" if given else "text", scored=False)
    for name, answer in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        if answer is not None:
            yield _text_part(name, answer.text, "text", scored=name == "chosen" or rejected_scored)


def _text_part(name: str, text: str, kind: TokenKind, *, scored: bool) -> ShownPart:
    left = max(0, len(text) - _TEXT_HEAD - _TEXT_TAIL)
    head = text[:_TEXT_HEAD] if left else text
    tail = (ShownToken(text[len(text) - _TEXT_TAIL :], kind, scored),) if left else ()
    return ShownPart(name=name, head=(ShownToken(head, kind, scored),), left_out=left, tail=tail, length=len(text))
