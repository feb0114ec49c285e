"""Rows of a source, in flat memory: of its files, of the hub, or made here; and the spans in which they are read.

A span is read on its own, so that many tasks can share a long file. Rows are numbered from 1 within their file,
whatever the spans: by line in text that is read by lines, by item elsewhere. What cannot be read as an object becomes a
`SourceRow` with the reason; a file that ends too early stops the run, because what it lost cannot be counted.
"""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ratchet.pairs.files import SourceFile, source_files
from ratchet.pairs.forms import KINDS, rows_of
from ratchet.pairs.hub import hub_label, hub_rows
from ratchet.pairs.json_shape import json_shape
from ratchet.pairs.packed import file_size
from ratchet.pairs.span import SourceRow, Span, damage, empty
from ratchet.plan.base import is_url
from ratchet.plan.data import Generated, Source
from ratchet.store.fingerprint import settled_state

VERSION = 3
GENERATED_VERSION = 2
"""Both are in the identity of pairs: raise one when the same files, or the same seed, would give other rows."""
SPAN_BYTES = 32 << 20
SPAN_ROWS = 20_000


def plan_spans(source: Source, span_bytes: int = SPAN_BYTES, span_rows: int = SPAN_ROWS) -> list[Span]:
    """Divide a source into spans, in order. Raises DataError for files that are absent, empty or of no known kind."""
    if source.hub is not None:
        return [Span(hub_label(source.hub), "", "hub")]
    if (spec := source.generate) is not None:
        starts = range(0, spec.rows, span_rows)
        return [
            Span(f"generate:{spec.kind}", "", "generate", start, min(start + span_rows, spec.rows), start)
            for start in starts
        ]
    return [span for file in source_files(source) for span in _divided(file, span_bytes)]


def _divided(file: SourceFile, span_bytes: int) -> Sequence[Span]:
    """Return a file's spans. To count its lines a long one is read from end to end: once, while it stays as it is."""
    state = None if is_url(file.path) else settled_state(Path(file.path))
    return _file_spans(file, span_bytes) if state is None else _known_spans(file, span_bytes, state)


@functools.lru_cache(maxsize=256)
def _known_spans(file: SourceFile, span_bytes: int, state: tuple[int, ...]) -> Sequence[Span]:
    return tuple(_file_spans(file, span_bytes))


def _file_spans(file: SourceFile, span_bytes: int) -> list[Span]:
    whole = Span(file.label, file.path, "lines")
    # Parquet's reader would call it damaged.
    if file_size(file.path) == 0:
        raise empty(whole)
    match file.kind:
        case "json" | "lines":
            with damage(whole):
                shape = json_shape(file.path, file.split, lines=file.kind == "lines")
            whole = dataclasses.replace(whole, form=shape.form, key=shape.key)
        case kind:
            whole = dataclasses.replace(whole, form=kind)
    return KINDS[whole.form].divide(whole, span_bytes)


def read_span(span: Span, source: Source) -> Iterator[SourceRow]:
    """Yield the rows of a span. Raises DataError where the file is damaged, or holds no row at all."""
    if span.form == "generate" and source.generate is not None:
        for at, value in enumerate(generated_rows(source.generate, span.start, span.stop), span.rows_before + 1):
            yield SourceRow(span.file, at, value)
        return
    if span.form == "hub" and source.hub is not None:
        rows: Iterator[SourceRow] = (
            SourceRow(span.file, at, value) for at, value in enumerate(hub_rows(source.hub), 1)
        )
    else:
        rows = rows_of(span, source)
    # Counted here and not before: only reading shows whether a file that is not empty holds a row.
    some = False
    with damage(span):
        for row in rows:
            some = True
            yield row
    part = span.form == "lines" and span.stop and (span.start or span.stop < file_size(span.path))
    if not some and not part:
        raise empty(span)


def generated_rows(spec: Generated, start: int, stop: int) -> Iterator[dict[str, Any]]:
    """Yield rows `start` to `stop` (from 0). Row i depends on the spec's seed and i, not on `rows`."""
    make = GENERATED[spec.kind].make
    for index in range(start, stop):
        # One generator for each row, so that spans give the same rows as one long read.
        yield make(random.Random(f"{spec.kind}:{spec.seed}:{index}"), spec.steps, spec.largest)


def _sum_row(draw: random.Random, steps: int, largest: int) -> dict[str, Any]:
    """`What is 7 + 12 - 5?` and `7 + 12 = 19. 19 - 5 = 14. The answer is 14.`"""
    question, worked, total = _sum(draw, steps, largest)
    return {"instruction": question, "output": f"{worked} The answer is {total}."}


def _quiz_row(draw: random.Random, steps: int, largest: int) -> dict[str, Any]:
    """The question with one right and three wrong answers, in any order; `answer` counts from 0."""
    question, _, total = _sum(draw, steps, largest)
    near = range(max(0, total - 10), total + 11)
    numbers = [total, *draw.sample([number for number in near if number != total], 3)]
    draw.shuffle(numbers)
    return {
        # In other words than the worked sum, so that no prompt is in both.
        "question": question.replace("What", "At once: what"),
        "choices": [f"The answer is {number}." for number in numbers],
        "answer": numbers.index(total),
    }


def _sum(draw: random.Random, steps: int, largest: int) -> tuple[str, str, int]:
    """Return the question, the calculations one by one, and the result; nothing goes below 0."""
    total = draw.randint(1, largest)
    terms, worked = [str(total)], []
    for _ in range(steps):
        change = draw.choice([number for number in range(-min(largest, total), largest + 1) if number])
        sign = "+" if change > 0 else "-"
        worked.append(f"{total} {sign} {abs(change)} = {total + change}.")
        terms += [sign, str(abs(change))]
        total += change
    return f"What is {' '.join(terms)}?", " ".join(worked), total


@dataclasses.dataclass(frozen=True)
class GeneratedRows:
    """How rows of a kind are made, from draws, a number of steps and the largest operand, and the layout they have."""

    make: Callable[[random.Random, int, int], dict[str, Any]]
    layout: str


GENERATED: Mapping[str, GeneratedRows] = {
    "arithmetic": GeneratedRows(_sum_row, "instruction"),
    "arithmetic_quiz": GeneratedRows(_quiz_row, "choices"),
}
