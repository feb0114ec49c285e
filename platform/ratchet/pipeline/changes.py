"""What changed since a step was made, by the plan's own keys and in words.

What the plan and its files tell is looked at before Ray starts; what needs the models, when a step is about to be made.
A step of which nothing was saved refuses nothing: it begins again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ratchet.codes import Code
from ratchet.errors import CorruptError, RunError
from ratchet.pairs.flow import pairs_identity
from ratchet.pipeline.context import Run
from ratchet.pipeline.graph import Step, chunk_names, options, steps_of, stepwise
from ratchet.pipeline.prepare import source_tokens
from ratchet.pipeline.step_folder import IDENTITY
from ratchet.plan.stage_kinds import release_of, trains
from ratchet.plan.stages import Stage
from ratchet.plan.training import TrainingStage
from ratchet.store.files import read_sealed
from ratchet.store.fingerprint import changed_keys, fingerprint
from ratchet.store.record import read_record
from ratchet.train.checkpoint import newest_step

_CODE: Code = "run.other-plan"
_FIRST = ("package", "options", "dtype", "data")
"""Keys of an identity that are named first: people changed these, and the others follow from them."""
_FIX = (
    "run with --fresh to put it aside and make it again, or give the plan another name; "
    "to train further on what is there, add a stage with `after:`"
)


def refuse_changed(run: Run) -> None:
    """Raise RunError where steps of the run folder were made from another plan or other files. Needs no model."""
    changed = changed_in_plan(run)
    if changed:
        told = [f"step {name} was made from something else: {'; '.join(words)}" for name, words in changed.items()]
        raise RunError("\n".join(told), where=str(run.folder), fix=_FIX, code=_CODE)


def changed_in_plan(run: Run) -> dict[str, list[str]]:
    """Return, for each step of which something is kept, the keys of the plan that changed since; others are left out.

    So are damaged ones, which are looked at when they are to be made. Raises DataError.
    """
    found = {}
    for name, stage in run.plan.stages.items():
        for folder in _folders(run, name):
            with contextlib.suppress(CorruptError):
                if is_kept(folder) and (words := _since(run, name, stage, folder)):
                    found[folder.name] = words
    return found


def is_kept(folder: Path) -> bool:
    """Whether a step's folder holds something that was trained: a finished step, or a checkpoint of one."""
    return read_record(folder) is not None or newest_step(folder) is not None


def identity_in(folder: Path) -> dict[str, Any] | None:
    """Return what a step's folder says that it is made from, if it says so. Raises CorruptError."""
    return read_sealed(folder / IDENTITY, "run with --fresh to put the step aside and make it again")


def refusal(step: Step, folder: Path, words: list[str]) -> RunError:
    """Return the error of a step that was made from something else."""
    told = f"step {step.name} was made from something else: {'; '.join(words)}"
    return RunError(told, where=str(folder), fix=_FIX, code=_CODE)


def in_words(run: Run, step: Step, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what differs between two identities of a step, by keys of the plan.

    Tokens of `now` may stand there by their own identity, where nothing has made them.
    """
    if before.get("kind") != now.get("kind"):  # kinds have other options: each would be told as a change
        return [f"stages.{step.stage}.kind: {before.get('kind')} → {now.get('kind')}"]
    found: list[str] = []
    for key in sorted({*before, *now}, key=lambda one: (_FIRST.index(one) if one in _FIRST else len(_FIRST), one)):
        if key == "data":
            found += _data_since(run, step, before.get(key, {}), now.get(key, {}))
        elif key in {"package", "dtype"}:
            old, new = (str(identity.get(key) or "none") for identity in (before, now))
            what = "model.dtype" if key == "dtype" else f"the package that adds {step.kind}"
            found += [f"{what}: {old} → {new}"] if old != new else []
        else:
            changes = changed_keys({key: before.get(key)}, {key: now.get(key)})
            found += [_said(step, name, values) for name, _, values in (one.partition(": ") for one in changes)]
    return list(dict.fromkeys(found))


def weights_in_words(step: Step, before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return which models a step was made from have other weights now; `before` and `now` are digests by role."""
    names = {"start": f"its start model {step.start}", "reference": "its reference model"}
    names["masters"] = f"what it takes over from {step.start} in float32"
    return [
        f"{names.get(role, f'the model of {role}')} has other weights now"
        for role in sorted({*before, *now})
        if before.get(role) != now.get(role)
    ]


def _folders(run: Run, stage: str) -> list[Path]:
    home = run.layout.step(run.plan.name, stage)
    return [path for path in (home, *sorted(home.parent.glob(f"{stage}.*"))) if path.is_dir()]


def _since(run: Run, name: str, stage: Stage, folder: Path) -> list[str]:
    before = identity_in(folder)
    if before is None:
        return []
    # One step stands for all of its stage: a kept one may have a number that the plan has no more.
    step, *_ = steps_of(run.plan, name, chunk_names(stage))
    return in_words(run, step, before, _as_planned(run, stage, before))


def _as_planned(run: Run, stage: Stage, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return a kept identity with all that the plan and its files tell in its place.

    Models, and which rows chunks hold, stay as they were: what they are now is known when the step is about to be made.
    """
    now = {**before, "kind": stage.kind, "package": release_of(stage.kind), "options": options(stage)}
    now["dtype"] = run.plan.model.dtype
    if trains(stage) and stage.kind == before["kind"]:
        kept = before["data"]
        now["data"] = {
            source: {
                "tokens": _tokens_as_planned(run, source, stage, kept[source]["tokens"]) if source in kept else None,
                "share": share,
            }
            for source, share in stage.shares().items()
            if source in kept or stepwise(stage) is None  # else it may be that of another chunk
        }
    return now


def _tokens_as_planned(run: Run, source: str, stage: TrainingStage, old: str) -> str | dict[str, Any]:
    """Return the identity of kept tokens with what the plan tells in its place; `old` where that changes nothing."""
    record = read_record(run.layout.tokens(old))
    if record is None:
        return old
    now = {**record.identity, "max_length": stage.max_length, "overlong": stage.overlong}
    # Which rows a source on the hub means is known once the run has looked for its commit.
    if (spec := run.plan.data[source]).hub is None:
        now["pairs"] = fingerprint(pairs_identity(spec, run.plan.model.system))
    return old if now == record.identity else now


def _data_since(run: Run, step: Step, before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    at, whole = f"stages.{step.stage}.data", stepwise(step.settings) is None
    named = step.settings.shares() if trains(step.settings) else {}
    for source in [*(one for one in now if one not in before), *before]:
        old, new = before.get(source), now.get(source)
        if new is None and source not in named:
            yield f"{at}: {source} is not named any more"
        elif old is None or new is None:
            yield f"{at}: {source} is new" if whole and old is None else f"{at}: {source} is another chunk now"
        else:
            if old["share"] != new["share"]:
                yield f"{at}.{source}: {old['share']:g} → {new['share']:g}"
            if old["tokens"] != new["tokens"]:
                yield from _tokens_since(run, step, source, old["tokens"], new["tokens"])


def _pairs_since(run: Run, source: str, old: str) -> Iterator[str]:
    """Yield what changed in a source since its pairs were made under the fingerprint `old`."""
    now = pairs_identity(run.plan.data[source], run.plan.model.system)
    if fingerprint(now) == old:
        return
    record = read_record(run.layout.pairs(old))
    if record is None:
        yield f"data.{source}: its files or settings changed"
        return
    before = dict(record.identity)
    yield from _origin_since(source, before.pop("origin"), now.pop("origin"))
    if before.pop("versions", None) != now.pop("versions", None):
        yield f"data.{source}: it is read by another version of Ratchet"
    yield from changed_keys(before, now, f"data.{source}.")


def _origin_since(source: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    if "files" not in old or "files" not in new:
        yield from changed_keys(old, new, f"data.{source}.")
        return
    before, now = dict(old["files"]), dict(new["files"])
    for file in sorted({*before, *now}):
        if file not in before or file not in now:
            yield f"data.{source}: {file} is {'new' if file in now else 'not among its files any more'}"
        elif before[file] != now[file]:
            yield f"data.{source}: {file} changed"


def _tokens_since(run: Run, step: Step, source: str, old: str, new: str | Mapping[str, Any]) -> list[str]:
    """Return why a source's tokens are others now."""
    record = read_record(run.layout.tokens(old))
    if record is None or not trains(step.settings):
        return [f"data.{source}: its tokens changed"]
    before, now = record.identity, new
    if isinstance(now, str):
        made = read_record(run.layout.tokens(now))
        now = source_tokens(run, source, step.settings).identity if made is None else made.identity
    found: list[str] = []
    if run.plan.data[source].hub is None or before["pairs"] != now["pairs"]:
        found += _pairs_since(run, source, before["pairs"])
    for change in changed_keys(before, now):
        key, _, values = change.partition(": ")
        if key in {"max_length", "overlong"}:
            found.append(f"stages.{step.stage}.{key}: {values}")
        elif key != "pairs":
            found.append(f"model: its {key} changed, by which {source} becomes tokens")
    return found or [f"data.{source}: its pairs changed"]


def _said(step: Step, key: str, values: str) -> str:
    """Return a changed key of a step's identity as the plan's key, or in words where the plan has none."""
    stage = f"stages.{step.stage}"
    if key.startswith("options."):
        return f"{stage}.{key.removeprefix('options.')}: {values}"
    words = {
        "rows": "the rows of its chunk are others",
        "start": f"its start model {step.start} is another one",
        "masters": f"the float32 weights that it takes over from {step.start} are others",
        "reference.model": f"{stage}.reference: its reference model is another one",
        "of": f"{stage}.of: a model that it averages is another one",
        "version": "it was made by another version of Ratchet",
    }
    return words.get(key, f"{key.replace('_', '.')}: {values}")
