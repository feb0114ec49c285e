"""What a trial runs: the plan's document with a point's values in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ratchet.plan import override
from ratchet.plan.document import SET, Document, KeyPath, Place, Problem
from ratchet.plan.outline import close, either, hint
from ratchet.plan.space import Space, varied_stages
from ratchet.plan.stage_kinds import may_train


def trial_document(
    plan: Document, space: Space, values: Mapping[str, Any], seed: int | None, written: Document | None = None
) -> Document:
    """Return the document of a trial's plan: the plan with the space's `set` and `unset`, a point's values and a seed.

    An order of sources that stand with shares keeps the shares. What is wrong with a key or an order is among the
    document's problems, for `plan_of` to raise. `written` is the space's own document: problems then name its lines,
    and else `--set`.
    """
    document = base_document(plan, space, written)
    problems: list[Problem] = []
    placed: dict[str, tuple[Any, Place]] = {}
    for key, value in values.items():
        place = place_of(written, space, key, value)
        if key in space.keys and space.keys[key].row.orders:
            there = value_in(document, key)
            if faults := _order_faults(key, value, there):
                problems += [Problem(place, key, what) for what in faults]
                continue
            ordered = {name: there[name] for name in value} if isinstance(there, dict) else list(value)
            placed[key] = (ordered, place)
        else:
            placed[key] = (value, place)
    document = override.put(document, placed)
    if seed is not None:
        place = _at(written, "", ("seeds",))
        document = override.put(document, {f"stages.{name}.seed": (seed, place) for name in _seeded(document, space)})
    return dataclasses.replace(document, problems=(*document.problems, *problems))


def base_document(plan: Document, space: Space, written: Document | None = None) -> Document:
    """Return the plan's document with what the space sets and leaves out, which all trials have in common."""
    left = {key: _at(written, "unset", ("unset", n)) for n, key in enumerate(space.unset)}
    placed = {key: (value, _at(written, "set", ("set", key))) for key, value in space.set.items()}
    return override.put(override.leave_out(plan, left), placed)


def place_of(written: Document | None, space: Space, key: str, value: Any) -> Place:
    """Return where a space says a value of one of its keys; the key's own place where it is drawn from a range."""
    path: KeyPath = ("keys", key)
    if key in space.keys and not space.keys[key].row.orders:
        said = list(space.keys[key].given)
        path = (*path, space.keys[key].kind, said.index(value)) if value in said else path
    return _at(written, "keys", path)


def value_in(document: Document, key: str) -> Any:
    """Return the value at a dotted key of a document, or None."""
    found = document.data
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _at(written: Document | None, under: str, path: KeyPath) -> Place:
    return Place(SET, 0) if written is None else dataclasses.replace(written.place(path), under=under)


def _order_faults(key: str, order: Any, there: Any) -> list[str]:
    """Return how an order differs from a stage's sources."""
    if not isinstance(order, list | tuple):
        return ["must be a list of names, in the order in which they are trained"]
    if not isinstance(there, list | dict):
        return []  # the key or the plan is wrong in another way
    names = [name for name in there if isinstance(name, str)]
    faults = [
        f"names {name}, which {key} has not{hint(close(str(name), names)) or f'; there are {either(names)}'}"
        for name in order
        if name not in names
    ]
    return faults + [f"leaves out {name}, which {key} has" for name in names if name not in order]


def _seeded(document: Document, space: Space) -> list[str]:
    """Return the training stages whose keys vary, or all training stages where no key of one does."""
    stages = document.data.get("stages")
    training = [
        name
        for name, stage in (stages.items() if isinstance(stages, dict) else ())
        if isinstance(stage, dict) and may_train(stage)
    ]
    varied = varied_stages(space)
    return [name for name in training if name in varied] or training
