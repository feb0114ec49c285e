"""A source's rows in the parts that are read apart: those that it holds out by themselves, and those to train on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ratchet.errors import PlanError
from ratchet.pairs.pair import PreferencePair
from ratchet.pairs.read import SPAN_BYTES, SPAN_ROWS, plan_spans
from ratchet.pairs.shots import enough_shots
from ratchet.pairs.source import SourceReading, make_reading, span_pairs
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
    spans = plan_spans(source, span_bytes, span_rows)
    trained = SourcePart(spans, make_reading(source, spans, default_system))
    rows = held_out_source(source)
    if rows is None:
        return [trained]
    spans = plan_spans(rows, span_bytes, span_rows)
    aside = SourcePart(spans, make_reading(rows, spans, default_system, like=trained.reading))
    if aside.reading.demonstrations != trained.reading.demonstrations:
        raise PlanError(
            "the held-out rows are demonstrations and the others pairs, or the other way about",
            where=spans[0].file,
            fix="hold out rows of the same kind",
            code="plan.rows",
        )
    return _with_shots(aside, trained) if source.few_shot else [aside, trained]


def shown_keys(parts: Sequence[SourcePart]) -> frozenset[str]:
    """Return the keys of questions that stand as examples above others."""
    return frozenset(shot.key for part in parts for shot in part.reading.shots)


def _with_shots(aside: SourcePart, trained: SourcePart) -> list[SourcePart]:
    """Return both parts with examples of the rows to train on that ask nothing that is held out."""
    keys = {shot.key for shot in trained.reading.shots}
    rows = (item for span in aside.spans for item in span_pairs(span, aside.reading))
    held = {item.prompt_key for item in rows if isinstance(item, PreferencePair) and item.prompt_key in keys}
    shots = enough_shots([shot for shot in trained.reading.shots if shot.key not in held], trained.reading.source)
    source = aside.reading.source.model_copy(update={"few_shot": trained.reading.source.few_shot})
    return [
        SourcePart(aside.spans, dataclasses.replace(aside.reading, source=source, shots=shots)),
        SourcePart(trained.spans, dataclasses.replace(trained.reading, shots=shots)),
    ]
