"""Looks at what is there more than once: pairs, prompts, and comparisons that are decided both ways."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from ratchet.documents.data_report import DataAnalysis
from ratchet.pairs.counting import PlacedCount, of_all
from ratchet.pairs.pair import PreferencePair


class RepeatLook:
    """Repetitions of an earlier pair or prompt, exact and up to form, and contradictions.

    Exact: an equal pair_id or prompt_id. Up to form: equal `contest` and winner (case and blanks of the answers,
    wording of the prompt, the system turn aside), or equal `prompt_key`. A contradiction is a contest that
    either answer won. Ids lie in the table `seen` of `base`: memory does not grow with the data.
    """

    def __init__(self, base: sqlite3.Connection) -> None:
        self._base, self._pairs, self._demonstrations = base, 0, 0
        self._prompts = self._keys = 0
        self._equal, self._like, self._like_prompts, self._both = (
            PlacedCount(),
            PlacedCount(),
            PlacedCount(),
            PlacedCount(),
        )

    def add(self, pair: PreferencePair) -> None:
        self._pairs += 1
        asked = pair.prompt[-1].content
        new_key = self._is_new("k" + pair.prompt_key)
        new_prompt = self._is_new("p" + pair.prompt_id)
        self._keys += new_key
        self._prompts += new_prompt
        if new_prompt and not new_key:
            self._like_prompts.add(pair, asked)
        if not self._is_new("i" + pair.pair_id):
            self._equal.add(pair, asked)
            return
        if (contest := pair.contest) is None:
            self._demonstrations += 1
            return
        if not self._is_new(f"c{contest.key}{contest.first_won:d}"):
            self._like.add(pair, asked)
        elif self._has(f"c{contest.key}{not contest.first_won:d}"):
            self._both.add(pair, asked)

    def _is_new(self, key: str) -> bool:
        return self._base.execute("INSERT OR IGNORE INTO seen VALUES (?)", (key,)).rowcount == 1

    def _has(self, key: str) -> bool:
        return self._base.execute("SELECT 1 FROM seen WHERE id = ?", (key,)).fetchone() is not None

    def analyses(self) -> Iterator[DataAnalysis]:
        of = self._pairs
        yield self._found("duplicates", self._equal, of, "equal an earlier pair, and are left out")
        yield self._found(
            "like-pairs",
            self._like,
            of,
            "are an earlier pair but for case, blanks, punctuation of the prompt, or the system turn",
        )
        said = f"{of:,} pair{'s have' if of != 1 else ' has'} {self._prompts:,} prompt{'s' * (self._prompts != 1)}, "
        said += f"which open{'s' * (self._prompts == 1)} in {self._keys:,} way{'s' * (self._keys != 1)}"
        yield DataAnalysis(
            code="prompts",
            gravity="notes",
            count=self._like_prompts.count,
            of=self._prompts,
            counted="prompts",
            says=f"{said}; those that open alike (case, blanks and punctuation aside) share a side of the split",
            figures={"prompts": self._prompts, "apart": self._keys},
            places=self._like_prompts.places,
        )
        if of == self._demonstrations:
            return
        count = self._both.count
        yield DataAnalysis(
            code="contradictions",
            gravity="warns" if count else "notes",
            count=count,
            of=of,
            counted="comparisons",
            says=f"{count:,} comparisons are decided both ways: A over B, and B over A, of one prompt",
            do="leave out the sides that you do not mean: each takes back what the other teaches" if count else "",
            places=self._both.places,
        )

    @staticmethod
    def _found(code: str, found: PlacedCount, of: int, what: str) -> DataAnalysis:
        return DataAnalysis(
            code=code,
            gravity="notes",
            count=found.count,
            of=of,
            counted="pairs",
            says=f"{of_all(found.count, of)} {what}",
            places=found.places,
        )
