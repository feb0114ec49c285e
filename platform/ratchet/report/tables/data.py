"""The report's tables about data and scores: sources, difficulty, γ, evaluation, overlap."""

from __future__ import annotations

from ratchet.documents.report import LOW_EDIT_DISTANCE, Report
from ratchet.report import figures as fig
from ratchet.report.tables.training import Cell, Column, Row, Table, model_cell, row, table


def sources(report: Report) -> Table | None:
    """What was read, kept and skipped: read = kept + skipped, kept = train + held out."""
    rows = []
    for source in report.sources:
        distance = source.edit_distance
        cells = [
            source.name,
            source.layout,
            fig.count(source.read),
            fig.count(sum(source.skipped.values())),
            fig.count(source.kept),
            fig.count(source.train),
            fig.count(source.heldout),
            fig.number(distance.median, 3) if distance else fig.NONE,
        ]
        rows.append(row(cells, source.record))
    names = ("rows read", "skipped", "kept", "train", "held out")
    columns = [Column("source", text=True), Column("layout", text=True), *(Column(name) for name in names)]
    return table([*columns, Column("median edit distance")], rows, "read = kept + skipped; kept = train + held out.")


def skipped(report: Report) -> Table | None:
    """Why rows were skipped, when read and when tokenised."""
    rows = []
    for source in report.sources:
        for reason, number in sorted(source.skipped.items(), key=lambda item: -item[1]):
            share = number / source.read if source.read else None
            rows.append(row([source.name, "reading", reason, fig.count(number), fig.percent(share)], source.record))
        for tokens in source.tokens:
            made = tokens.kept + sum(tokens.skipped.values())
            for reason, number in sorted(tokens.skipped.items(), key=lambda item: -item[1]):
                share = number / made if made else None
                where = f"tokens, to {tokens.max_length:,}"
                rows.append(row([source.name, where, reason, fig.count(number), fig.percent(share)], tokens.record))
    names = ("source", "at", "reason")
    return table([*(Column(name, text=True) for name in names), Column("rows"), Column("share", "%")], rows)


def tokens(report: Report) -> Table | None:
    """Sources as tokens, one row for each length limit."""
    rows = [
        row(
            [
                source.name,
                fig.count(one.max_length),
                fig.count(one.kept),
                fig.count(sum(one.skipped.values())),
                fig.count(one.tokens_train),
                fig.count(one.trimmed),
                fig.count(one.boundary_moved),
            ],
            one.record,
        )
        for source in report.sources
        for one in source.tokens
    ]
    names = ("longest", "pairs kept", "skipped", "tokens to train on", "prompts trimmed", "boundaries moved")
    note = "Boundaries moved: pairs whose prompt and answer share a token when written as one text."
    return table([Column("source", text=True), *(Column(name) for name in names)], rows, note)


def overlap(report: Report) -> Table | None:
    """Pairs and prompts that stand in two sources."""
    records = {source.name: source.record for source in report.sources}
    rows = [
        row(
            [
                one.left,
                f"{one.right} (held out)" if one.held_out else one.right,
                fig.count(one.pairs),
                fig.count(one.prompts),
            ],
            *(records.get(name, "") for name in (one.left, one.right)),
        )
        for one in report.overlap
        if one.pairs or one.prompts
    ]
    columns = [Column("source", text=True), Column("and", text=True), Column("pairs"), Column("prompts")]
    return table(columns, rows)


def difficulty(report: Report) -> Table | None:
    """How many pairs of each chunk the stage's start model already prefers the right way round."""
    stages = list(dict.fromkeys([*report.stages, *(one.stage for one in report.difficulty)]))
    ordered = sorted(report.difficulty, key=lambda one: (stages.index(one.stage), one.position or 0))
    rows = [
        row(
            [
                Cell(one.stage, stage=one.stage),
                fig.count(one.position),
                one.source,
                fig.share(one.accuracy, one.pairs),
                fig.count(one.pairs),
            ],
            one.record,
        )
        for one in ordered
    ]
    columns = [Column("stage", text=True), Column("turn"), Column("source", text=True), Column("already right", "%")]
    return table(
        [*columns, Column("pairs")],
        rows,
        f"Already right: share of pairs with γ > 0 under the start model. {fig.SHARE_NOTE}",
    )


def gamma(report: Report) -> Table | None:
    """Mean γ of every model on the same pairs; one row a model, one column a source and split."""
    places = list(dict.fromkeys((one.source, one.split) for one in report.gamma))
    found = {(one.model, one.source, one.split): one for one in report.gamma}
    rows = []
    for model in dict.fromkeys(one.model for one in report.gamma):
        cells: list[Cell | str] = [model_cell(report, model)]
        mine = [found.get((model, *place)) for place in places]
        for one in mine:
            text = fig.with_error(one.mean, one.standard_error) if one else fig.NONE
            cells.append(Cell(text, mark="memorised" if one and one.seen else ""))
        rows.append(row(cells, *(one.record for one in mine if one)))
    names = {"heldout": "held out", "train": "train"}
    columns = [Column("model", text=True), *(Column(f"{source}, {names[split]}", "nats") for source, split in places)]
    note = "memorised: the model has trained on these very pairs, so a high γ there shows memory, not alignment."
    return table(columns, rows, note if any(one.seen for one in report.gamma) else "")


def heldout(report: Report) -> Table | None:
    """Every model on every source's held-out pairs, against each model that it is held against."""
    rows: list[Row] = []
    for model in report.evaluation:
        for one in model.heldout:
            cells = [
                one.source,
                one.against or fig.NONE,
                fig.share(one.reward_accuracy, one.pairs),
                fig.with_error(one.margin, one.margin_error),
                fig.with_error(one.chosen_delta, one.chosen_delta_error),
                fig.with_error(one.rejected_delta, one.rejected_delta_error),
                fig.count(one.pairs),
            ]
            rows.append(row([model_cell(report, model.model), *cells], one.record or model.record))
    columns = [
        Column("model", text=True),
        Column("source", text=True),
        Column("against", text=True),
        Column("reward accuracy", "%"),
        Column("margin", "nats"),
        Column("chosen", "nats"),
        Column("rejected", "nats"),
        Column("pairs"),
    ]
    return table(
        columns,
        rows,
        "Log-probability of the answer minus that under the model that it is held against. Where a model's "
        f"loss reads no reference, its accuracy and margin are of its own log-probabilities. {fig.SHARE_NOTE}",
    )


def exact_match(report: Report) -> Table | None:
    """Share of questions answered exactly."""
    rows = [
        row(
            [
                model_cell(report, model.model),
                one.task,
                fig.share(one.score, one.items),
                fig.count(one.items),
            ],
            one.record or model.record,
        )
        for model in report.evaluation
        for one in model.exact_match
    ]
    columns = [Column("model", text=True), Column("task", text=True), Column("exact match", "%"), Column("items")]
    return table(columns, rows, fig.SHARE_NOTE)


def examples(report: Report) -> Table | None:
    """A few answers of the final models beside the source's own, cut to one line."""
    rows = [
        row(
            [model_cell(report, model.model), one.task, _line(pair.answer), _line(pair.chosen)],
            one.record or model.record,
        )
        for model in report.evaluation
        if model.model in report.final_models
        for one in model.exact_match
        for pair in one.examples
    ]
    columns = [Column(name, text=True) for name in ("model", "task", "its answer", "the chosen answer")]
    return table(columns, rows)


def _line(said: str, most: int = 200) -> str:
    text = " ".join(said.split())
    return text if len(text) <= most else text[: most - 1] + "…"


def merges(report: Report) -> Table | None:
    """Merged models: whose weights, in which shares."""
    rows = []
    for step in report.steps:
        if step.does.trains:
            continue
        names = [report.last_step(name) for name in step.options.get("of", ())]
        weights = step.options.get("weights") or [1.0] * len(names)
        total = sum(weights)
        parts = [f"{weight / total:.3g} × {name}" for weight, name in zip(weights, names, strict=False)]
        rows.append(row([model_cell(report, step.name), " + ".join(parts)], step.record))
    return table([Column("model", text=True), Column("average of", text=True)], rows)


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
