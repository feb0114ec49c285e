"""How a plan says what the columns of its rows mean: paths, constants and verdicts, one for each field."""

from __future__ import annotations

import re
from typing import Annotated, TypeAlias

from pydantic import Field, StringConstraints

from ratchet.plan.base import Strict

PATH_PATTERN = r"^-?[^\s.\[\]-][^.\[\]]*(\.[^.\[\]]+|\[(-?\d+|\*)\])*$"
"""A column, and steps into it: `meta.system`, `ratings[0]`, `answers[*].text`. A minus turns a number's sign round."""

Path = Annotated[str, StringConstraints(pattern=PATH_PATTERN)]
Value: TypeAlias = str | int | float | bool
Values = Annotated[tuple[Value, ...], Field(strict=False)]


class Fixed(Strict):
    """The same value for every row."""

    value: Value
    """What each row holds there."""


class PreferredBy(Strict):
    """Which of two answers a column calls the better one. A value that is in none of the lists makes a bad row."""

    column: Path
    """The column that holds the verdict."""
    first: Values
    """Its values where `output_1` is better, such as [model_a]."""
    second: Values
    """Its values where `output_2` is better."""
    tie: Values = ()
    """Its values where neither is: such rows are skipped as ties."""


Column: TypeAlias = Path | Annotated[tuple[Path, ...], Field(strict=False, min_length=1)] | Fixed
"""Where a field's value is: a path, a list of paths whose values become a list, or the same for every row."""


Where: TypeAlias = str | tuple[str, ...] | Fixed | PreferredBy
"""Where a field's value is, as code has it."""


class Columns(Strict):
    """What each column means. What is named is read; what is not is not.

    A path has dots and indices: `meta.system`, `ratings[0]`, `answers[*].text` (a list of all), `-rank` (the number
    with the other sign). `[a, b]` makes a list of two columns, `{value: …}` a constant.
    """

    prompt: Column | None = None
    """The prompt: text or messages."""
    system: Column | None = None
    """Its system text."""
    instruction: Column | None = None
    """The prompt as an instruction, to which `input` and `history` belong."""
    input: Column | None = None
    """Text on a line of its own below the instruction."""
    history: Column | None = None
    """Earlier questions and answers: a list of pairs of texts."""
    chosen: Column | None = None
    """The better answer: text, a message, or a conversation that ends with it."""
    rejected: Column | None = None
    """The worse answer."""
    score_chosen: Column | None = None
    """A number: how good the better answer is."""
    score_rejected: Column | None = None
    """A number: how good the worse answer is."""
    margin: Column | None = None
    """A number: by how much the better answer is better."""
    messages: Column | None = None
    """A conversation: a demonstration of its last answer, or the better answer where `rejected` is named too."""
    completion: Column | None = None
    """The answer of a demonstration."""
    responses: Column | None = None
    """A list of answers, of which the best and the worst are taken by `scores`."""
    scores: Column | None = None
    """A list of their scores, higher is better; a null leaves that answer out."""
    output_1: Column | None = None
    """The first of two answers, which `preference` compares."""
    output_2: Column | None = None
    """The second of them."""
    preference: Column | PreferredBy | None = None
    """Which is better: 1 or 2 (1.5, 0 and null are ties), or a verdict in other words."""
    question: Column | None = None
    """A question with several options."""
    choices: Column | None = None
    """Its options: a list of texts."""
    answer: Column | None = None
    """The right option: an index from 0, a letter, a label or its text."""
    prefix: Column | None = None
    """Text with which the answers begin: it is given, and what follows it is trained on and scored. Where the answers
    of most rows hold it already, it is cut off them."""
    reasoning: Column | None = None
    """The thoughts before the answer of a demonstration: text, without the marks that the chat template writes."""
    reasoning_chosen: Column | None = None
    """The thoughts before the better answer."""
    reasoning_rejected: Column | None = None
    """The thoughts before the worse answer."""
    tools: Column | None = None
    """The tools that the prompt offers: a list of JSON objects, or its text."""

    def given(self) -> dict[str, Where]:
        """Return the fields that are named, with where each is found."""
        return {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}


_STEP = re.compile(r"\.?([^.\[\]]+)|\[(-?\d+|\*)\]")
Step: TypeAlias = str | int


def paths_of(where: Where) -> tuple[str, ...]:
    """Return the paths that are looked at for a field."""
    if isinstance(where, Fixed):
        return ()
    return (where.column,) if isinstance(where, PreferredBy) else (where,) if isinstance(where, str) else where


def path_steps(path: str) -> tuple[Step, ...]:
    """Return the names and indices of a path without its minus; `*` stands for all of a list."""
    steps: list[Step] = []
    for name, index in _STEP.findall(path.removeprefix("-")):
        steps.append(name or (index if index == "*" else int(index)))
    return tuple(steps)
