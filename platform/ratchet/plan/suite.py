"""What an evaluation suite may say (`eval/*.yaml`), and the kinds of tasks that are known.

Another package adds a kind by an entry point of the group `ratchet.tasks`, whose name is the kind and whose object is
its TaskKind. The package's version is then in the identity of every result of that kind.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, Union

from pydantic import Field, StringConstraints, model_validator

from ratchet.plan.base import AVERAGE_PATTERN, Name, Strict, local, wrong
from ratchet.plan.judge import Judge
from ratchet.plan.outline import kind_of
from ratchet.plan.plugins import Plugin, table_of
from ratchet.plan.task_parts import Answering, TaskKind
from ratchet.plan.tasks import (
    BUILT_IN,
    Chrf,
    EqBench,
    ExactMatch,
    Harness,
    MtBench,
    Perplexity,
    Preference,
    TextOverlap,
)

AverageName = Annotated[str, StringConstraints(pattern=AVERAGE_PATTERN)]


def added_task(plugin: Plugin) -> TaskKind:
    """Return the row of a kind that a package adds. Raises PlanError where it contradicts itself."""
    row = plugin.load(TaskKind)
    if (named := kind_of(row.settings)) != plugin.kind:
        raise plugin.unusable(f"the `kind` of its settings is {named!r}")
    if unknown := {*row.by_content, *row.paths} - set(row.settings.model_fields):
        raise plugin.unusable(f"its settings have no {', '.join(sorted(unknown))}")
    # The package decides its numbers like any library, so its version belongs to the identity of each result.
    return dataclasses.replace(row, libraries=(*row.libraries, plugin.package))


_TABLE = table_of("ratchet.tasks", "task", BUILT_IN)
TASK_KINDS: Mapping[str, TaskKind] = {**BUILT_IN, **_TABLE.rows(added_task)}
"""Every kind of task: those of Ratchet, and those of other packages."""


def task_kind(kind: str) -> TaskKind:
    """Return the row of a kind. Raises PlanError on an unknown one."""
    if kind not in TASK_KINDS:
        raise _TABLE.unknown(kind)
    return TASK_KINDS[kind]


def quantise_of(task: Task | Answering) -> Literal["4bit", "8bit"] | None:
    """Return in how many bits a task wants the weights held, or None for as they are."""
    kind: str | None = getattr(task, "kind", None)  # one of `Answering` alone has none
    return _column(task, "quantise") if kind is not None and task_kind(kind).quantises else None


def source_of(task: Task) -> str | None:
    """Return the source of a plan whose held-out prompts a task asks for; None where it needs no plan."""
    return _column(task, "source") if task_kind(task.kind).needs_plan else None


def named_judge(task: Task) -> Judge | None:
    """Return who judges a task's answers; None where nobody was named, or its kind has no judge."""
    return _column(task, "judge") if task_kind(task.kind).judged else None


def _column(task: Any, key: str) -> Any:
    return getattr(task, key)


if TYPE_CHECKING:
    Task: TypeAlias = Chrf | ExactMatch | Harness | MtBench | EqBench | TextOverlap | Perplexity | Preference
else:
    Task = Annotated[
        Union[tuple(row.settings for row in TASK_KINDS.values())],  # noqa: UP007  made at run time
        Field(discriminator="kind"),
    ]


class Suite(Strict):
    """Named tasks. Held-out reward accuracy and γ are computed for every plan, without a suite."""

    tasks: Annotated[dict[Name, Task], Field(min_length=1)]
    """Tasks, by name."""
    averages: dict[AverageName, Annotated[tuple[Name, ...], Field(strict=False, min_length=2)]] = Field(
        default_factory=dict
    )
    """Averages of tasks' headline scores, such as H6."""
    data_root: str | None = None
    """Folder with the data of lm-eval's tasks, laid out as on the hub (`openai/gsm8k/…`); left out: the hub."""

    @model_validator(mode="after")
    def _averages_name_tasks(self) -> Suite:
        local(self, "data_root")
        for name, of in self.averages.items():
            for task in of:
                if task not in self.tasks:
                    raise wrong(f"averages.{name}", f"names the task {task}, which is not in the suite", "tasks")
                if not task_kind(self.tasks[task].kind).averages:
                    raise wrong(f"averages.{name}", f"averages shares, and {task} is none", "tasks")
        return self
