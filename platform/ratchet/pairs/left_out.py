"""What a source loses: rows that are bad, and pairs that cannot be written as tokens. A warning, or an error.

Both say how many of which reason, show the first of them, and have a limit in the plan.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ratchet.errors import DataError
from ratchet.pairs.checks import POLICY, Reason
from ratchet.pairs.refusals import RefusalReason
from ratchet.plan.data import Source, held_out_source
from ratchet.store.record import Record, checked

_log = logging.getLogger(__name__)
# Enough to see what the rows have in common, and few enough to read on a terminal.
_EXAMPLES = 5
# Of 20 prompts by themselves none falls on the held-out side once in 500 million splits.
_EXPECTED = 20
# Below, a held-out figure is of other prompts, nearly all.
_DIVIDED = 0.05
# In the set that the builder is made for, one row of 7,473 gives none.
_UNBUILT = 0.05

LENGTH = frozenset({RefusalReason.TOO_LONG, RefusalReason.ANSWER_TOO_LONG})
"""Reasons that the length limit decides; all others are the chat template's or the tokenizer's."""

REMEDIES: Mapping[RefusalReason, str] = {
    RefusalReason.TOO_LONG: "raise max_length, or set overlong: trim_prompt",
    RefusalReason.ANSWER_TOO_LONG: "raise max_length: answers are never cut",
    RefusalReason.REFUSED: "give a template that takes these turns (model.chat_template), or set model.system_turns: "
    "fold",
    RefusalReason.PROMPT_ALTERED: "give a template that writes prompts as they are (model.chat_template)",
    RefusalReason.ANSWER_ALTERED: "give a template that writes answers as they are (model.chat_template)",
    RefusalReason.THOUGHTS: "let the template think (model.template_arguments), or take the thoughts out of these rows",
    RefusalReason.TOOLS: "give a template that writes tools, calls and results (model.chat_template)",
    RefusalReason.SPECIAL: "take the special tokens out of the texts",
    RefusalReason.END: "give a template that ends an answer with one end-of-turn token (model.chat_template)",
    RefusalReason.BOS: "give a template that begins a text with one beginning-of-sequence token (model.chat_template)",
    RefusalReason.EMPTY_ANSWER: "mend these rows",
    RefusalReason.EMPTY_PROMPT: "mend these rows",
    RefusalReason.SAME: "mend these rows: their answers differ by what the tokenizer does not tell apart",
}


def check_share(name: str, counts: Mapping[str, Any], limit: float, folder: Path) -> None:
    """Raise DataError, with counts by reason and the first rows, where the share of bad rows is above `limit`.

    `counts` are those of a record of pairs, which lie in `folder`.
    """
    bad = _bad(counts)
    check_bad(name, bad, counts["read"], limit, lambda: _first(folder, bad))


def check_bad(name: str, bad: Mapping[str, int], read: int, limit: float, first: Callable[[], str]) -> None:
    """Raise DataError where more of the rows read are bad than `limit` allows; `bad` counts them by reason."""
    number = sum(bad.values())
    if number > limit * read:
        raise DataError(
            f"{number} of {read} rows are bad ({number / read:.1%}, the limit is {limit:.1%}): {_tally(bad)}\n"
            + first(),
            where=f"data.{name}",
            fix="mend or filter these rows, name another layout, or raise max_bad_share",
            code="data.bad-rows",
        )


def _bad(counts: Mapping[str, Any]) -> dict[str, int]:
    return {reason: count for reason, count in counts["skipped"].items() if reason not in POLICY}


def tell_unbuilt(name: str, counts: Mapping[str, Any]) -> None:
    """Warn where a builder makes no pair of many rows."""
    if (count := counts["skipped"].get(Reason.NO_CALCULATION, 0)) > _UNBUILT * counts["read"]:
        _log.warning(
            "data.%s: no pair is made of %s of %s rows (%.0f%%): %s; skipped.parquet has them",
            name,
            f"{count:,}",
            f"{counts['read']:,}",
            100 * count / counts["read"],
            Reason.NO_CALCULATION.value,
        )


def tell_contradictions(name: str, counts: Mapping[str, Any]) -> None:
    """Warn where a source says of the same two answers that each is the better one."""
    if count := counts.get("contradictions", 0):
        _log.warning(
            "data.%s: %s comparisons are decided both ways (A over B, and B over A, of one prompt): each takes back "
            "what the other teaches; leave out the sides that you do not mean",
            name,
            f"{count:,}",
        )


def tell_split(name: str, source: Source, counts: Mapping[str, Any]) -> None:
    """Warn of pairs that are not trained on as their prompt is held out, and of a share that came to nothing."""
    if count := counts["skipped"].get(Reason.HELD_OUT, 0):
        _log.warning(
            "data.%s: %s of %s rows are left out, as they ask what a row that is held out asks",
            name,
            f"{count:,}",
            f"{counts['read']:,}",
        )
    if (count := counts.get("divided", 0)) > _DIVIDED * counts["kept"]:
        _log.warning(
            "data.%s: %s prompts are too like each other to stand on one side of the split, as they are one template "
            "or end alike: some are near one that is held out; hold out rows of their own (held_out: {path: …})",
            name,
            f"{count:,}",
        )
    expected = source.held_out_share * counts["kept"]
    if not counts["heldout"] and expected >= _EXPECTED:
        _log.warning(
            "data.%s: nothing is held out, where a share of %g would be %s pairs: pairs whose dialogues open alike "
            "stay together, as near prompts do, and few of them open otherwise; hold out rows of their own (held_out: "
            "{path: …}), or raise held_out",
            name,
            source.held_out_share,
            f"{expected:,.0f}",
        )


def check_kept(name: str, source: Source, counts: Mapping[str, Any], folder: Path) -> None:
    """Raise DataError where nothing is left to train on, or nothing of the rows that are to be held out."""
    rows = held_out_source(source) is not None
    if rows and counts["kept"] and not counts["heldout"]:
        raise DataError(
            f"no pair is left of the rows that are held out: {_tally(counts['skipped'])}",
            where=f"data.{name}.held_out",
            fix="see the reasons; these rows are read as the others are, with the same layout, `where` and builder",
            code="data.nothing-left",
        )
    if counts["train"]:
        return
    if counts["kept"] and rows:
        raise DataError(
            f"no pair is left to train on beside those that are held out: {_tally(counts['skipped'])}",
            where=f"data.{name}.held_out",
            fix="hold out other rows than those that are trained on",
            code="data.nothing-left",
        )
    if counts["kept"]:
        raise DataError(
            f"all {counts['kept']} pairs fell on the held-out side",
            where=f"data.{name}",
            fix="lower held_out, or give more rows",
            code="data.nothing-left",
        )
    raise DataError(
        f"no pair is left of {counts['read']} rows: {_tally(counts['skipped'])}\n{_first(folder, counts['skipped'])}",
        where=f"data.{name}",
        fix="see the reasons; `where`, `layout` and `build` decide what is kept",
        code="data.nothing-left",
    )


@dataclasses.dataclass(frozen=True)
class Lost:
    """What of a source is left out, of which reasons, and the longest of its pairs in tokens where that is known."""

    name: str
    of: int
    reasons: Mapping[RefusalReason, int]
    max_length: int
    longest: int | None

    @property
    def count(self) -> int:
        return sum(self.reasons.values())

    def only(self, *, length: bool) -> Lost:
        """Return what is left out for its length, or for all else."""
        return dataclasses.replace(
            self, reasons={one: n for one, n in self.reasons.items() if (one in LENGTH) is length}
        )

    def __str__(self) -> str:
        longest = f"; the longest has {self.longest:,} tokens" if self.longest and LENGTH & self.reasons.keys() else ""
        share = f"{self.count:,} of {self.of:,} pairs ({self.count / self.of:.1%})"
        return f"{share} of {self.name} are left out at max_length {self.max_length:,}: {_tally(self.reasons)}{longest}"

    @property
    def remedy(self) -> str:
        """What to do, the reason of most pairs first."""
        # The remedy that gives back most pairs is named first.
        order = sorted(self.reasons, key=lambda one: -self.reasons[one])
        return "; ".join(dict.fromkeys(REMEDIES[one] for one in order))


def lost_of(name: str, record: Record) -> Lost:
    """Return what a source lost, by the record of its tokens."""
    reasons = {RefusalReason(reason): count for reason, count in record.counts["skipped"].items()}
    longest = record.facts.get("longest_seen")
    return Lost(name, record.counts["read"], reasons, record.identity["max_length"], longest)


def tell_lost(name: str, source: Source, pairs: Mapping[str, Any], record: Record, folder: Path) -> None:
    """Warn of the pairs that are left out of a source's tokens in `folder`; `pairs` are the counts of its pairs.

    Raises DataError, with the first rows, where a larger share is too long than `max_overlong_share`, or cannot be
    written as tokens than `max_bad_share` allows, bad rows along with them; and where no held-out pair is left.
    """
    lost = lost_of(name, record)
    check_lost(lost, source, pairs, record.counts["heldout"], lambda reasons: _first(folder, reasons))
    if lost.count:
        _log.warning("%s. %s", lost, lost.remedy)


def check_lost(
    lost: Lost,
    source: Source,
    pairs: Mapping[str, Any],
    heldout: int,
    first: Callable[[Mapping[RefusalReason, int]], str],
) -> None:
    """Raise DataError where a source loses more than it may, or all of its held-out pairs: `heldout` are left of them.

    The limits are `max_overlong_share` of pairs that are too long, and `max_bad_share` of those that cannot be written,
    and of these and bad rows in all. `pairs` are the counts of its pairs; `first` gives the first rows of some reasons,
    a line each.
    """
    for part, key in ((lost.only(length=True), "max_overlong_share"), (lost.only(length=False), "max_bad_share")):
        limit = getattr(source, key)
        if part.count > limit * part.of:
            raise DataError(
                f"{part}; the limit is {limit:.1%}\n{first(part.reasons)}",
                where=f"data.{lost.name}",
                fix=f"{part.remedy}; or raise data.{lost.name}.{key}",
                code="data.left-out",
            )
    _check_in_all(lost.only(length=False), source, pairs)
    if pairs["heldout"] and not heldout:
        raise DataError(
            f"none of the {pairs['heldout']:,} held-out pairs is left: {_tally(lost.reasons)}\n{first(lost.reasons)}",
            where=f"data.{lost.name}",
            fix=f"{lost.remedy}; or hold out more: data.{lost.name}.held_out",
            code="data.left-out",
        )


def _check_in_all(refused: Lost, source: Source, pairs: Mapping[str, Any]) -> None:
    """Raise DataError where bad rows and pairs that cannot be written are a larger share together than is allowed."""
    bad, read = _bad(pairs), pairs["read"]
    if not (bad and refused.count):
        return
    share = 1 - (1 - sum(bad.values()) / read) * (1 - refused.count / refused.of)
    if share > source.max_bad_share:
        raise DataError(
            f"{share:.1%} of {refused.name} is lost in all, the limit is {source.max_bad_share:.1%}: "
            f"{sum(bad.values()):,} of {read:,} rows are bad: {_tally(bad)}; "
            f"and {refused.count:,} of {refused.of:,} pairs cannot be written as tokens: {_tally(refused.reasons)}",
            where=f"data.{refused.name}",
            fix=f"mend or filter these rows; {refused.remedy}; or raise data.{refused.name}.max_bad_share",
            code="data.left-out",
        )


def check_written(train: int, skipped: Mapping[str, int], where: str) -> None:
    """Raise DataError where no pair of a source is left to train on as tokens, of which `skipped` are left out."""
    if train:
        return
    reasons = ", ".join(f"{reason}: {count}" for reason, count in skipped.items())
    raise DataError(
        f"no pair is left to train on ({reasons or 'there were none'})",
        where=where,
        fix="raise max_length, set overlong: trim_prompt, or give another chat template, as the reasons say",
        code="data.nothing-left",
    )


def _tally(counts: Mapping[Any, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(counts.items(), key=lambda item: -item[1]))


def _first(folder: Path, reasons: Mapping[Any, int]) -> str:
    """Return the first rows of a folder's skipped ones that have one of `reasons`, a line each."""
    found: list[dict[str, Any]] = []
    with pq.ParquetFile(checked(folder / "skipped.parquet"), pre_buffer=False) as file:
        for batch in file.iter_batches():
            found += [row for row in batch.to_pylist() if row["reason"] in reasons]
            if len(found) >= _EXAMPLES:  # there may be millions
                break
    return "\n".join(
        f"  {row['file']}:{row['row']}: {': '.join(filter(None, (row['reason'], row['detail'])))}"
        for row in found[:_EXAMPLES]
    )
