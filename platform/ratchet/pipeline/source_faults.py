"""Whether each source of a plan can be read at all: its files are of a known form, and a layout fits the first rows.

No torch and no Ray. Of a long file its lines are counted, and rows from all over it are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator

from ratchet.errors import DataError, PlanError
from ratchet.pairs.read import plan_spans
from ratchet.pairs.source import make_reading
from ratchet.plan.schema import Plan


def source_faults(plan: Plan) -> Iterator[DataError | PlanError]:
    """Yield what is wrong with the sources of a plan, one fault a source; those on the hub are not asked for."""
    for name, source in plan.data.items():
        if source.hub is not None:
            continue
        try:
            make_reading(source, plan_spans(source), plan.model.system)
        except (DataError, PlanError) as error:
            at = f"data.{name}" if not error.where else f"data.{name}: {error.where}"
            yield type(error)(error.what, where=at, fix=error.fix, code=error.finer)
