"""A space as the configuration of a wandb sweep, and the words with which its agent runs one trial.

`wandb sweep FILE` reads the configuration and `wandb agent` asks the service for points, one after another; each is one
call of `ratchet sweep PLAN SPACE --trial key=value …`. The agent fills the macro `${args_no_hyphens}` of the command
with one word `key=value` for each parameter, the value as Python's `str` writes it. Parameter names keep their dots.
wandb nests parameters only under `parameters`, and a nested one would reach the command as the text of a Python
dictionary.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ratchet.errors import PlanError
from ratchet.plan.distributions import Distribution, NumberRange, size_of, value_at
from ratchet.plan.document import SET, shorten
from ratchet.plan.outline import close, either, hint
from ratchet.plan.reading import in_yaml, parse
from ratchet.plan.schema import Wandb
from ratchet.plan.space import Space

SEED = "seed"
"""The parameter that carries a trial's seed; no key of a plan is called so."""
_WANDBS_OWN = "_wandb"
"""What an agent hands over beside the parameters where the sweep's configuration came back from the service."""
_METHODS = {"grid": "grid", "random": "random", "tpe": "bayes"}
_GOALS = {"max": "maximize", "min": "minimize"}
_MOST_VALUES = 5040  # orders of 7 names
_ROUNDING = 1e-9  # how far, relatively, a number may lie outside of its range: exp(log(x)) is not always x


def wandb_config(
    plan_path: Path, space_path: Path, space: Space, overrides: Sequence[str], wandb: Wandb | None = None
) -> dict[str, Any]:
    """Return the configuration of a wandb sweep over `space`.

    The paths are those that the command will be given, `overrides` its `--set` words, and `wandb`
    says whose project it is. Raises PlanError where wandb cannot express a key.
    """
    metric, mode = next(iter(space.objectives.items()))
    owner = {"project": wandb.project, "entity": wandb.entity} if wandb else {}
    words = ["sweep", str(plan_path), str(space_path), *(word for one in overrides for word in ("--set", one))]
    if odd := [word for word in words if "${" in word]:
        raise PlanError(f"{odd[0]!r} holds '${{', which wandb's agent takes for a macro", fix="write it without")
    return {
        "name": space.name,
        "description": f"{space_path} over {plan_path}",
        **{key: value for key, value in owner.items() if value},
        "program": "ratchet",
        "command": ["${env}", "ratchet", *words, "--trial", "${args_no_hyphens}"],
        "method": _METHODS[space.search.by],
        "metric": {"name": metric, "goal": _GOALS[mode]},
        "parameters": _parameters(space, str(space_path)),
        **({"run_cap": space.budget.trials} if space.budget.trials else {}),
    }


def wandb_yaml(
    plan_path: Path, space_path: Path, space: Space, overrides: Sequence[str], wandb: Wandb | None = None
) -> str:
    """Return the configuration as a file for `wandb sweep`; its head says what it cannot hold. Raises PlanError."""
    config = wandb_config(plan_path, space_path, space, overrides, wandb)
    head = [
        f"A wandb sweep: trials of {plan_path} over {space_path}. Written by `ratchet sweep --wandb-config`.",
        "",
        "  wandb sweep THIS_FILE",
        "  wandb agent ENTITY/PROJECT/SWEEP    # where `ratchet sweep` could run; as many as there is room for",
        "",
        *_notes(space),
    ]
    text = "".join(f"# {line}".rstrip() + "\n" for line in head)
    return text + str(yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=4096))


def values_of_arguments(words: Sequence[str], space: Space) -> tuple[dict[str, Any], int | None]:
    """Return a point of `space` and its seed from words `key=value`, as wandb's agent or a person writes them.

    A value is read as YAML and must lie in its key's distribution. What is returned is the distribution's own value:
    1.0 for `1`, 0.3 for `0.30`, a list for the text of an order. Every key is given once. wandb's own `_wandb` is left
    out. Raises PlanError with a line for each word that is wrong.
    """
    found: dict[str, Any] = {}
    problems: list[str] = []
    wanted = [*space.keys, *([SEED] if space.seeds else [])]
    for word in words:
        key, sign, text = word.partition("=")
        if key == _WANDBS_OWN:
            continue
        if not sign:
            problems.append(f"{shorten(word)}: write it as key=value")
        elif key in found:
            problems.append(f"{key}: given twice")
        elif key not in wanted:
            problems.append(f"{shorten(key)}: the space has no such key{hint(close(key, wanted))}")
        else:
            found[key] = None
            try:
                found[key] = _value(_distribution(space, key), text)
            except PlanError as error:
                problems.append(f"{key}: {error.what}")
    missing = [key for key in wanted if key not in found and not any(one.startswith(f"{key}:") for one in problems)]
    problems += [f"{key}: not given" for key in missing]
    if problems:
        raise PlanError("\n".join(f"--trial {one}" for one in problems))
    seed = found.pop(SEED) if space.seeds else None
    return {key: found[key] for key in space.keys}, seed


def _distribution(space: Space, key: str) -> Distribution:
    return Distribution(choice=space.seeds) if key == SEED and space.seeds else space.keys[key]


def _parameters(space: Space, where: str) -> dict[str, Any]:
    keys = [*space.keys, *([SEED] if space.seeds else [])]
    made: dict[str, Any] = {}
    for key in keys:
        try:
            made[key] = _parameter(_distribution(space, key), space.search.by)
        except PlanError as error:
            raise PlanError(f"{key}: wandb cannot express this: {error.what}", where=where, fix=error.fix) from None
    return made


def _parameter(one: Distribution, by: str) -> dict[str, Any]:
    numbers, size = one.row.range, size_of(one)
    if by == "grid" and size is None:
        raise PlanError(f"a grid has no {one.kind} keys", fix="give its values, or search by random or tpe")
    if numbers is not None:
        low, high = one.given
        return {"distribution": numbers.wandb, "min": low, "max": high}
    if size is not None and size > max(len(one.given), _MOST_VALUES):
        raise PlanError(
            f"it takes every order as a value of its own, and {len(one.given)} names have {size:,}",
            fix="give the orders to try as a choice, or sweep with `ratchet sweep`",
        )
    written = [_written(value) for value in _options(one)]
    texts = [str(value) for value in written]
    if alike := [text for text in texts if texts.count(text) > 1]:
        raise PlanError(f"two of its values are both written {alike[0]}", fix="leave one of them out")
    return {"values": written}


def _options(one: Distribution) -> Iterator[Any]:
    """Yield the values of a distribution that counts them out."""
    return (value_at(one, index) for index in range(size_of(one) or 0))


def _written(value: Any) -> Any:
    """Return a value as wandb is given it: what is no number, truth or text as JSON, which is YAML."""
    return value if isinstance(value, bool | int | float | str) else json.dumps(value)


def _value(one: Distribution, text: str) -> Any:
    """Return the value of a distribution that `text` means. Raises PlanError."""
    if one.row.range is not None:
        return _in_range(one, one.row.range, parse(text, SET).data)
    for value in _options(one):  # before YAML: the text "0.1" may be a value, and `None` is no YAML
        if str(_written(value)) == text:
            return value
    read = parse(text, SET)
    for value in _options(one):
        if not read.problems and _same(value, read.data):
            return value
    if one.row.orders:
        raise PlanError(f"{shorten(text)} is no order of {', '.join(one.given)}")
    raise PlanError(f"{shorten(text)} is not one of its values {either([in_yaml(_plain(v)) for v in _options(one)])}")


def _same(value: Any, read: Any) -> bool:
    """Whether two plain values are equal; a number never equals true or false."""
    return json.dumps(_floats(value), sort_keys=True) == json.dumps(_floats(read), sort_keys=True)


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _floats(value: Any) -> Any:
    """Return a plain value with its whole numbers as floats, so that 1 is 1.0."""
    if isinstance(value, Mapping):
        return {key: _floats(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_floats(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _in_range(one: Distribution, numbers: NumberRange, value: Any) -> float | int:
    low, high = map(float, one.given)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PlanError(f"{shorten(str(value))} is no number")
    if numbers.whole:
        if not float(value).is_integer() or not low <= value <= high:
            raise PlanError(f"{value} is no whole number from {low:.0f} to {high:.0f}")
        return int(value)
    near = min(max(float(value), low), high)
    if not math.isclose(near, value, rel_tol=_ROUNDING):
        raise PlanError(f"{value} does not lie from {low:g} to {high:g}")
    return near


def _notes(space: Space) -> list[str]:
    """Say what of the space the configuration does not hold, a line each."""
    metric, *others = space.objectives
    drawn = [key for key, one in space.keys.items() if one.grid is not None] + ([SEED] if space.seeds else [])
    notes = []
    if others:
        notes.append(f"wandb looks for the best {metric} alone; each run has {', '.join(others)} too.")
    if space.search.by == "tpe":
        notes.append("`bayes` is wandb's own (a Gaussian process), in place of the space's `tpe`.")
    if space.search.by != "grid" and drawn:
        notes.append(f"wandb draws {', '.join(drawn)} with the rest, and not every combination in turn.")
    if space.search.by != "grid":
        notes.append("wandb has no seed for what it draws.")
    if space.scheduler:
        notes.append(
            f"No early_terminate: wandb's counts how often {metric} was logged, and a trial has that only at its end;"
        )
        notes.append(f"the space's {space.scheduler.kind} goes by {space.scheduler.metric}, in `ratchet sweep`.")
    if space.budget.hours:
        notes.append(f"wandb has no limit of hours: the space's {space.budget.hours:g} are not in it.")
    if space.at_once:
        notes.append(f"At most {space.at_once} at once: start no more agents than that.")
    return notes
