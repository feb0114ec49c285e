"""Whether a sweep space is right for a plan: found out before the first trial begins, all at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from ratchet.plan import override
from ratchet.plan.distributions import Distribution, NumberRange
from ratchet.plan.document import Document, KeyPath, Problem, fail
from ratchet.plan.load import plan_of, plan_problems
from ratchet.plan.outline import close, describe, either, hint, members
from ratchet.plan.references import reference_of, start_of
from ratchet.plan.schema import Plan
from ratchet.plan.space import Space
from ratchet.plan.stage_kinds import reads_reference, trains
from ratchet.tune.trial_plan import base_document
from ratchet.tune.trial_validation import try_points

_SAME = "so every trial would make the same models: leave it out here, or put it under `set`"
_WHERE = {
    r"cluster(\..+)?": f"says where a plan runs, {_SAME}",
    r"track(\..+)?": f"says who watches a plan, {_SAME}",
    r"evaluate": f"says what models are asked, {_SAME}",
    r"reference\.(sample|otherwise)": f"says when an engine's scores are trusted, {_SAME}",
    r"stages\.[^.]+\.checkpoint\.keep": f"says what stays on disk, {_SAME}",
    r"data\.[^.]+\.(max_bad_share|max_overlong_share)": f"says when a run stops, {_SAME}",
    r".*\.trust_remote_code": f"says what may run here, {_SAME}",
}
"""Keys that are in no fingerprint, and what they are for."""
_NAME = "names the run, and every trial has a name of its own: leave it out"


def check_space(plan: Document, written: Document, space: Space, metrics: Callable[[Plan], Sequence[str]]) -> None:
    """Check a space, and the document that it was read from, against a plan.

    The plan must have the keys, and they must decide what is made and take such values. The plan must be valid at every
    value and at both ends of every range: each key by itself, and keys together. The objectives must be among the names
    that `metrics` gives for every trial's plan. The scheduler's metric must tell trials apart.

    Raises PlanError, whose `what` has one line for each problem. Reads the plan and its suites; trains nothing.
    """
    # First by itself: what is wrong with the plan alone is no fault of the space.
    plan_of(plan)
    base = base_document(plan, space, written)
    faults = {key: list(_key_faults(base, written, key, one)) for key, one in space.keys.items()}
    problems = [*base.problems, *_names(written, space), *(found for each in faults.values() for found in each)]
    # A key that is wrong by itself would bring its fault at every point.
    tried = try_points(plan, written, space, [key for key, found in faults.items() if not found])
    problems += tried.problems
    plans = {at: plan_of(one) for at, one in tried.good.items()} or {"": _near(plan, base)}
    known = {at: metrics(one) for at, one in plans.items()}
    fail([*problems, *_objectives(written, space, known), *_scheduler(written, space, known, list(plans.values()))])


def _near(plan: Document, base: Document) -> Plan:
    """Return what is nearest to a trial's plan, where none is right."""
    return plan_of(plan if plan_problems(base) else base)


def _names(written: Document, space: Space) -> Iterator[Problem]:
    paths: list[tuple[KeyPath, str]] = [(("set", key), key) for key in space.set]
    for path, key in [*paths, *((("unset", n), key) for n, key in enumerate(space.unset))]:
        if key == "name":
            yield written.problem(path, _NAME)
        if key == "cluster.storage":
            yield written.problem(
                path, "says where the sweep itself lies: write it into the plan, or give it with --set"
            )


def _key_faults(base: Document, written: Document, key: str, one: Distribution) -> Iterator[Problem]:
    """Yield what is wrong with a key or its distribution, whatever the values."""
    path = ("keys", key)
    if what := override.fault(base, key):
        yield written.problem(path, what)
        return
    if key == "name":
        yield written.problem(path, _NAME)
    elif what := next((what for pattern, what in _WHERE.items() if re.fullmatch(pattern, key)), None):
        yield written.problem(path, what)
    elif one.row.orders:
        if not re.fullmatch(r"stages\.[^.]+\.data", key):
            what = "orders the sources of a stepwise stage: it goes with stages.<name>.data, and with no other key"
            yield written.problem((*path, one.kind), what)
    elif one.row.range is not None:
        yield from _drawn_faults(written, (*path, one.kind), one.row.range, override.annotation_at(key))


def _drawn_faults(written: Document, path: KeyPath, drawn: NumberRange, annotation: Any) -> Iterator[Problem]:
    """Yield a problem where a key takes no such numbers as are drawn for it."""
    taken = members(annotation)
    options = [option for member in taken if get_origin(member) is Literal for option in get_args(member)]
    if any(member is Any or member in drawn.needs for member in taken) or (drawn.whole and int in map(type, options)):
        return
    other = "randint" if int in taken else None if drawn.whole else "choice"
    yield written.problem(path, f"{drawn.draws}, and the key takes {describe(annotation)}{hint(other)}")


def _objectives(written: Document, space: Space, known: Mapping[str, Sequence[str]]) -> Iterator[Problem]:
    """Yield the objectives that some trial does not have; `known` are the metrics of trials, by their values."""
    named, common = _named(known)
    for metric in space.objectives:
        if metric not in named:
            yield written.problem(("objectives", metric), f"no step reports this{_or(metric, common)}")
        elif metric not in common:
            yield written.problem(("objectives", metric), f"not every trial reports this: {_without(metric, known)}")


def _scheduler(
    written: Document, space: Space, known: Mapping[str, Sequence[str]], plans: Sequence[Plan]
) -> Iterator[Problem]:
    """Yield why a scheduler's metric is no metric of every trial's steps, or does not tell trials apart."""
    if space.scheduler is None:
        return
    named, common = _named(known)
    metric, training = space.scheduler.metric, [name for name in common if "/train/" in name]
    if metric not in named:
        what: str | None = f"no step reports {metric}{_or(metric, training)}"
    elif metric not in common:
        what = f"not every trial reports {metric}: {_without(metric, known)}"
    elif metric not in training:
        what = f"{metric} is known when a trial ends, and a scheduler needs one of its steps{_or(metric, training)}"
    else:
        what = _no_say(space, metric, plans)
    if what is not None:
        yield written.problem(("scheduler", "metric"), what)


def _named(known: Mapping[str, Sequence[str]]) -> tuple[list[str], list[str]]:
    """Return the metrics that some trial has, and those that all have."""
    named = list(dict.fromkeys(name for names in known.values() for name in names))
    return named, [name for name in named if all(name in names for names in known.values())]


def _without(metric: str, known: Mapping[str, Sequence[str]]) -> str:
    return f"none does at {next(at for at, names in known.items() if metric not in names)}"


def _no_say(space: Space, metric: str, plans: Sequence[Plan]) -> str | None:
    """Return why a metric of steps says nothing of which trial is better at one, or None."""
    stage = metric.partition("/")[0]
    ordered = [key for key in (f"stages.{stage}.data", f"stages.{stage}.steps.order") if key in space.keys]
    if any(key.endswith(".order") or space.keys[key].row.orders for key in ordered):
        return (
            f"{metric} is of other sources in other trials at the same step, as {ordered[0]} orders them: "
            "take a metric of a stage after it, or leave the scheduler out"
        )
    if any(_changes(key, _made_of(plan, stage)) for plan in plans for key in space.keys):
        return None
    return (
        f"{metric} is the same in all trials, as no key changes {stage} or what it starts from: "
        "take a metric of a stage that a key changes, or leave the scheduler out"
    )


def _made_of(plan: Plan, name: str) -> set[str]:
    """Return a stage with all those that decide its model."""
    found, left = set[str](), [name]
    while left:
        stage = left.pop()
        if stage in plan.stages and stage not in found:
            found.add(stage)
            spec = plan.stages[stage]
            if not trains(spec):
                left += spec.of
                continue
            named = reference_of(plan, stage) if reads_reference(spec) else None
            left += [start_of(plan, stage), *([named] if isinstance(named, str) else [])]
    return found


def _changes(key: str, stages: Container[str]) -> bool:
    """Whether a key is of one of these stages, or of what every stage depends on."""
    part = key.split(".")
    return part[0] != "stages" or len(part) == 1 or part[1] in stages


def _or(metric: str, known: Sequence[str]) -> str:
    return hint(close(metric, known)) or f"; there are {either(known)}"
