"""What names on the hub mean for a run: each is a commit from the first call on, written down beside the run.

    <run folder>/hub/<fingerprint>.json    kind, name, asked (the revision of the plan), commit, found

A sweep's trials share those of their sweep. `--fresh` asks the hub again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ratchet.errors import ModelError
from ratchet.pairs.hub import Kind, at_commit, commit_of
from ratchet.plan.data import Source
from ratchet.plan.model import ModelSpec, is_commit
from ratchet.plan.schema import Plan
from ratchet.plan.stage_kinds import reads_pairs, reads_reference
from ratchet.store.files import write_json, write_json_once
from ratchet.store.fingerprint import fingerprint
from ratchet.store.layout import Layout
from ratchet.store.record import now, read_json_or_none

if TYPE_CHECKING:  # a run's state brings torch along, and `ratchet check` looks here too
    from ratchet.pipeline.context import Run


def pin(run: Run) -> None:
    """Put commits for the names in the run's plan, those that it found before or what the hub says now.

    Raises DataError, ModelError where a name means nothing, or the hub cannot be reached.
    """
    folder = run.layout.sweep(run.trial.sweep) / "hub" if run.trial else pins_of(run.layout, run.plan.name)

    def found(part: Source | ModelSpec) -> str:
        path, kind, name, asked = _place(folder, part)
        known = None if run.fresh else read_json_or_none(path)
        if known is None:
            pinned = {"kind": kind, "name": name, "asked": asked, "commit": _ask(part), "found": now()}
            if run.fresh:
                write_json(path, pinned)
            else:
                write_json_once(path, pinned)  # of several trials one is the first
            known = read_json_or_none(path)
        run.warnings.append(
            f"{name} has no commit in the plan: {known['commit']} is read, as the hub said on {known['found'][:10]}. "
            "Give it as `revision`; --fresh asks the hub again"
        )
        return str(known["commit"])

    run.plan = _with(run.plan, {key: found(part) for key, part in dict(unpinned(run.plan)).items()})


def pinned_before(plan: Plan, layout: Layout) -> Plan:
    """Return a plan with the commits that a run of it has found, if any; no request is sent."""
    known = {}
    for key, part in unpinned(plan):
        if (kept := read_json_or_none(_place(pins_of(layout, plan.name), part)[0])) is not None:
            known[key] = str(kept["commit"])
    pinned: Plan = _with(plan, known)
    return pinned


def pins_of(layout: Layout, plan: str) -> Path:
    """Return the folder of a run's commits."""
    return layout.run(plan) / "hub"


def unpinned(plan: Plan) -> Iterator[tuple[tuple[str, ...], Source | ModelSpec]]:
    """Yield what a plan names on the hub without a commit, by its keys."""
    for name, source in plan.data.items():
        if source.hub is not None and not is_commit(source.hub.revision or ""):
            yield ("data", name), source
    for keys, spec in _models(plan):
        if spec.name is not None and not is_commit(spec.revision or ""):
            yield keys, spec


def _models(plan: Plan) -> Iterator[tuple[tuple[str, ...], ModelSpec]]:
    yield ("model",), plan.model
    for name, stage in plan.stages.items():
        if reads_reference(stage) and isinstance(stage.reference, ModelSpec):
            yield ("stages", name, "reference"), stage.reference
        if reads_pairs(stage) and stage.steps is not None and stage.steps.base is not None:
            yield ("stages", name, "steps", "base"), stage.steps.base


def _place(folder: Path, part: Source | ModelSpec) -> tuple[Path, Kind, str, str | None]:
    """Return where a part's commit is written down, and what is asked of the hub."""
    kind: Kind = "dataset" if isinstance(part, Source) else "model"
    of: Any = part.hub if isinstance(part, Source) else part
    asked = {"kind": kind, "name": of.name, "revision": of.revision}
    return folder / f"{fingerprint(asked)}.json", kind, str(of.name), of.revision


def _ask(part: Source | ModelSpec) -> str:
    if isinstance(part, Source):
        assert part.hub is not None  # noqa: S101  `unpinned` looked
        return str(at_commit(part.hub).revision)
    try:
        return commit_of("model", str(part.name), part.revision)
    except Exception as error:  # the library raises many kinds, its HTTP client's among them
        raise ModelError(
            f"the hub does not say which commit {part.name} is at: {str(error).strip().splitlines()[0]}",
            where="model.name",
            fix="check the name, the revision and the network; or download it elsewhere and set model.path",
        ) from error


def _with(part: Any, commits: dict[tuple[str, ...], str]) -> Any:
    """Return a part of a plan with commits at some keys below it."""
    if () in commits:
        if isinstance(part, Source):
            assert part.hub is not None  # noqa: S101  `unpinned` looked
            return part.model_copy(update={"hub": part.hub.model_copy(update={"revision": commits[()]})})
        return part.model_copy(update={"revision": commits[()]})
    below: dict[str, dict[tuple[str, ...], str]] = {}
    for keys, commit in commits.items():
        below.setdefault(keys[0], {})[keys[1:]] = commit
    if isinstance(part, dict):
        return part | {key: _with(part[key], some) for key, some in below.items()}
    return part.model_copy(update={key: _with(getattr(part, key), some) for key, some in below.items()})
