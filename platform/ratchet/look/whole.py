"""All of a plan's sources, or some files, looked at one after another: the document that text, JSON and page show."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ratchet import __version__
from ratchet.documents.data_report import (
    GRAVITIES,
    DataAnalysis,
    DataReport,
    DataVerdict,
    SourceData,
    SourceLengths,
)
from ratchet.errors import DataError, PlanError, RatchetError
from ratchet.look.lengths import TO_LOSE, Written, write_all
from ratchet.look.limits import fault_line, length_faults, length_limit, reading_faults
from ratchet.look.rows import ReadSource, read_facts, read_whole, where_of
from ratchet.look.shown import drawn_pairs, shown_pair
from ratchet.look.suite_items import suite_items
from ratchet.look.tokenizer import FoundTokenizer, find_tokenizer
from ratchet.pairs.contamination import ContaminationLook, SuiteIndex
from ratchet.pairs.ids import overlaps_of
from ratchet.pairs.near_prompts import near_prompts
from ratchet.pairs.quality import pair_look
from ratchet.pairs.source import Item
from ratchet.pairs.tokens import Policy
from ratchet.pipeline.advice import advise
from ratchet.pipeline.graph import preference_sources
from ratchet.pipeline.pins import pinned_before
from ratchet.pipeline.prepare import one_sided, used_sources
from ratchet.pipeline.shared_rows import harm_of
from ratchet.plan.data import Source
from ratchet.plan.model import ModelSpec
from ratchet.plan.schema import Plan
from ratchet.plan.stage_kinds import stage_kind, trains
from ratchet.store.layout import layout_at
from ratchet.store.record import now
from ratchet.track.progress import Console, counted

_EVERY = 512
"""Pairs between two words of how far reading has come."""
NO_STAGE = "a stage"
"""Whose limit is meant where there is no plan."""
Policies = Mapping[Policy, Sequence[str]]
"""Length policies, each with the stages that have it."""


@dataclasses.dataclass(frozen=True)
class LookedAt:
    """What is looked at: sources by name, the model's system prompt, and each source's length policies.

    `twins` are sources of whose near twins nothing need be said: no stage that they harm trains on them. Of those that
    are `supervised` no stage scores rejected answers. The items of the suites of the plan `suites` are looked for.
    A run does not read the `unused`.
    """

    title: str
    sources: Mapping[str, Source]
    system: str | None
    policies: Mapping[str, Policies]
    rows: int | None
    twins: frozenset[str] = frozenset()
    supervised: frozenset[str] = frozenset()
    suites: Plan | None = None
    unused: frozenset[str] = frozenset()


def look_at_plan(plan: Plan, rows: int | None = None) -> DataReport:
    """Return what a plan's data are; with `rows`, of about so many rows of each source. Raises StorageError."""
    plan = pinned_before(plan, layout_at(plan.cluster.storage))
    policies: dict[str, dict[Policy, list[str]]] = {name: {} for name in plan.data}
    used: set[str] = set()
    for name, stage in plan.stages.items():
        if trains(stage):
            used.update(stage.shares())
            for source in stage.shares():
                policies[source].setdefault(Policy(stage.max_length, stage.overlong), []).append(name)
    harmed = {
        name for stage in plan.stages.values() if stage_kind(stage.kind).warns_of_near_twins for name in stage.shares()
    }
    compared, read = set(preference_sources(plan)), used_sources(plan)
    asked = LookedAt(
        f"plan {plan.name}",
        plan.data,
        plan.model.system,
        policies,
        rows,
        frozenset(compared - harmed),
        frozenset(used - compared),
        plan,
        frozenset(plan.data).difference(read),
    )
    report = _look(asked, plan.model)
    sides = {one.name: one.demonstrations for one in report.sources if not one.problem}
    more = [fault_line(one_sided(name), name) for name in preference_sources(plan) if sides.get(name)]
    more += [DataVerdict("warns", "overlap", "", said) for _, said in harm_of(plan, report.overlaps)]
    more += [
        DataVerdict("notes", "unused", name, "no stage or suite uses this source", "take it out, or name it in a stage")
        for name in plan.data
        if name not in read
    ]
    # By characters, the costs of a model from scratch would stand below lengths in its own tokens.
    uses = [use for use in advise(plan).uses if plan.model.scratch is None or use.how != "characters"]
    return dataclasses.replace(report, verdicts=worst_first([*more, *report.verdicts]), token_use=tuple(uses))


def look_at_files(
    sources: Mapping[str, Source], model: ModelSpec | None, policy: Policy, rows: int | None = None
) -> DataReport:
    """Return what some files hold, by the tokenizer of a model where one is named. Raises StorageError."""
    system = None if model is None else model.system
    asked = LookedAt(", ".join(sources), sources, system, {name: {policy: (NO_STAGE,)} for name in sources}, rows)
    return _look(asked, model)


def worst_first(verdicts: Sequence[DataVerdict]) -> tuple[DataVerdict, ...]:
    """Return verdicts in the order in which a person should read them."""
    return tuple(sorted(verdicts, key=lambda one: GRAVITIES.index(one.gravity)))


@dataclasses.dataclass(frozen=True)
class _Read:
    """A source's pairs, and what was found while they were read."""

    of: ReadSource
    analyses: tuple[DataAnalysis, ...]


def _look(asked: LookedAt, model: ModelSpec | None) -> DataReport:
    with tempfile.TemporaryDirectory(prefix="ratchet-data-") as scratch:
        below, found = Path(scratch), dict[str, _Read | RatchetError]()
        items, unread = suite_items(asked.suites, below) if asked.suites else ([], [])
        index = SuiteIndex(items)
        for name in asked.sources:
            try:
                found[name] = _read(asked, name, below, index)
            except (DataError, PlanError) as error:
                found[name] = error
        folders = {name: one.of.folder for name, one in found.items() if isinstance(one, _Read)}
        by = find_tokenizer(model, folders, below / "tokenizer")
        sources: list[SourceData] = []
        verdicts = [*by.faults, *unread]
        for name, one in found.items():
            if isinstance(one, _Read):
                data, said = _source(one, by, asked.policies[name], scored=name not in asked.supervised)
            else:
                data = SourceData(name=name, where=where_of(asked.sources[name]), problem=str(one))
                said = [fault_line(one, name)]
            sources.append(data)
            # What a run does not read cannot stop it.
            verdicts += [dataclasses.replace(one, gravity="notes") for one in said] if name in asked.unused else said
        overlaps = overlaps_of(folders) if len(folders) > 1 else []
    return DataReport(
        title=asked.title,
        ratchet=__version__,
        created=now(),
        tokenizer=by.said,
        verdicts=worst_first(verdicts),
        sources=tuple(sources),
        overlaps=tuple(overlaps),
    )


def _read(asked: LookedAt, name: str, below: Path, index: SuiteIndex) -> _Read:
    """Read a source into a folder of its own. Raises DataError, PlanError."""
    folder = below / "pairs" / name
    folder.mkdir(parents=True)
    suites = [ContaminationLook(index)] if index.tasks else []
    with counted(f"data {name}", "pairs read", Console()) as show, pair_look(*suites) as look:

        def see(number: int, item: Item) -> None:
            look.add(item)
            if number % _EVERY == 0:
                show(number, number)

        read = read_whole(name, asked.sources[name], asked.system, folder, asked.rows, see)
        near = near_prompts(folder)
        analyses = (*look.analyses(), *([near] if near else []))
    return _Read(read, tuple(_weighed(one, harmless=name in asked.twins) for one in analyses))


def _weighed(one: DataAnalysis, *, harmless: bool) -> DataAnalysis:
    """Return an analysis as the plan's stages take it: not every loss is harmed by near twins."""
    if one.code != "near-twins" or not harmless or one.gravity == "notes":
        return one
    return dataclasses.replace(one, gravity="notes", do="")


def _source(
    one: _Read, by: FoundTokenizer, policies: Policies, *, scored: bool
) -> tuple[SourceData, list[DataVerdict]]:
    """Return what one source holds, and the lines about it."""
    read, facts = one.of, read_facts(one.of)
    with counted(f"data {read.name}", "pairs counted", Console()) as show:
        written = write_all(read.folder, by.tokenizer, by.style, list(policies), lambda n: show(n, facts.kept))
    first = next(iter(policies), None)
    drawn = drawn_pairs(read.folder, read.source.seed)
    shown = [shown_pair(pair, by.tokenizer, by.style, first, rejected_scored=scored) for pair in drawn]
    facts = dataclasses.replace(
        facts,
        unit="tokens" if written.in_tokens else "characters",
        lengths=_lengths(read, written, policies),
        refused={str(reason): count for reason, count in written.refused.items()},
        first_refused=tuple(written.first_refused),
        shown=tuple(shown),
        analyses=one.analyses,
    )
    said = [
        DataVerdict(found.gravity, found.code, read.name, found.says, found.do, found.places)
        for found in one.analyses
        if found.gravity != "notes"
    ]
    return facts, [*_verdicts(read, written, policies), *said]


def _lengths(read: ReadSource, written: Written, policies: Policies) -> SourceLengths | None:
    if "total" not in written.parts:
        return None
    total = written.parts["total"]
    edges, counts = total.histogram()
    return SourceLengths(
        parts={part: lengths.quantiles() for part, lengths in written.parts.items()},
        limits=tuple(length_limit(read, written, policy, stages) for policy, stages in policies.items()),
        to_lose={said: total.to_lose(share) for said, share in TO_LOSE.items()},
        edges=edges,
        counts=counts,
    )


def _verdicts(read: ReadSource, written: Written, policies: Policies) -> Iterator[DataVerdict]:
    yield from reading_faults(read)
    if read.counts["train"]:
        for policy, stages in policies.items():
            yield from length_faults(read, written, policy, stages)
    if not read.whole:
        said = f"these figures are of {read.counts['read']:,} rows from all over its files, not of all of them"
        yield DataVerdict("notes", "sample", read.name, said, "leave out --rows to read all")
