"""Looks at the two answers of a pair: how near they are, how long, and whether they say the prompt again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from rapidfuzz.distance import Levenshtein

from ratchet.documents.data_report import DataAnalysis
from ratchet.documents.sources import LOW_EDIT_DISTANCE, EditDistance
from ratchet.pairs.counting import PlacedCount, found_of, of_all, wilson_interval
from ratchet.pairs.normal_form import unblanked
from ratchet.pairs.pair import PreferencePair, Turn

_BINS = 20
_FINE = 1000
# Comparing two texts of 4,000 characters takes 0.1 ms, and the time grows with the square.
_LONGEST = 4_000
_LEAST_REPEATED = 20
"""Characters of a prompt from which its repetition says something: a short one stands in many answers by chance."""
_LOPSIDED = 0.6
"""Share of pairs that length alone may tell before a person should know."""


class TwinLook:
    """Normalised edit distance between chosen and rejected: edits over the longer one's length, from 0 to 1.

    Levenshtein's, in characters and in words (parts between blanks). Characters of pairs with a side longer than 4,000
    are not compared. A pair below 15 % in words is a near twin: there DPO can win its margin by lowering the chosen
    answer too, only less than the rejected one (Smaug, section 3, which proposes DPOP against it).
    """

    def __init__(self) -> None:
        self._words, self._characters = np.zeros(_FINE + 1, np.int64), np.zeros(_FINE + 1, np.int64)
        self._near, self._alike = PlacedCount(), PlacedCount()

    def add(self, pair: PreferencePair) -> None:
        if pair.rejected is None:
            return
        chosen, rejected = pair.chosen.text, pair.rejected.text
        distance = Levenshtein.normalized_distance(chosen.split(), rejected.split())
        self._words[round(distance * _FINE)] += 1
        if max(len(chosen), len(rejected)) <= _LONGEST:
            self._characters[round(Levenshtein.normalized_distance(chosen, rejected) * _FINE)] += 1
        if distance < LOW_EDIT_DISTANCE:
            self._near.add(pair, chosen)
            if unblanked(chosen) == unblanked(rejected):
                self._alike.add(pair, chosen)

    def analyses(self) -> Iterator[DataAnalysis]:
        of = int(self._words.sum())
        if not of:
            return
        median, letters = _median(self._words), _median(self._characters)
        low = median is not None and median < LOW_EDIT_DISTANCE
        yield DataAnalysis(
            code="near-twins",
            gravity="warns" if low else "notes",
            count=self._near.count,
            of=of,
            counted="pairs",
            says=f"{of_all(self._near.count, of)} differ in less than {LOW_EDIT_DISTANCE:.0%} of their words "
            f"(median of all: {median:.1%})" + (": plain DPO lowers the chosen answers of such pairs, too" * low),
            do="train them with kind: dpop, which holds the chosen answer up" if low else "",
            figures={"median_words": median or 0.0, **({} if letters is None else {"median_characters": letters})},
            distances=EditDistance(_EDGES, _coarse(self._words), median),
            places=self._near.places,
        )
        yield DataAnalysis(
            code="twins-in-characters",
            gravity="notes",
            count=int(self._characters[: round(LOW_EDIT_DISTANCE * _FINE)].sum()),
            of=int(self._characters.sum()),
            counted="pairs",
            says="no pair is short enough to be compared by characters"
            if letters is None
            else f"chosen and rejected differ in {letters:.1%} of their characters (median)",
            distances=EditDistance(_EDGES, _coarse(self._characters), letters),
        )
        yield DataAnalysis(
            code="like-answers",
            gravity="warns" if self._alike.count else "notes",
            count=self._alike.count,
            of=of,
            counted="pairs",
            says=f"{of_all(self._alike.count, of)} have answers that differ by case and blanks alone",
            do="leave them out unless that is what you teach" if self._alike.count else "",
            places=self._alike.places,
        )


_EDGES = tuple(round(at / _BINS, 2) for at in range(_BINS + 1))


def _coarse(fine: np.ndarray[tuple[int], np.dtype[np.int64]]) -> tuple[int, ...]:
    # The last bin holds its upper end too, as numpy's histograms do.
    whole = fine[:-1].reshape(_BINS, -1).sum(axis=1)
    whole[-1] += fine[-1]
    return tuple(int(one) for one in whole)


def _median(fine: np.ndarray[tuple[int], np.dtype[np.int64]]) -> float | None:
    """Return the lower median, to a thousandth."""
    total = int(fine.sum())
    return int(np.searchsorted(np.cumsum(fine), (total + 1) // 2)) / _FINE if total else None


class LengthLook:
    """Length bias: lengths are characters, and length alone says that the longer answer is the chosen one.

    Its accuracy counts equal lengths a half. A model can win that share by length alone, and a DPO run learns it
    (Park et al. 2024, "Disentangling length from quality in direct preference optimization").
    """

    def __init__(self) -> None:
        self._pairs = self._longer = self._equal = 0
        self._chosen = self._rejected = 0

    def add(self, pair: PreferencePair) -> None:
        if pair.rejected is None:
            return
        chosen, rejected = len(pair.chosen.text), len(pair.rejected.text)
        self._pairs += 1
        self._longer += chosen > rejected
        self._equal += chosen == rejected
        self._chosen += chosen
        self._rejected += rejected

    def analyses(self) -> Iterator[DataAnalysis]:
        if not (of := self._pairs):
            return
        share = (self._longer + self._equal / 2) / of
        which, accuracy = ("longer", share) if share >= 0.5 else ("shorter", 1 - share)
        low, high = wilson_interval(accuracy, of)
        difference = (self._chosen - self._rejected) / of
        biased = low > _LOPSIDED  # the lower end: of few pairs nothing is known
        yield DataAnalysis(
            code="length-bias",
            gravity="warns" if biased else "notes",
            count=self._longer,
            of=of,
            counted="pairs",
            says=f"the chosen answer is longer in {of_all(self._longer, of)}, and {abs(difference):,.0f} "
            f"character{'s' * (round(abs(difference)) != 1)} {'longer' if difference >= 0 else 'shorter'} on average; "
            f"to guess the {which} answer is right for "
            f"{accuracy:.1%} (95 %: {low:.1%} to {high:.1%})",
            do=f"a model can learn to write {which} answers from this: compare lengths before and after training, or "
            "train with a loss that takes the mean over tokens (simpo)"
            if biased
            else "",
            figures={
                "equal": self._equal,
                "mean_chosen": self._chosen / of,
                "mean_rejected": self._rejected / of,
                "accuracy": accuracy,
                "low": low,
                "high": high,
            },
        )


class EchoLook:
    """Prompts that stand inside an answer: the last turn's text of at least 20 characters, blanks and case aside.

    At the head of both answers it was joined to them, and is trained on. Only what is found is named.
    """

    def __init__(self) -> None:
        self._pairs = 0
        self._head, self._chosen, self._rejected = PlacedCount(), PlacedCount(), PlacedCount()

    def add(self, pair: PreferencePair) -> None:
        self._pairs += 1
        asked = _asked(pair.prompt)
        if len(asked) < _LEAST_REPEATED:
            return
        chosen = unblanked(pair.chosen.text)
        rejected = None if pair.rejected is None else unblanked(pair.rejected.text)
        if chosen.startswith(asked) and (rejected is None or rejected.startswith(asked)):
            self._head.add(pair, pair.chosen.text)
        elif asked in chosen:
            self._chosen.add(pair, pair.chosen.text)
        elif rejected is not None and asked in rejected:
            self._rejected.add(pair, "")

    def analyses(self) -> Iterator[DataAnalysis]:
        found = (
            ("prompt-heads-answers", self._head, "begin their answers with the prompt", "cut it off: it is trained on"),
            ("prompt-in-chosen", self._chosen, "repeat the prompt inside the chosen answer", ""),
            ("prompt-in-rejected", self._rejected, "repeat the prompt inside the rejected answer alone", ""),
        )
        yield from found_of(self._pairs, found)


def _asked(prompt: tuple[Turn, ...]) -> str:
    last = next((turn for turn in reversed(prompt) if turn.role == "user"), None)
    return "" if last is None else unblanked(last.content)
