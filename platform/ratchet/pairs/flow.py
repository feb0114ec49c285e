"""A source's pairs, made on Ray Data: many tasks read and check, the driver divides and writes.

The only Ray in this package. What is computed lies in `source` and `assemble`, which need none;
the result is the same whatever the number of CPUs or spans.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from ratchet.errors import DataError, error_from, error_values
from ratchet.pairs import build, conditions, ids, layouts, read
from ratchet.pairs.assemble import assemble_tables
from ratchet.pairs.files import digests
from ratchet.pairs.hub import at_commit
from ratchet.pairs.left_out import check_kept, check_share, tell_contradictions, tell_split, tell_unbuilt
from ratchet.pairs.pair_table import ITEM_SCHEMA
from ratchet.pairs.parts import plan_parts, shown_keys
from ratchet.pairs.source import SourceReading
from ratchet.pairs.span import Span
from ratchet.pairs.span_table import span_tables
from ratchet.plan.data import Source, held_out_source, packages_of
from ratchet.store import warned
from ratchet.store.layout import Layout
from ratchet.store.lease import SILENTLY, Wait
from ratchet.store.machine import on_ray
from ratchet.store.made import Product, ensure

_BLOCK_BYTES = 8 << 20
_ERROR = pa.map_(pa.string(), pa.string())
"""What stopped a span, as `errors.error_values` has it."""
_NOT_DONE_TO_ROWS = {
    **dict.fromkeys(
        ("path", "split", "config", "hub", "generate"),
        "where rows come from: their content is in the identity, as origin, and a split of a file beside it",
    ),
    **dict.fromkeys(("where", "system", "held_out"), "written out beside what is done"),
    **dict.fromkeys(("max_bad_share", "max_overlong_share"), "limits that stop a run, and change no pair"),
}
"""Keys of a source that are not in the identity of its pairs as they are, with the reason. Every other key is."""


def pairs_identity(source: Source, default_system: str | None) -> dict[str, Any]:
    """Return what a source's pairs are made from: contents (never places), what is done to them, code versions.

    A hub data set is its name, config, split and commit. Raises DataError where a file is absent, or the hub does not
    say which commit a name means.
    """
    rows = held_out_source(source)
    done = source.model_dump(exclude={*_NOT_DONE_TO_ROWS})
    # The keys are names that modules once had: with others, the pairs of every store would be made again.
    versions = {
        "build": build.VERSION,
        "conditions": conditions.VERSION,
        "layouts": layouts.VERSION,
        "read": read.VERSION,
        "split": ids.SPLIT_VERSION,
    }
    system = source.system if source.system is not None else default_system
    return {
        "kind": "pairs",
        "origin": _origin(source),
        **done,
        "held_out": source.held_out if rows is None else _origin(rows),
        "where": list(source.where),
        "system": system,
        "versions": versions,
        **({"packages": packages} if (packages := packages_of(source)) else {}),
    }


def _origin(source: Source) -> dict[str, Any]:
    """Return what the rows of a source are known by."""
    if source.generate is not None:
        return {"generate": source.generate.model_dump(), "version": read.GENERATED_VERSION}
    if source.hub is not None:
        return {"hub": at_commit(source.hub).model_dump()}
    return {"files": digests(source), **({"split": source.split} if source.split is not None else {})}


@dataclasses.dataclass(frozen=True)
class SourcePairs:
    """The pairs of a source; one on the hub names its commit."""

    name: str
    source: Source
    default_system: str | None
    kind: ClassVar[str] = "pairs"

    @property
    def what(self) -> str:
        return f"pairs {self.name}"

    @functools.cached_property
    def identity(self) -> Mapping[str, Any]:
        return pairs_identity(self.source, self.default_system)

    def make(self, folder: Path, look: Callable[[], None]) -> Product:
        """Read, check and divide the rows. Raises DataError, PlanError."""
        parts = plan_parts(self.source, self.default_system)
        tables = (table for part in parts for table in _stream(part.spans, part.reading, look))
        counts = dataclasses.asdict(assemble_tables(tables, folder, self.source, shown_keys(parts)))
        check_share(self.name, counts, self.source.max_bad_share, folder)
        check_kept(self.name, self.source, counts, folder)
        # A file that grows meanwhile would be recorded under the digest of what it was before.
        if pairs_identity(self.source, self.default_system) != self.identity:
            raise DataError("files changed while they were read", where=f"data.{self.name}", fix="run again")
        reading = parts[-1].reading
        facts: dict[str, Any] = {
            "layout": reading.called,
            "demonstrations": reading.demonstrations,
            "read": list(reading.read_columns),
            "not_read": list(reading.unread_columns),
        }
        if reading.demonstrations:
            facts["train_on"] = self.source.train_on
        return Product(counts, facts=facts)


def prepare_pairs(
    name: str,
    source: Source,
    layout: Layout,
    default_system: str | None,
    wait: Wait = SILENTLY,
) -> tuple[str, Path]:
    """Return fingerprint and folder of a source's pairs, making them where the store has none.

    Ray tasks read the spans where this process has a Ray; else they are read here, one after the other.

    `wait.look` is called while it works, too. Raises DataError where files are absent or damaged, too many rows are
    bad, or no pair is left; PlanError where the source asks for what its rows cannot give; StorageError.
    """
    if source.hub is not None:  # one commit is named, hashed and read, here and in every task
        source = source.model_copy(update={"hub": at_commit(source.hub)})
    made = ensure(layout, SourcePairs(name, source, default_system), wait)
    # Once more: another source with the same pairs may have allowed more bad rows.
    check_share(name, made.record.counts, source.max_bad_share, made.folder)
    tell_split(name, source, made.record.counts)
    tell_contradictions(name, made.record.counts)
    tell_unbuilt(name, made.record.counts)
    return made.fingerprint, made.folder


def _stream(spans: list[Span], reading: SourceReading, look: Callable[[], None]) -> Iterator[pa.Table]:
    """Yield the items of all spans in order, as `pair_table` has them. Raises the DataError that reading one met."""
    if on_ray():
        yield from _on_ray(spans, reading, look)
        return

    for span in spans:
        for table in span_tables(span, reading):
            look()
            yield table


def _on_ray(spans: list[Span], reading: SourceReading, look: Callable[[], None]) -> Iterator[pa.Table]:
    import ray.data

    numbers = ray.data.from_items([{"span": number} for number in range(len(spans))], override_num_blocks=len(spans))
    tables = numbers.map_batches(
        _span_tables, fn_args=(spans, reading, warned.destination()), batch_size=1, batch_format="pyarrow"
    )
    # Without it blocks come as they are ready, and the first of equal pairs would be another each time.
    tables.context.execution_options.preserve_order = True
    tables.context.enable_progress_bars = False
    tables.context.target_max_block_size = _BLOCK_BYTES  # else tasks gather 128 MiB before they hand anything on
    for table in tables.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
        look()
        errors = table.column("error")
        if errors.null_count < len(table):
            raise error_from(dict(errors.drop_null()[0].as_py()))
        yield table


def _span_tables(
    numbers: pa.Table, spans: list[Span], reading: SourceReading, warnings: str | None
) -> Iterator[pa.Table]:
    """Yield a span's items in tables of bounded size. What stops a span is the only row of its last table."""
    warned.send(warnings)
    for number in numbers.column("span").to_pylist():
        try:
            for table in span_tables(spans[number], reading):
                yield table.append_column("error", pa.nulls(len(table), _ERROR))
        except DataError as error:
            # Ray would wrap it.
            nothing = ITEM_SCHEMA.empty_table().append_column("error", pa.nulls(0, _ERROR))
            yield pa.Table.from_pylist([{"error": list(error_values(error).items())}], schema=nothing.schema)
