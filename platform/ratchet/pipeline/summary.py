"""Gather a run's records into the one document that the report shows (`documents/report.py` describes it)."""

from __future__ import annotations

import dataclasses
import functools
import os
import platform
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ratchet.documents.events import EVENTS, read_events
from ratchet.documents.heldout import (
    ExactMatchRow,
    ExactMatchScore,
    Gamma,
    GammaRow,
    HeldOutRow,
    HeldOutScores,
    ModelEvaluation,
    ModelScores,
)
from ratchet.documents.passport import Reach
from ratchet.documents.report import (
    Agreement,
    ChunkDifficulty,
    Effect,
    Hardware,
    Report,
    StepSummary,
)
from ratchet.documents.sources import EditDistance, SourceSummary, SourceTokens
from ratchet.documents.token_use import costly_order
from ratchet.pairs.ids import overlaps_of
from ratchet.pipeline.advice import advise
from ratchet.pipeline.context import Run
from ratchet.pipeline.graph import Step
from ratchet.pipeline.shared_rows import harm_of
from ratchet.pipeline.step_folder import unchanged
from ratchet.plan.stage_kinds import trains
from ratchet.plan.training import TrainingStage
from ratchet.reference.share import interval_of
from ratchet.store.codec import from_values
from ratchet.store.record import Record, code_commit, finished_record, now, versions
from ratchet.track.jsonl import read_metrics

Part = TypeVar("Part")


def summarise(run: Run, steps: list[Step], scores: Sequence[ModelScores], text: str, seconds: float) -> Report:
    """Return the run's report, without suites and samples; every number in it names the record that it came from."""
    overlaps = overlaps_of({name: folder for name, (_, folder) in run.pairs.items()})
    uses = advise(run.plan, functools.partial(_tokens_folder, run)).uses
    return Report(
        plan=run.plan.name,
        title=run.plan.name,
        created=now(),
        ratchet=versions()["ratchet"],
        commit=code_commit(),
        versions=versions(),
        resolved=run.plan.model_dump(mode="json"),
        plan_text=text,
        hardware=hardware(),
        seconds=round(seconds, 1),
        sources=tuple(_source(run, name) for name in run.pairs),
        token_use=uses,
        overlap=tuple(overlaps),
        difficulty=tuple(_difficulty(run)),
        steps=tuple(_step(run, step) for step in steps),
        evaluation=tuple(_evaluation(run, one) for one in scores),
        gamma=tuple(_gamma(run, row) for one in scores for row in one.gamma),
        warnings=(
            *run.warnings,
            *_unshared(run, steps),
            *filter(None, map(costly_order, uses)),
            *notable_events(run, steps),
            *(said for _, said in harm_of(run.plan, overlaps)),
        ),
    )


def _where(run: Run, folder: Path | str) -> str:
    # Relative to the storage, which may move, or be mounted elsewhere.
    return str(Path(folder).relative_to(run.layout.root))


def _tokens_folder(run: Run, source: str, stage: TrainingStage) -> Path | None:
    found = run.tokens.get((source, stage.max_length, stage.overlong))
    return found.folder if found else None


def _source(run: Run, name: str) -> SourceSummary:
    folder = run.pairs[name][1]
    record = finished_record(folder)
    tokens = [(one, finished_record(one.folder)) for one in run.tokens.values() if one.source == name]
    # Of several length policies the widest leaves the fewest pairs out.
    longest = max(tokens, key=lambda pair: pair[1].identity["max_length"], default=None)
    return SourceSummary(
        name=name,
        layout=record.facts["layout"],
        **record.counts,
        record=_where(run, folder),
        tokens=tuple(
            SourceTokens(
                max_length=found.identity["max_length"],
                longest_seen=found.facts.get("longest_seen"),
                record=_where(run, one.folder),
                **found.counts,
            )
            for one, found in tokens
        ),
        edit_distance=EditDistance(**longest[1].facts["edit_distance"]) if longest else None,
    )


def _difficulty(run: Run) -> Iterator[ChunkDifficulty]:
    for stage, order in run.orders.items():
        for one in order.difficulties:
            low, high = _ends(one.accuracy, one.pairs)
            yield ChunkDifficulty(
                stage=stage,
                source=one.chunk,
                accuracy=one.accuracy,
                standard_error=one.standard_error,
                pairs=one.pairs,
                accuracy_low=low,
                accuracy_high=high,
                position=order.chunks.index(one.chunk) + 1 if one.chunk in order.chunks else None,
                record=_where(run, run.layout.order(run.plan.name, stage)),
            )


def _step(run: Run, step: Step) -> StepSummary:
    folder = run.layout.step(run.plan.name, step.name)
    record: Record = finished_record(folder)
    summary = StepSummary(
        name=step.name,
        stage=step.stage,
        kind=step.kind,
        chunk=tuple(step.chunk.shares if trains(step.settings) else step.settings.of),
        start=step.start,
        reference=record.facts["reference_model"],
        options=record.identity["options"] | ({} if trains(step.settings) else {"of": list(step.settings.of)}),
        seconds=record.seconds,
        record=_where(run, folder),
        folder=str(folder / "model"),
        trust_remote_code=run.models[step.name].trust_remote_code,
    )
    if not trains(step.settings):
        return summary
    return _trained(summary, record, folder / "metrics.jsonl")


def _trained(summary: StepSummary, record: Record, metrics: Path) -> StepSummary:
    """Return the summary of a step with what its training said."""
    training, reference = record.facts["training"], record.facts.get("reference")
    first = training["first"] or {}
    history = read_metrics(metrics) if unchanged(metrics) else []
    trained = dataclasses.replace(
        summary,
        history=tuple(history),
        pairs=record.counts["pairs"],
        epochs=record.counts["epochs"],
        steps=record.counts["steps"],
        workers=training["workers"],
        rehearsal_seconds=training["seconds"].get("rehearsal"),
        train_seconds=training["seconds"]["training"],
        start_seconds=training["seconds"].get("starting"),
        pairs_per_second=_median(history, "pairs_per_second"),
        tokens_per_second=_median(history, "tokens_per_second"),
        peak_memory_mb=training["peak_memory_mb"],
        first_loss=first.get("loss"),
        first_loss_expected=first.get("expected"),
        first_loss_tolerance=first.get("loss_tolerance"),
        effect=_part(Effect, training["published"].get("effect"), summary),
        reach=_part(Reach, training["published"].get("reach"), summary),
        resumed_from=training["resumed_from"] or None,
    )
    if reference is None:
        return trained
    return dataclasses.replace(
        trained,
        reference_seconds=reference["seconds"],
        reference_start_seconds=reference.get("start_seconds"),
        reference_pairs=reference["pairs"],
        reference_reused=reference["reused"],
        reference_in_training=reference.get("in_training", False),
        reference_engine=reference["engine"],
        reference_agreement=_part(Agreement, reference["calibration"], summary),
    )


def _part(kind: type[Part], values: Any, summary: StepSummary) -> Part | None:
    """Return what a step's record says of one subject. Raises DataError where it is not of that shape."""
    fix = "make the step again with --fresh"
    return None if values is None else from_values(kind, values, where=f"{summary.record}/record.json", fix=fix)


def _median(history: Sequence[Mapping[str, Any]], key: str) -> float | None:
    values = [line[key] for line in history if line.get(key) is not None]
    return statistics.median(values) if values else None


def _evaluation(run: Run, scores: ModelScores) -> ModelEvaluation:
    return ModelEvaluation(
        model=scores.model,
        record=_where(run, run.layout.scores(run.plan.name, scores.model)),
        heldout=tuple(_held_out(row) for row in scores.heldout),
        exact_match=tuple(_exact_match(row) for row in scores.exact_match),
    )


def _held_out(row: HeldOutRow) -> HeldOutScores:
    low, high = _ends(row.accuracy.mean, row.accuracy.count)
    each = row.chosen_per_token
    return HeldOutScores(
        source=row.source,
        against=row.against,
        reward_accuracy=row.accuracy.mean,
        standard_error=row.accuracy.standard_error,
        margin=row.margin.mean,
        margin_error=row.margin.standard_error,
        chosen_delta=row.chosen_delta.mean,
        chosen_delta_error=row.chosen_delta.standard_error,
        rejected_delta=row.rejected_delta.mean,
        rejected_delta_error=row.rejected_delta.standard_error,
        chosen_per_token=each.mean if each else None,
        chosen_per_token_error=each.standard_error if each else None,
        accuracy_low=low,
        accuracy_high=high,
        pairs=row.accuracy.count,
    )


def _exact_match(row: ExactMatchRow) -> ExactMatchScore:
    low, high = _ends(row.mean, row.count)
    return ExactMatchScore(
        task=row.task,
        score=row.mean,
        standard_error=row.standard_error or None,  # 0 where all items agree, which is not known that well
        items=row.count,
        score_low=low,
        score_high=high,
        examples=row.examples,
    )


def _ends(share: float | None, count: int) -> tuple[float, float]:
    """Return the ends of a share's exact interval."""
    return interval_of(share, count) or (0.0, 1.0)


def _gamma(run: Run, row: GammaRow) -> Gamma:
    return Gamma(
        model=row.model,
        source=row.source,
        split=row.split,
        seen=row.seen,
        record=_where(run, row.record),
        mean=row.mean,
        standard_error=row.standard_error,
        pairs=row.count,
    )


def hardware() -> Hardware:
    """Return the driver's machine: processor, cores, memory in GiB."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Hardware(cpu=_processor(), cores=os.cpu_count() or 1, memory_gb=round(pages / 2**30, 1), gpus=tuple(_gpus()))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _gpus() -> list[str]:
    # A driver has a device file. Without one there is no GPU to name, and torch takes seconds to load.
    if not any(Path(f"/dev/{name}").exists() for name in ("nvidiactl", "kfd", "dxg")):
        return []
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def _unshared(run: Run, steps: Sequence[Step]) -> list[str]:
    """Say once why the tokens of common prefixes are computed again and again."""
    training = [finished_record(run.layout.step(run.plan.name, step.name)).facts.get("training") for step in steps]
    reasons = dict.fromkeys(facts["unshared"] for facts in training if facts and facts.get("unshared"))
    return [f"tokens that sequences share are not all computed once: {reason}" for reason in reasons]


def notable_events(run: Run, steps: Sequence[Step]) -> list[str]:
    """Return events of a step that its reader must know: updates left out, checkpoints that were broken."""
    training = {
        step.name: finished_record(run.layout.step(run.plan.name, step.name)).facts.get("training") for step in steps
    }
    known = [(name, event) for name, facts in training.items() if facts for event in read_events(facts["events"])]
    return [f"{name}: {event.what}" for name, event in known if EVENTS[event.code].must_know]
