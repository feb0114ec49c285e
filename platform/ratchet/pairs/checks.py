"""Why a row is not kept, and the checks that every pair passes."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow.parquet as pq

from ratchet.errors import DataError
from ratchet.pairs.pair import PreferencePair, Skipped, Turn
from ratchet.store.sound import checked

BROKEN = "\ufdd0"
"""Stands for bytes that were not UTF-8 where a reader cannot stop at them; no text may hold this noncharacter."""

_EXAMPLES = 5


class Reason(enum.StrEnum):
    """The reasons in `skipped.parquet` and in a record's counts."""

    NOT_JSON = "not JSON"
    NOT_UTF8 = "not UTF-8"
    NUL = "NUL character"
    WRONG_TYPE = "wrong type"
    MISSING = "missing field"
    EMPTY = "empty text"
    MESSAGES = "bad messages"
    ANSWER = "bad answer"
    SAME = "chosen = rejected"
    TOO_LONG = "too long"
    WHERE = "where"
    TIE = "tie"
    MARGIN = "margin"
    NO_CALCULATION = "no intermediate calculation"
    DUPLICATE = "duplicate"
    SAMPLE = "sample"


POLICY = frozenset({Reason.WHERE, Reason.TIE, Reason.MARGIN, Reason.NO_CALCULATION, Reason.DUPLICATE, Reason.SAMPLE})
"""Reasons that say nothing bad of a row: the plan, or what the builder needs, leaves it out."""


class Unfit(Exception):  # noqa: N818 - a verdict on a row, not an error of the run
    """A row that cannot be used. Caught once for each row, in `source.pairs_of`."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def check_text(text: str, name: str) -> None:
    """Raise Unfit where `text` is blank, holds NUL, or cannot be written as UTF-8."""
    if not text.strip():
        raise Unfit(Reason.EMPTY, name)
    if "\0" in text:
        raise Unfit(Reason.NUL, f"{name}, character {text.index(chr(0)) + 1}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Unfit(Reason.NOT_UTF8, f"{name}, character {error.start + 1}") from error
    if BROKEN in text:
        raise Unfit(Reason.NOT_UTF8, f"{name}, character {text.index(BROKEN) + 1}")


def check_pair(pair: PreferencePair, max_characters: int) -> None:
    """Raise Unfit unless the pair can be trained on.

    Every text has content; the prompt ends with the user; the sides differ by more than blank
    space at their ends; all texts together hold at most `max_characters`.
    """
    texts = [pair.chosen, pair.rejected or "", *(turn.content for turn in pair.prompt)]
    if (size := sum(map(len, texts))) > max_characters:
        raise Unfit(Reason.TOO_LONG, f"{size} characters")
    check_prompt(pair.prompt)
    check_text(pair.chosen, "chosen")
    if pair.rejected is None:
        return
    check_text(pair.rejected, "rejected")
    if pair.chosen.strip() == pair.rejected.strip():
        raise Unfit(Reason.SAME)


def check_prompt(prompt: tuple[Turn, ...]) -> None:
    """Raise Unfit unless the prompt has content, starts with its only system turn, and ends with the user's."""
    if not prompt or prompt[-1].role != "user":
        raise Unfit(Reason.MESSAGES, "the prompt does not end with the user")
    if any(turn.role == "system" for turn in prompt[1:]):
        raise Unfit(Reason.MESSAGES, "a system message that is not the first")
    for number, turn in enumerate(prompt, 1):
        check_text(turn.content, f"prompt, turn {number}")


def check_share(name: str, read: int, skipped: Mapping[str, int], limit: float, table: Path) -> None:
    """Raise DataError, with counts by reason and the first rows, where the share of bad rows is above `limit`."""
    counts = {reason: count for reason, count in skipped.items() if reason not in POLICY}
    bad = sum(counts.values())
    if bad > limit * read:
        raise DataError(
            f"{bad} of {read} rows are bad ({bad / read:.1%}, the limit is {limit:.1%}): {_tally(counts)}\n"
            + _lines(_first(table, counts)),
            where=f"data.{name}",
            fix="mend or filter these rows, name another layout, or raise max_bad_share",
        )


def check_kept(name: str, counts: Mapping[str, int], skipped: Mapping[str, int], table: Path) -> None:
    """Raise DataError where nothing is left to train on."""
    if counts["train"]:
        return
    if counts["kept"]:
        raise DataError(
            f"all {counts['kept']} pairs fell on the held-out side",
            where=f"data.{name}",
            fix="lower held_out, or give more rows",
        )
    raise DataError(
        f"no pair is left of {counts['read']} rows: {_tally(skipped)}\n{_lines(_first(table, skipped))}",
        where=f"data.{name}",
        fix="see the reasons; `where`, `layout` and `build` decide what is kept",
    )


def _tally(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items(), key=lambda item: -item[1]))


def _lines(rows: Iterable[Skipped]) -> str:
    return "\n".join(f"  {row.file}:{row.row}: {': '.join(filter(None, (row.reason, row.detail)))}" for row in rows)


def _first(table: Path, reasons: Mapping[str, int]) -> list[Skipped]:
    """Return the first rows of `skipped.parquet` that have one of `reasons`."""
    found: list[Skipped] = []
    with pq.ParquetFile(checked(table), pre_buffer=False) as file:
        for batch in file.iter_batches():
            found += [Skipped(**row) for row in batch.to_pylist() if row["reason"] in reasons]
            if len(found) >= _EXAMPLES:
                break
    return found[:_EXAMPLES]
