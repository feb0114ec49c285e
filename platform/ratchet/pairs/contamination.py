"""Items of suites that stand in pairs: long runs of equal words, as language models' training sets are searched.

Brown et al. 2020 ("Language Models are Few-Shot Learners", appendix C) call an example dirty that shares N words in
a row with the training set, without case and punctuation. N is there 13 for most tasks, and 8 at least for short
examples. lm-eval's decontamination takes the same 13.

    item of 13 words or more    any 13 words of it in a row
    item of 8 to 12 words       all of them in a row
    shorter                     not looked for: such words meet by chance, and the report counts these items

Words that more than 10 items share, or more than half of a task's, are the frame of a task and no evidence. Brown et
al. leave out runs that are met more than 10 times, for the same reason.
"""

from __future__ import annotations

import collections
import dataclasses
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ratchet.documents.data_report import DataAnalysis
from ratchet.pairs.counting import PlacedCount
from ratchet.pairs.pair import PreferencePair

LONGEST, SHORTEST = 13, 8
_FRAME = 10
_ANCHOR = 3
# Scripts that write no blanks between words: each sign stands for a word.
_UNSPACED = r"\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_Runs = dict[int, tuple[int, ...]]
"""Hashes of runs of words, each with the numbers of the items that have it."""


@dataclasses.dataclass(frozen=True)
class SuiteItem:
    """A question of a suite's task: its texts, any of which gives it away."""

    task: str
    texts: tuple[str, ...]


def words_of(text: str) -> list[str]:
    """Return a text's words without case, compatibility forms (NFKC) and punctuation."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


class SuiteIndex:
    """Runs of words of many items. Memory: about 150 bytes for each word of the items."""

    def __init__(self, items: Iterable[SuiteItem]) -> None:
        self.tasks: list[str] = []
        self.short: collections.Counter[str] = collections.Counter()
        runs: dict[int, set[int]] = {}
        anchors: dict[int, set[int]] = {}
        for number, item in enumerate(items):
            self.tasks.append(item.task)
            own = dict(run for text in item.texts for run in _runs_of_item(words_of(text)))
            self.short[item.task] += not own
            for (length, run), anchor in own.items():
                runs.setdefault(run, set()).add(number)
                anchors.setdefault(anchor, set()).add(length)
        sizes = collections.Counter(self.tasks)
        most = [min(_FRAME, max(1, sizes[task] // 2)) for task in self.tasks]
        self._runs: _Runs = {run: tuple(of) for run, of in runs.items() if len(of) <= max(most[one] for one in of)}
        self._anchors: Mapping[int, Sequence[int]] = {anchor: sorted(lengths) for anchor, lengths in anchors.items()}

    def found_in(self, text: str) -> set[int]:
        """Return the numbers of the items that stand in a text."""
        words, found = words_of(text), set[int]()
        # Nearly all places end at the first three words, which cost little to look up.
        for at, first in enumerate(zip(words, words[1:], words[2:], strict=False)):
            for length in self._anchors.get(hash(first), ()):
                found.update(self._runs.get(hash(tuple(words[at : at + length])), ()))
        return found


def _runs_of_item(words: Sequence[str]) -> Iterator[tuple[tuple[int, int], int]]:
    """Yield length and hash of each run that gives an item away, with the hash of its first words."""
    length = min(LONGEST, len(words))
    if length >= SHORTEST:
        for at in range(len(words) - length + 1):
            run = tuple(words[at : at + length])
            yield (length, hash(run)), hash(run[:_ANCHOR])


class ContaminationLook:
    """Items of the plan's suites that stand in a turn of a prompt or in an answer of a source's pairs.

    `count` is of items, of all that are long enough to be looked for; the figures have each task's.
    """

    def __init__(self, index: SuiteIndex) -> None:
        self._index, self._items, self._pairs = index, set[int](), PlacedCount()

    def add(self, pair: PreferencePair) -> None:
        answers = (pair.chosen,) if pair.rejected is None else (pair.chosen, pair.rejected)
        found = {one for turn in (*pair.prompt, *answers) for text in turn.texts for one in self._index.found_in(text)}
        if found:
            self._items |= found
            tasks = sorted({self._index.tasks[one] for one in found})
            self._pairs.add(pair, f"{', '.join(tasks)}: {pair.prompt[-1].content}")

    def analyses(self) -> Iterator[DataAnalysis]:
        index, pairs = self._index, self._pairs
        found = collections.Counter(index.tasks[one] for one in self._items)
        of = {task: count - index.short[task] for task, count in collections.Counter(index.tasks).items()}
        if not any(of.values()):
            return
        each = ", ".join(f"{found[task]:,} of {of[task]:,} of {task}" for task in sorted(found))
        says = f"{len(self._items):,} items of the plan's suites stand in {pairs.count:,} pairs"
        short = index.short.total()
        left = f"; {short:,} items of fewer than {SHORTEST} words were not looked for" if short else ""
        yield DataAnalysis(
            code="contamination",
            gravity="warns" if found else "notes",
            count=len(self._items),
            of=sum(of.values()),
            counted="items",
            says=says + (f", {LONGEST} words in a row or a whole short item: {each}" if found else "") + left,
            do="leave these rows out, or say beside the scores that the model saw these items" if found else "",
            figures={"pairs": pairs.count, "short": short, **{task: found[task] for task in sorted(of)}},
            places=pairs.places,
        )
