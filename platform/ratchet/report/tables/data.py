"""The report's tables about data and held-out figures: sources, difficulty, γ, evaluation, overlap."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

from ratchet.documents.heldout import HeldOutScores
from ratchet.documents.report import Report
from ratchet.documents.sources import LOW_EDIT_DISTANCE, SourceOverlap
from ratchet.documents.token_use import TokenUse
from ratchet.report import figures as fig
from ratchet.report.parts import Cell, PageTable, amount, model_cell, row, table, text


def sources(report: Report) -> PageTable | None:
    """What was read, kept and skipped: read = kept + skipped, kept = train + held out."""
    rows = [
        row(
            [
                text("source", source.name),
                text("layout", source.layout),
                amount("rows read", fig.count(source.read)),
                amount("skipped", fig.count(sum(source.skipped.values()))),
                amount("kept", fig.count(source.kept)),
                amount("train", fig.count(source.train)),
                amount("held out", fig.count(source.heldout)),
                amount("median edit distance", fig.number(found.median, 3) if found else fig.NONE),
            ],
            source.record,
        )
        for source in report.sources
        for found in [source.edit_distance]
    ]
    return table(rows, "read = kept + skipped; kept = train + held out.")


def skipped(report: Report) -> PageTable | None:
    """Why rows were skipped, when read and when tokenised."""
    rows = []
    for source in report.sources:
        looked_at = [("reading", source.skipped, source.read, source.record)]
        for one in source.tokens:
            made = one.kept + sum(one.skipped.values())
            looked_at.append((f"tokens, to {one.max_length:,}", one.skipped, made, one.record))
        for where, reasons, of, record in looked_at:
            for reason, number in sorted(reasons.items(), key=lambda item: -item[1]):
                entries = [
                    text("source", source.name),
                    text("at", where),
                    text("reason", reason),
                    amount("rows", fig.count(number)),
                    amount("share", fig.percent(number / of if of else None), "%"),
                ]
                rows.append(row(entries, record))
    return table(rows)


def tokens(report: Report) -> PageTable | None:
    """Sources as tokens, one row for each length limit."""
    rows = [
        row(
            [
                text("source", source.name),
                amount("longest", fig.count(one.max_length)),
                amount("pairs kept", fig.count(one.kept)),
                amount("skipped", fig.count(sum(one.skipped.values()))),
                amount("tokens to train on", fig.count(one.tokens_train)),
                amount("prompts trimmed", fig.count(one.trimmed)),
                amount("boundaries moved", fig.count(one.boundary_moved)),
            ],
            one.record,
        )
        for source in report.sources
        for one in source.tokens
    ]
    return table(rows, "Boundaries moved: pairs whose prompt and answer share a token when written as one text.")


def token_use(uses: Sequence[TokenUse]) -> PageTable | None:
    """Tokens a pair of each stage: padded, packed, and with the pairs of a prompt apart or together."""
    rows = [
        row(
            [
                text("stage", ", ".join(one.stages)),
                amount("batch", fig.count(one.batch)),
                amount("pairs counted", f"{'' if one.how == 'counted' else '≈ '}{fig.count(one.pairs)}"),
                amount("padded", fig.number(one.padded, 0)),
                amount("packed", fig.number(one.packed, 0)),
                amount("shuffle: pairs", fig.number(one.by_pairs, 0)),
                amount("shuffle: prompts", fig.number(one.by_prompts, 0)),
                text("the plan's", one.shuffle),
                amount("prompts would save", fig.number(one.saves, 2), "×"),
            ]
        )
        for one in uses
    ]
    note = "Tokens that a pair takes: padded as TRL pads a batch, packed without sharing, and as training shares them."
    return table(rows, note)


def overlap(overlaps: Sequence[SourceOverlap], records: Mapping[str, str]) -> PageTable | None:
    """Pairs and prompts that stand in two sources; `records` are those of the sources, where they have any."""
    rows = [
        row(
            [
                text("source", one.left),
                text("and", f"{one.right} (held out)" if one.held_out else one.right),
                amount("pairs", fig.count(one.pairs)),
                amount("prompts", fig.count(one.prompts)),
            ],
            *(records.get(name, "") for name in (one.left, one.right)),
        )
        for one in overlaps
        if one.pairs or one.prompts
    ]
    return table(rows)


def difficulties(report: Report) -> PageTable | None:
    """How many pairs of each chunk the stage's start model already prefers the right way round."""
    stages = list(dict.fromkeys([*report.stages, *(one.stage for one in report.difficulty)]))
    rows = [
        row(
            [
                text("stage", Cell(one.stage, stage=one.stage)),
                amount("turn", fig.count(one.position)),
                text("source", one.source),
                amount("already right", fig.share(one.accuracy, one.pairs), "%"),
                amount("pairs", fig.count(one.pairs)),
            ],
            one.record,
        )
        for one in sorted(report.difficulty, key=lambda one: (stages.index(one.stage), one.position or 0))
    ]
    return table(rows, f"Already right: share of pairs with γ > 0 under the start model. {fig.SHARE_NOTE}")


def gamma(report: Report) -> PageTable | None:
    """Mean γ of every model on the same pairs; one row a model, one column a source and split."""
    places = list(dict.fromkeys((one.source, one.split) for one in report.gamma))
    found = {(one.model, one.source, one.split): one for one in report.gamma}
    names = {"heldout": "held out", "train": "train"}
    rows = []
    for model in dict.fromkeys(one.model for one in report.gamma):
        entries, records = [text("model", model_cell(report, model))], []
        for source, split in places:
            one = found.get((model, source, split))
            shown = fig.with_error(one.mean, one.standard_error) if one else fig.NONE
            cell = Cell(shown, mark="memorised" if one and one.seen else "")
            entries.append(amount(f"{source}, {names[split]}", cell, "nats"))
            records += [one.record] if one else []
        rows.append(row(entries, *records))
    note = "memorised: the model has trained on these very pairs, so a high γ there shows memory, not alignment."
    return table(rows, note if any(one.seen for one in report.gamma) else "")


def heldout(report: Report) -> PageTable | None:
    """Every model on every source's held-out pairs, against each model that it is compared with."""
    rows = [
        row(
            [
                text("model", model_cell(report, model.model)),
                text("source", one.source),
                text("against", one.against or fig.NONE),
                amount("reward accuracy", fig.share(one.reward_accuracy, one.pairs), "%"),
                amount("margin", fig.with_error(one.margin, one.margin_error), "nats"),
                amount("chosen", fig.with_error(one.chosen_delta, one.chosen_delta_error), "nats"),
                amount("rejected", fig.with_error(one.rejected_delta, one.rejected_delta_error), "nats"),
                amount("pairs", fig.count(one.pairs)),
            ],
            one.record or model.record,
        )
        for model in report.evaluation
        for one in model.heldout
    ]
    return table(
        rows,
        "Log-probability of the answer minus that under the model that it is compared with. Where a model's "
        f"loss reads no reference, its accuracy and margin are of its own log-probabilities. {fig.SHARE_NOTE}",
    )


def exact_match(report: Report) -> PageTable | None:
    """Share of questions answered exactly."""
    rows = [
        row(
            [
                text("model", model_cell(report, model.model)),
                text("task", one.task),
                amount("exact match", fig.share(one.score, one.items), "%"),
                amount("items", fig.count(one.items)),
            ],
            one.record or model.record,
        )
        for model in report.evaluation
        for one in model.exact_match
    ]
    return table(rows, fig.SHARE_NOTE)


def examples(report: Report) -> PageTable | None:
    """A few answers of the final models beside the source's own, cut to one line."""
    rows = [
        row(
            [
                text("model", model_cell(report, model.model)),
                text("task", one.task),
                text("its answer", fig.on_one_line(pair.answer, 200)),
                text("the chosen answer", fig.on_one_line(pair.chosen, 200)),
            ],
            one.record or model.record,
        )
        for model in report.evaluation
        if model.model in report.final_models
        for one in model.exact_match
        for pair in one.examples
    ]
    return table(rows)


def low_distance_warnings(report: Report) -> list[str]:
    """Say where a loss that near twins can mislead trains on them."""
    said = []
    for step, source in report.low_distance:
        median = fig.percent(source.edit_distance.median) if source.edit_distance else fig.NONE
        said.append(
            f"{step.name} trains {step.kind} on {source.name}, whose chosen and rejected answers differ in {median} % "
            f"of their tokens (median; low is below {100 * LOW_EDIT_DISTANCE:g} %). On such pairs {step.kind} can win "
            "its margin by lowering the chosen answer too, only less than the rejected one (Smaug, section 3). "
            "kind: dpop holds it up."
        )
    return said


Mean = tuple[float | None, float | None]
"""A mean and its standard error, each None where there is none."""


@dataclasses.dataclass(frozen=True)
class Pooled:
    """A model on the held-out pairs of all sources together, weighted by pairs; log-ratios in nats."""

    against: str
    pairs: int
    accuracy: Mean
    margin: Mean
    chosen: Mean
    rejected: Mean
    chosen_per_token: Mean
    records: tuple[str, ...]


def pooled(report: Report, model: str) -> Pooled | None:
    """Pool a model's held-out rows against the model that most models are compared with."""
    rows = [(one, found) for one in report.evaluation if one.model == model for found in one.heldout]
    votes = Counter(found.against for one in report.evaluation for found in one.heldout)
    if not rows:
        return None
    # Figures against two models cannot be pooled; the one of most votes lets most models be compared with each other.
    against = max((found.against for _, found in rows), key=lambda name: votes[name])
    held = [found for _, found in rows if found.against == against]
    return Pooled(
        against=against or "its reference",
        pairs=sum(found.pairs for found in held),
        accuracy=_pool(held, "reward_accuracy", "standard_error"),
        margin=_pool(held, "margin", "margin_error"),
        chosen=_pool(held, "chosen_delta", "chosen_delta_error"),
        rejected=_pool(held, "rejected_delta", "rejected_delta_error"),
        chosen_per_token=_pool(held, "chosen_per_token", "chosen_per_token_error"),
        records=tuple(found.record or one.record for one, found in rows if found.against == against),
    )


def _pool(rows: list[HeldOutScores], key: str, error: str) -> Mean:
    known = [one for one in rows if getattr(one, key) is not None and one.pairs]
    if not known:
        return None, None
    total = sum(one.pairs for one in known)
    mean = sum(getattr(one, key) * one.pairs for one in known) / total
    errors = [getattr(one, error) for one in known]
    if any(value is None for value in errors):
        return mean, None  # one unknown error leaves that of the whole unknown
    # Sources are independent of one another, so their errors add up in squares.
    return mean, sum((value * one.pairs) ** 2 for value, one in zip(errors, known, strict=True)) ** 0.5 / total
