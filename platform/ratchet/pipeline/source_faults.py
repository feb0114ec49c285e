"""Whether a run would stop at a source of a plan: can it be read, does a layout fit, are too many rows of it bad?

Or at its start model, whose weights may be stored so that nothing can train them.
No torch and no Ray. Of a long file its lines are counted, and rows from all over it are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator

from ratchet.errors import DataError, ModelError, PlanError
from ratchet.model.passport import check_storage
from ratchet.pairs.left_out import check_bad
from ratchet.pairs.parts import plan_parts
from ratchet.pairs.sample import sample_pairs
from ratchet.pipeline.prepare import check_router_losses, used_sources
from ratchet.plan.data import Source, held_out_source
from ratchet.plan.schema import Plan
from ratchet.store.files import at_home


def source_faults(plan: Plan) -> Iterator[DataError | PlanError]:
    """Yield what is wrong with the sources that a plan uses, one fault a source; those on the hub are not asked for."""
    for name in used_sources(plan):
        source = plan.data[name]
        if source.hub is not None:
            continue
        try:
            _check(name, source, plan.model.system)
        except (DataError, PlanError) as error:
            named = error.where is not None and error.where.startswith(f"data.{name}")
            at = error.where if named else ": ".join(filter(None, (f"data.{name}", error.where)))
            yield type(error)(error.what, where=at, fix=error.fix, code=error.finer)


def model_faults(plan: Plan) -> Iterator[ModelError]:
    """Yield what forbids training a start model that is a folder here, by its settings alone."""
    if plan.model.path is None:
        return
    try:
        check_storage(at_home(plan.model.path))
        check_router_losses(plan, at_home(plan.model.path))
    except ModelError as error:
        named = (error.where or "").startswith("stages.")
        where = error.where if named else f"model.path: {error.where}"
        yield ModelError(error.what, where=where, fix=error.fix, code=error.finer)


def _check(name: str, source: Source, system: str | None) -> None:
    if held_out_source(source) is not None:
        plan_parts(source, system)
    found = sample_pairs(source, system, most=1)
    # Of some rows the share is a guess, which stops nothing.
    if found.all_read:
        check_bad(name, found.bad, found.read, source.max_bad_share, lambda: "\n".join(found.first_bad))
