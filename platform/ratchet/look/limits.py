"""What a run would stop at for its data: the run's own checks, asked one by one, so that both always say the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from ratchet.documents.data_report import DataPlace, DataVerdict, LengthLimit
from ratchet.errors import RatchetError
from ratchet.look.lengths import Written
from ratchet.look.rows import ReadSource
from ratchet.pairs.left_out import LENGTH, check_kept, check_lost, check_share, check_written
from ratchet.pairs.refusals import RefusalReason
from ratchet.pairs.tokens import Policy


def reading_faults(read: ReadSource) -> Iterator[DataVerdict]:
    """Yield what a run would stop at once a source is read."""

    def check() -> None:
        # In the order of a run, which ends at the first.
        check_share(read.name, read.counts, read.source.max_bad_share, read.folder)
        check_kept(read.name, read.source, read.counts, read.folder)

    yield from _caught(read.name, check)


def length_faults(read: ReadSource, written: Written, policy: Policy, stages: Sequence[str]) -> Iterator[DataVerdict]:
    """Yield what a run would stop at, or warn of, when it makes tokens for some stages.

    Without a tokenizer lengths are guesses, which stop nothing.
    """
    lost = written.lost(read.name, policy)

    def check() -> None:
        # In the order of a run, which ends at the first.
        skipped = {str(one): count for one, count in sorted(lost.reasons.items())}
        check_written(written.train[policy], skipped, f"data.{read.name}")
        check_lost(lost, read.source, read.counts, written.heldout[policy], first)

    def first(reasons: Mapping[RefusalReason, int]) -> str:
        return _lines(written.first(policy, reasons))

    found = list(_caught(read.name, check))
    if not written.in_tokens:
        guess = f"by four characters a token, about {lost.count:,} of {lost.of:,} pairs are longer than"
        said = f"{guess} max_length {policy.max_length:,} of {', '.join(stages)}"
        yield from (DataVerdict("warns", one.code, read.name, said, one.do) for one in found)
        return
    yield from found
    if lost.count and not found:
        yield DataVerdict("warns", "data.left-out", read.name, str(lost), lost.remedy)


def length_limit(read: ReadSource, written: Written, policy: Policy, stages: Sequence[str]) -> LengthLimit:
    """Return what the `max_length` of some stages costs a source."""
    lost = sum(count for reason, count in written.too_long[policy].items() if reason in LENGTH)
    return LengthLimit(
        stages=tuple(stages),
        max_length=policy.max_length,
        overlong=policy.overlong,
        lost=lost,
        trimmed=written.trimmed[policy],
        of=written.read,
        allowed=read.source.max_overlong_share,
    )


def fault_line(error: RatchetError, source: str) -> DataVerdict:
    """Return an error that a run would end with as a line of the report."""
    said = error.what.splitlines()[0]
    # A key of the source says no more than its name, which stands before the line.
    where = f"{error.where}: " if error.where and not error.where.startswith("data.") else ""
    return DataVerdict("stops", error.code, source, where + said, error.fix)


def _caught(source: str, check: Callable[[], None]) -> Iterator[DataVerdict]:
    try:
        check()
    except RatchetError as error:
        yield fault_line(error, source)


def _lines(places: Sequence[DataPlace]) -> str:
    return "\n".join(f"  {place.file}:{place.row}: {place.text}" for place in places)
