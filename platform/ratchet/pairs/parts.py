"""A source's rows in the parts that are read apart: those that it holds out by themselves, and those to train on."""

from __future__ import annotations

import dataclasses

from ratchet.errors import PlanError
from ratchet.pairs.read import SPAN_BYTES, SPAN_ROWS, plan_spans
from ratchet.pairs.source import SourceReading, make_reading
from ratchet.pairs.span import Span
from ratchet.plan.data import Source, held_out_source


@dataclasses.dataclass(frozen=True)
class SourcePart:
    """Rows that are read in one way: spans of files, and how."""

    spans: list[Span]
    reading: SourceReading


def plan_parts(
    source: Source, default_system: str | None, span_bytes: int = SPAN_BYTES, span_rows: int = SPAN_ROWS
) -> list[SourcePart]:
    """Return a source's parts in the order in which they are read: rows that are held out by themselves come first.

    The last one is what is trained on. Raises DataError, PlanError, as `make_reading` does.
    """
    found = []
    for one in (held_out_source(source), source):
        if one is not None:
            spans = plan_spans(one, span_bytes, span_rows)
            found.append(SourcePart(spans, make_reading(one, spans, default_system)))
    if len({part.reading.demonstrations for part in found}) > 1:
        raise PlanError(
            "the held-out rows are demonstrations and the others pairs, or the other way about",
            where=found[0].spans[0].file,
            fix="hold out rows of the same kind",
            code="plan.rows",
        )
    return found
