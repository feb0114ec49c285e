"""`ratchet sweep --promote`: the winner of a sweep as a plan of its own, with the sweep's record at its head."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ratchet.documents.sweep import ObjectiveResult, Point, SweepOutcome
from ratchet.errors import PlanError, RunError
from ratchet.plan.document import Document
from ratchet.plan.load import plan_of
from ratchet.plan.reading import read
from ratchet.plan.schema import Plan
from ratchet.store.files import write_text
from ratchet.store.fingerprint import fingerprint
from ratchet.tune.rank import best_of
from ratchet.tune.yaml_text import in_yaml_block, one_line

LONGEST_NAME = 47
_BY, _CONTENT = "# Promoted from the sweep ", "# content: "


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a promoted plan comes from: the sweep's plan, its folder, and the command that promotes."""

    plan: Plan
    folder: Path
    command: str


def point_to_promote(sweep: SweepOutcome, point: str | None = None) -> Point:
    """Return the point to promote: the best one, or the one whose id is `point`.

    Raises PlanError where the sweep has no such point, or the point has no result. Several objectives, or a tie, need a
    point named: else PlanError too.
    """
    if point is not None:
        found = next((one for one in sweep.points if one.id == point), None)
        if found is None:
            raise PlanError(f"the sweep {sweep.name} has no point {point}", fix=_known(sweep), code="plan.no-point")
        if all(result.value is None for result in found.results):
            raise PlanError(
                f"no trial of the point {point} has finished",
                where=sweep.name,
                fix=_known(sweep),
                code="plan.nothing-finished",
            )
        return found
    if len(sweep.objectives) > 1:
        raise PlanError(
            f"the sweep {sweep.name} has {len(sweep.objectives)} objectives, and so no one best point",
            fix=_known(sweep),
            code="plan.no-best",
        )
    if sweep.tied:
        raise PlanError(
            f"{len(sweep.tied)} points of the sweep {sweep.name} came to the same, and none of them is best",
            fix=_known(sweep),
            code="plan.no-best",
        )
    ranked = best_of(sweep.points)
    if not ranked:
        raise PlanError(
            f"no trial of the sweep {sweep.name} has finished", fix=_why_none(sweep), code="plan.nothing-finished"
        )
    return ranked[0]


def _why_none(sweep: SweepOutcome) -> str:
    if any(trial.status == "unfinished" for trial in sweep.trials) or not sweep.trials:
        return "run the sweep to its end first"
    return "all have ended, and running it again changes nothing: its page says why; --fresh tries the points again"


def promoted_name(plan: str, space: str) -> str:
    """Return the promoted plan's name, which its file has too: `<plan>-<space>`, cut to 47 characters."""
    return f"{plan}-{space}"[:LONGEST_NAME].rstrip("-")


def promote(document: Document, sweep: SweepOutcome, point: Point, origin: Origin, jobs: Path) -> Path:
    """Write a point of a sweep as a plan into `jobs`, and return its path.

    `document` is the sweep's plan with the point's values and the plan's own seeds. What the sweep promoted before
    is replaced, unless someone has changed it. Raises RunError where another file has the name, PlanError where
    the document is no plan, StorageError.
    """
    name = promoted_name(sweep.plan, str(sweep.space["name"]))
    data = {**document.data, "name": name}
    # Checked before it is written, under the name that it will have.
    plan_of(dataclasses.replace(document, data=data))
    path = jobs / f"{name}.yaml"
    _refuse_other(path, sweep)
    body = in_yaml_block(_ordered(data))
    head = "".join(f"# {line}".rstrip() + "\n" for line in _record(sweep, point, origin, path))
    write_text(path, f"{_BY}{one_line(sweep.name)}\n{head}{_CONTENT}{fingerprint(data)}\n{body}")
    return path


def _refuse_other(path: Path, sweep: SweepOutcome) -> None:
    if not path.exists():
        return
    # It may be any file of that name, and then need not be UTF-8.
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    told = next((line.removeprefix(_CONTENT) for line in lines if line.startswith(_CONTENT)), None)
    mine = lines[:1] == [f"{_BY}{one_line(sweep.name)}"] and told is not None
    fix = "move it, or give it and its plan another name, and promote again"
    if not mine:
        raise RunError(
            f"is there, and was not promoted from the sweep {sweep.name}",
            where=str(path),
            fix=fix,
            code="run.not-promoted",
        )
    # Of the values and not of the text: people may lay the file out otherwise, and comment on it.
    if fingerprint(read(path).data) != told:
        what = "was promoted from this sweep, and has been changed since"
        raise RunError(what, where=str(path), fix=fix, code="run.edited")


def _ordered(data: dict[str, Any]) -> dict[str, Any]:
    """Return a plan's keys in the order of the reference page, and each stage's with its kind first."""
    known = {key: data[key] for key in Plan.model_fields if key in data}
    if isinstance(stages := known.get("stages"), dict):
        known["stages"] = {
            name: {"kind": stage["kind"], **stage} if isinstance(stage, dict) else stage
            for name, stage in stages.items()
        }
    return known


def _record(sweep: SweepOutcome, point: Point, origin: Origin, path: Path) -> Iterator[str]:
    """Yield the lines of the head comment that say how the plan was found."""
    yield f"of the plan {sweep.plan} over {', '.join(key.key for key in sweep.keys)}."
    yield ""
    yield f"  ratchet run {path}"
    yield ""
    yield f"promoted by: {one_line(origin.command)}"
    yield f"sweep's folder, from here: {one_line(os.path.relpath(origin.folder, path.parent))}"
    yield f"plan: {fingerprint(origin.plan.model_dump(mode='json'))}; space: {fingerprint(sweep.space)}"
    yield f"date: {sweep.created}; ratchet {sweep.ratchet}, commit {sweep.commit}"
    libraries = {key: text for key, text in sweep.versions.items() if key in {"python", "torch", "transformers", "ray"}}
    yield f"versions: {', '.join(f'{key} {text}' for key, text in libraries.items()) or 'not recorded'}"
    yield f"point: {point.id}, {_place(sweep, point)}"
    yield from (f"  {key.key}: {one_line(_flow(point.values[key.key]))}" for key in sweep.keys)
    yield "result:"
    yield from (f"  {_told(result, sweep)}" for result in point.results)
    yield f"seeds: {_seeds(sweep, point)}"
    second = next((one for one in best_of(sweep.points) if one.id != point.id), None)
    if second is not None:
        who = "runner-up" if point.rank == 1 else "best"
        who = "as good" if {point.id, second.id} <= {*sweep.tied} else who
        yield f"{who}: {second.id}, {_told(second.results[0], sweep)}"
        yield f"  {', '.join(f'{key.key}={one_line(_flow(second.values[key.key]))}' for key in sweep.keys)}"


def _flow(value: Any) -> str:
    return in_yaml_block(value, width=10**6).strip()


def _place(sweep: SweepOutcome, point: Point) -> str:
    known = sum(any(one.value is not None for one in other.results) for other in sweep.points)
    if len(sweep.objectives) > 1:
        front = sum(other.front for other in sweep.points)
        return f"{'one of' if point.front else 'not one of'} {front} on the front, of {known} points with a result"
    if point.id in sweep.tied:
        return f"one of {len(sweep.tied)} points that came to the same, of {known} points with a result"
    return f"rank {point.rank} of {known} points with a result"


def _told(result: ObjectiveResult, sweep: SweepOutcome) -> str:
    mode = next(one.mode for one in sweep.objectives if one.metric == result.metric)
    if result.value is None:
        return f"{result.metric} ({mode}): none"
    error = "" if result.standard_error is None else f" ± {result.standard_error:.2g}"
    if result.low is not None and result.high is not None:
        error = f" ({result.low:.2g} to {result.high:.2g}, 95 %)"
        said = " (exact interval over items)"
        return f"{result.metric} ({mode}): {result.value:.6g}{error}{said}, {_runs(result.seeds)}"
    over = "over seeds" if result.of_seeds else "over items"
    said = f" (standard error {over})" if error else ""
    return f"{result.metric} ({mode}): {result.value:.6g}{error}{said}, {_runs(result.seeds)}"


def _runs(count: int) -> str:
    return f"{count} run{'s' * (count != 1)}"


def _seeds(sweep: SweepOutcome, point: Point) -> str:
    used = [trial.seed for trial in sweep.trials if trial.point == point.id and trial.status == "finished"]
    if None in used or not used:
        return "the plan's own"
    listed = ", ".join(str(seed) for seed in used)
    return f"the plan's own here; the sweep ran the point with {listed}, so that this plan's run will differ a little"


def _known(sweep: SweepOutcome) -> str:
    shown = [one for one in sweep.points if one.front or one.id in sweep.tied] or best_of(sweep.points)[:10]
    lines = [f"  {one.id}  {'; '.join(_told(result, sweep) for result in one.results)}" for one in shown]
    title = "name one of the front" if any(one.front for one in shown) else "name one of these, best first"
    title = "name one of the tie: --promote POINT" if sweep.tied else title
    return "\n".join([f"{title}:", *lines]) if lines else "no trial of it has finished yet"
