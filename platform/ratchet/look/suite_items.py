"""What a plan's suites ask, as texts to look for in its data. Nothing here is fetched, and no torch is loaded.

A task of lm-eval needs lm-eval and `datasets`, which take seconds to load; where no suite has such a task, they are
not loaded. The prompts of `exact_match` are held out of a source of the plan: what sources share says those.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ratchet.documents.data_report import DataVerdict
from ratchet.errors import RatchetError
from ratchet.evaluate.eq_bench.files import read_questions
from ratchet.evaluate.mt_bench.files import read_set
from ratchet.evaluate.task_files import read_rows
from ratchet.pairs.contamination import SuiteItem
from ratchet.pairs.pair import PreferencePair
from ratchet.pairs.parts import plan_parts
from ratchet.pairs.source import span_pairs
from ratchet.plan.load import planned_suites
from ratchet.plan.schema import Plan
from ratchet.plan.suite import Suite
from ratchet.plan.tasks import Chrf, EqBench, ExactMatch, Harness, MtBench, Perplexity, Preference, TextOverlap
from ratchet.store.files import at_home

_Texts = Iterator[tuple[str, ...]]


def suite_items(plan: Plan, scratch: Path) -> tuple[list[SuiteItem], list[DataVerdict]]:
    """Return the items of a plan's suites, and a line for each task whose items cannot be looked for."""
    items: dict[tuple[str, str], list[SuiteItem]] = {}
    said: list[DataVerdict] = []
    suites = planned_suites(plan)
    stems = Counter(Path(planned.name).stem for planned in suites)
    for planned in suites:
        stem = Path(planned.name).stem
        # Two suites may have one file name, in two folders.
        label = stem if stems[stem] == 1 else planned.name
        for name, task in planned.suite.tasks.items():
            try:
                why = _not_here(task, planned.suite)
                if not why and not isinstance(task, ExactMatch):
                    texts = _READERS[type(task)](task, planned.suite, scratch)
                    items[label, name] = [SuiteItem(f"{label}/{name}", found) for found in texts]
            except RatchetError as error:
                why = str(error).splitlines()[0]
            if why:
                what = f"the items of {label}/{name} were not looked for in the data: {why}"
                said.append(DataVerdict("notes", "contamination", "", what))
    return [item for found in items.values() for item in found], said


def _not_here(task: Any, suite: Suite) -> str:
    """Say why a task's items are not read; nothing where they are."""
    if isinstance(task, Harness):
        return "" if suite.data_root or task.include else "they lie on the hub; give data_root to have them looked for"
    origin = next((part for key in ("questions", "rows", "data") if (part := getattr(task, key, None))), None)
    if getattr(origin, "hub", None) is not None:
        return "they lie on the hub; give a path to have them looked for"
    return "" if type(task) in _READERS or isinstance(task, ExactMatch) else "they are known to their package alone"


def _talks(task: MtBench, suite: Suite, scratch: Path) -> _Texts:
    for one in read_set(task.questions, task.references).questions:
        yield (*one.turns, *(one.reference or ()))


def _dialogues(task: EqBench, suite: Suite, scratch: Path) -> _Texts:
    # The frame is the same in all of them, so the index leaves it out.
    return ((one.prompt,) for one in read_questions(task.questions, task.version, revision=task.revision).questions)


def _compared(task: Any, suite: Suite, scratch: Path) -> _Texts:
    rows, _ = read_rows(task.rows, (task.question, task.answer), task.max_rows)
    return ((row[task.question], row[task.answer]) for row in rows)


def _running(task: Perplexity, suite: Suite, scratch: Path) -> _Texts:
    rows, _ = read_rows(task.rows, (task.column,), task.max_rows, blank=True)
    return ((row[task.column],) for row in rows)


def _preferred(task: Preference, suite: Suite, scratch: Path) -> _Texts:
    for part in plan_parts(task.data, None):
        for span in part.spans:
            for pair in span_pairs(span, part.reading):
                if isinstance(pair, PreferencePair):
                    yield tuple(turn.text for turn in (*pair.prompt, pair.chosen))


def _of_lm_eval(task: Harness, suite: Suite, scratch: Path) -> _Texts:
    """Yield every text field of the rows that are asked, as lm-eval reads them."""
    from ratchet.evaluate.harness.definitions import load_definitions, quiet

    with quiet():
        root = at_home(suite.data_root) if suite.data_root else None
        for leaf in load_definitions(task, root, scratch / "datasets").leaves.values():
            for row in leaf.eval_docs:
                yield tuple(value for value in row.values() if isinstance(value, str))


_READERS: Mapping[type, Callable[..., _Texts]] = {
    MtBench: _talks,
    EqBench: _dialogues,
    TextOverlap: _compared,
    Chrf: _compared,
    Perplexity: _running,
    Preference: _preferred,
    Harness: _of_lm_eval,
}
