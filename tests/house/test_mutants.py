"""What `make mutants` puts in, and that its tables name what there is."""

from __future__ import annotations

import pytest

from tests.mutants.mutations import mutants_of
from tests.mutants.run import ROOT, SUBJECTS, all_jobs, equivalents

SAMPLE = '''\
def weigh(counts: list[int] | None = None, *, last: bool = True) -> float:
    """Not this 1 < 2."""
    if not counts or len(counts) <= 1:
        raise ValueError(f"{1 + 1} are needed")
    check(counts)
    return {"ä": 1.5, "b": -2.0}["b"] if last else counts[0] * 2
'''


def test_every_kind_of_fault_is_put_in_once_and_texts_are_left_alone() -> None:
    found = {(mutant.line, mutant.becomes) for mutant in mutants_of(SAMPLE)}
    assert found == {
        (1, "def weigh(counts: list[int] | None = None, *, last: bool = (False)) -> float:"),
        (3, "if (not counts and len(counts) <= 1):"),
        (3, "if (counts) or len(counts) <= 1:"),
        (3, "if not counts or (len(counts) < 1):"),
        (3, "if not counts or len(counts) <= (2):"),
        (4, "pass"),
        (5, "pass"),
        (6, "return None"),
        (6, "return ({'b': -2.0})[\"b\"] if last else counts[0] * 2"),
        (6, "return ({'ä': 1.5})[\"b\"] if last else counts[0] * 2"),
        (6, 'return {"ä": (2.5), "b": -2.0}["b"] if last else counts[0] * 2'),
        (6, 'return {"ä": 1.5, "b": (2.0)}["b"] if last else counts[0] * 2'),
        (6, 'return {"ä": 1.5, "b": -(3.0)}["b"] if last else counts[0] * 2'),
        (6, 'return {"ä": 1.5, "b": -2.0}["b"] if (not last) else counts[0] * 2'),
        (6, 'return {"ä": 1.5, "b": -2.0}["b"] if last else counts[(1)] * 2'),
        (6, 'return {"ä": 1.5, "b": -2.0}["b"] if last else counts[0] * (3)'),
        (6, 'return {"ä": 1.5, "b": -2.0}["b"] if last else (counts[0] / 2)'),
    }


def test_a_fault_in_several_lines_keeps_the_lines_below_where_they_are() -> None:
    text = "held = (\n    one <\n    two\n)\nlast = 3\n"
    first = mutants_of(text)[0]
    assert (first.line, first.was) == (2, "one < two")
    assert first.text.splitlines()[4] == "last = 3" and "one <= two" in first.text


@pytest.mark.heavy
def test_the_tables_name_what_there_is() -> None:
    absent = [name for module, tests in SUBJECTS.items() for name in (f"platform/ratchet/{module}", *tests)]
    assert not [name for name in absent if not (ROOT / name).exists()]
    listed = equivalents()
    assert all(len(why) > 20 for why in listed.values())
    known = {job.key for job in all_jobs(sorted({module for module, _, _ in listed}))}
    assert not listed.keys() - known, "these lines changed: look at them again"
