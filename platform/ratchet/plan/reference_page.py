"""Write the plan language's reference page from the schema: `python -m ratchet.plan.reference_page docs/plan.md`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from types import GenericAlias, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ratchet.plan import (
    cluster,
    columns,
    data,
    distributions,
    judge,
    model,
    schema,
    space,
    suite,
    task_parts,
    tasks,
    training,
)
from ratchet.plan.outline import Model, annotation_of, describe, kind_of
from ratchet.plan.reading import in_yaml
from ratchet.plan.stage_kinds import STAGE_KINDS
from ratchet.plan.stages import BUILT_IN

EXAMPLE = """\
name: helpful-then-careful
model: {name: Qwen/Qwen3-0.6B, revision: c1899de}
data:
  helpful: {path: data/helpful.jsonl}
  math: {path: data/gsm8k.jsonl, build: arithmetic_corruption}
stages:
  warm: {kind: sft, data: [helpful], learning_rate: 2e-5}
  align:
    kind: dpop
    after: warm
    data: [helpful, math]
    steps: {by: source, order: easy_to_hard}
    penalty: 50
  blend: {kind: merge, of: [warm, align]}
cluster: {workers: 8, gpus_per_worker: 1, deepspeed: {zero: 3}}
"""

_HEAD = f"""\
# Plans

Written by `python -m ratchet.plan.reference_page docs/plan.md` from the schema in `platform/ratchet/plan/`.

A plan says what is made, and where it runs:

```yaml
{EXAMPLE}```

`ratchet check jobs/*.yaml` lists everything that is wrong with a file at once, each as
`file:line: dotted.key: what is wrong; did you mean X?`, and exits with 2 where anything is.

## How a file is read

- YAML 1.2: `1e-6` and `2.5e-7` are numbers; `yes`, `on`, `1:30` and `007` are text; text is never taken for a number.
- A doubled or unknown key, a tag, a merge key (`<<`), a tab in the indentation and a second document are errors.
- Anchors and aliases work. At most 1 MiB, 32 levels, and 100,000 values with aliases written out.
- Names of plans, sources and stages are lower-case letters, digits and hyphens, 47 at most.
- Paths in a plan are relative to the current folder, those in a suite to the suite's file; `~` is the home folder, and
  variables such as `$HOME` are not filled in. `check`, `run`, `score`, `show`, `sweep` and `evaluate` look whether all
  of them are there, before anything starts; `submit` looks at those that it sends.
- `--set stages.align.beta=0.3` sets any key of the schema, below names that the file has; the value is read as YAML.

## What must agree

- `after`, `start`, `reference` and `of` name stages, without going in a circle. `base` is the plan's start model:
  `start`, `reference` and `of` may say so, and no stage may have that name.
- `after` gives both start and reference; `start` overrides where the weights begin, and the reference with it;
  `reference` overrides the reference alone.
- `data` and `tokenizer_from` name sources of the plan, each once; so do the tasks of every suite under `evaluate`,
  whose sources hold out more than 0.
- `steps` by source need at least two sources.
- `lora.quantise` does not go with `cluster.deepspeed.zero: 3`, and needs `cluster.gpus_per_worker` above 0; so does
  `model.dtype: float16`. `lora` with `deepspeed.zero` above 0 does not go with a range of `cluster.workers`.
- A stage's `gradients: bfloat16` needs `model.dtype: bfloat16`.
- Another model, under `reference` or `steps.base`, has no `scratch`, `chat_template`, `named_template`,
  `template_arguments`, `date`, `system` or `system_turns`. Only the plan's model can be made, and texts are rendered
  once, with it.

## What a sweep space must agree with

- Every key is one of the plan's and decides what is made; it is varied, set or left out, once, and none is a part of
  another.
- The plan is valid at every value and both ends of every range, each key by itself and keys together.
- A `permutation` names all sources of a stage whose `steps` are by source, in the order `listed`.
- `grid` takes no `uniform` and no `loguniform`; `tpe` no permutation of more than 4 names; both `random` and `tpe` need
  a budget.
- `objectives` name what steps report: `<stage>/heldout/…`, `<stage>/score/…` or `<stage>/train/…`; the scheduler's
  `metric` is one of the last kind, as it must be known while the stage trains.
- Where there are `seeds`, no key is the `seed` of a stage that they set.
"""


def _heading(of: str, part: Model) -> str:
    return f"{of} of kind {kind_of(part)}"


SECTIONS: tuple[tuple[str, Model], ...] = (
    ("A plan", schema.Plan),
    ("A model", model.ModelSpec),
    ("A small model", model.Scratch),
    ("A source", data.Source),
    ("A hub data set", data.Hub),
    ("Generated rows", data.Generated),
    ("Columns", columns.Columns),
    ("Constant", columns.Fixed),
    ("Verdict", columns.PreferredBy),
    ("Rows to hold out", data.HeldOutRows),
    ("Every training stage", training.TrainingStage),
    *((_heading("Stages", row.settings), row.settings) for row in BUILT_IN.values() if row.supervised),
    ("Every preference stage", training.PreferenceStage),
    ("Every stage with a reference", training.ReferringStage),
    *((_heading("Stages", row.settings), row.settings) for row in BUILT_IN.values() if row.reads_pairs),
    *((_heading("Stages", row.settings), row.settings) for row in BUILT_IN.values() if not row.trains),
    ("Mix of sources", training.Mix),
    ("Stepwise training", training.Steps),
    ("Adapters", training.Lora),
    ("Checkpoints", training.Checkpoint),
    ("Reference scores", schema.ReferenceScores),
    ("The cluster", cluster.Cluster),
    ("DeepSpeed", cluster.DeepSpeed),
    ("Ray", cluster.Ray),
    ("Tracking", schema.Track),
    ("Weights & Biases", schema.Wandb),
    ("An evaluation", schema.Evaluation),
    ("A suite", suite.Suite),
    ("Every task that asks a model", task_parts.Answering),
    ("Every task that compares texts", task_parts.Comparing),
    *((_heading("Tasks", row.settings), row.settings) for row in tasks.BUILT_IN.values()),
    ("Files of a task", task_parts.Files),
    ("Rows of texts", task_parts.Rows),
    *((_heading("Judges", row.settings), row.settings) for row in judge.JUDGE_KINDS.values()),
    ("A sweep space", space.Space),
    ("A distribution", distributions.Distribution),
    ("A search", space.Search),
    ("A scheduler", space.Scheduler),
    ("A budget", space.Budget),
)
"""Headings in the order of the page. A key is described where it is declared, and again where its default differs."""


def page() -> str:
    """Return the reference page as Markdown."""
    return _HEAD + "".join(_section(title, part) for title, part in SECTIONS)


def main(arguments: Sequence[str]) -> None:
    """Write the page to the path given, or to stdout."""
    if arguments:
        Path(arguments[0]).write_text(page(), encoding="utf-8")
    else:
        sys.stdout.write(page())


def _section(title: str, part: Model) -> str:
    own = [(name, part.model_fields[name]) for name in inspect.get_annotations(part) if name in part.model_fields]
    above = next(
        (
            f"\nAlso the keys of [{_TITLES[base].lower()}]({_anchor(base)}).\n"
            for base in part.__bases__
            if base in _TITLES
        ),
        "",
    )
    rows = "".join(_row(name, field) for name, field in own)
    table = f"\n| key | holds | default | meaning |\n|---|---|---|---|\n{rows}" if rows else ""
    return f"\n## {title}\n\n{inspect.getdoc(part)}\n{above}{table}"


def _row(name: str, field: FieldInfo) -> str:
    holds = describe(_of_ratchet(annotation_of(field)), _link)
    meaning = " ".join((field.description or "").split())
    return f"| `{name}` | {holds} | {_default(field)} | {meaning} |\n"


def _of_ratchet(annotation: Any) -> Any:
    """Return an annotation without the kinds that other packages add."""
    if annotation in _NAMES:
        return _NAMES[annotation]
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return Annotated[(_of_ratchet(parts[0]), *parts[1:])]
    if origin is dict:
        return GenericAlias(dict, (parts[0], _of_ratchet(parts[1])))
    if origin in {Union, UnionType}:
        return Union[tuple(_of_ratchet(part) for part in parts if part not in _ADDED)]  # noqa: UP007  made at run time
    return annotation


# The page is compared with the one in the repository, so it must not change with the packages of a machine.
_NAMES: dict[Any, Any] = {
    data.Layout: Literal[("auto", *data.LAYOUTS, "a signature")],
    data.Build: Literal[data.BUILDERS],
}
_ADDED: set[Any] = {row.settings for kind, row in STAGE_KINDS.items() if kind not in BUILT_IN}
_ADDED |= {row.settings for kind, row in suite.TASK_KINDS.items() if kind not in tasks.BUILT_IN}


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, BaseModel):
        return "its defaults"
    if value is None:
        return "–"
    return f"`{in_yaml(list(value) if isinstance(value, tuple) else value)}`"


_PROPER = {"DeepSpeed", "Ray", "Weights & Biases"}
_TITLES = {part: title for title, part in SECTIONS}


def _anchor(part: Model) -> str:
    # As GitHub makes anchors of headings; `&` falls out and leaves two hyphens.
    words = _TITLES[part].lower().replace(" ", "-")
    return "#" + "".join(letter for letter in words if letter.isalnum() or letter in "-_")


def _link(part: Model) -> str:
    title = _TITLES[part]
    words = title if title in _PROPER else title[0].lower() + title[1:]
    return f"[{kind_of(part) or words}]({_anchor(part)})"


if __name__ == "__main__":
    main(sys.argv[1:])
