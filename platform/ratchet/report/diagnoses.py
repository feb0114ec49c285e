"""What a run's figures say of it, by name: each diagnosis is one row of `RULES`.

Pure: the figures of a report in, diagnoses out. docs/guide.md lists the rows, and why each threshold is where it is.
"""

from __future__ import annotations

import dataclasses
import re
import statistics
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from ratchet.documents.heldout import SampledPrompt, WrittenAnswer
from ratchet.documents.report import Diagnosis, Report, StepSummary
from ratchet.pairs.checks import POLICY
from ratchet.reference.share import interval_of
from ratchet.report import figures as fig
from ratchet.report.tables.data import Pooled, pooled

COLLAPSED = 1.0
"""Nats a token that chosen answers may fall: one more, and each of their tokens is e times less likely than before."""

FEW_PAIRS = 100
"""Held-out pairs below which the exact interval of an accuracy may reach 10 points to each side."""

ROWS_LOST = 0.05
"""Share of a source's rows or pairs that may be lost before it is said: the default of `max_bad_share`."""

REPEATS = 2.4
"""How many times smaller zlib makes a text that repeats itself (Whisper's threshold: Radford et al. 2022, 4.5)."""

# A part of at most 40 signs: longer ones repeated make zlib notice, and a longer search takes quadratic time.
_LOOP = re.compile(r"(.{1,40}?)\1{4,}", re.DOTALL)
_SHORTEST_LOOP = 16
"""Signs of a text below which five times the same says nothing: zlib needs some to make a text smaller."""

LONGER = 2.0
"""How many times longer than before, and than the chosen answers, answers are when their length is said."""

Document = TypeVar("Document")

Found = tuple[str, Mapping[str, str]]
"""What a diagnosis is of, and the words that its sentence has."""


@dataclasses.dataclass(frozen=True)
class Rule(Generic[Document]):
    """A diagnosis: `test` yields what it is of with the words of the sentence `says`; `do` is the next step."""

    name: str
    grave: bool
    test: Callable[[Document], Iterator[Found]]
    says: str
    do: str


def judged(rules: Iterable[Rule[Document]], document: Document) -> tuple[Diagnosis, ...]:
    """Return what the figures of a document say, the grave first, each kind in the order of `rules`."""
    found = [
        Diagnosis(rule.name, of, rule.grave, rule.says.format(**words), rule.do.format(**words))
        for rule in rules
        for of, words in rule.test(document)
    ]
    return tuple(sorted(found, key=lambda one: not one.grave))


def diagnose(report: Report) -> tuple[Diagnosis, ...]:
    """Return what the figures of a run say."""
    return judged(RULES, report)


def lines(diagnoses: Iterable[Diagnosis]) -> Iterator[str]:
    """Yield diagnoses as lines for a terminal, each with its next step below it."""
    for one in diagnoses:
        yield f"{one.of:<20} {one.name.upper() if one.grave else one.name}: {one.says}"
        yield f"{'':<20} {one.do}"


def preferring(report: Report, *, referring: bool = False) -> Iterator[tuple[str, Pooled]]:
    """Yield what each stage of preferences ends with, and its held-out figures where it has some.

    `referring` leaves out stages whose loss has no reference: their margin does not say how far a model moved.
    """
    yield from _ending(
        report, [step for step in report.steps if step.does.reads_pairs and (step.reference or not referring)]
    )


def _ending(report: Report, steps: Iterable[StepSummary]) -> Iterator[tuple[str, Pooled]]:
    """Yield the last of each stage's `steps`, and its held-out figures where it has some."""
    for step in {step.stage: step for step in steps}.values():
        if (held := pooled(report, step.name)) is not None and held.pairs:
            yield step.name, held


def _collapsed(report: Report) -> Iterator[Found]:
    for model, held in _ending(report, report.steps):  # a merge of sound models may be ruined too
        mean, error = held.chosen_per_token
        # Two errors above the mean: a few pairs whose spread is wide do not call a model ruined.
        if mean is not None and mean + 2 * (error or 0.0) < -COLLAPSED:
            words = {"nats": fig.with_error(*held.chosen), "token": fig.number(-mean)}
            yield model, words | {"against": held.against, "pairs": f"{held.pairs:,}"}


def _rejected_alone(report: Report) -> Iterator[Found]:
    for model, held in preferring(report, referring=True):
        (margin, margin_error), (chosen, _), (rejected, rejected_error) = held.margin, held.chosen, held.rejected
        if None in {margin, margin_error, chosen, rejected, rejected_error}:
            continue  # without an error, nothing says that the rejected answers fell at all
        if _above(margin, margin_error) and _above(-(rejected or 0.0), rejected_error) and (chosen or 0.0) <= 0:
            words = {"margin": held.margin, "chosen": held.chosen, "rejected": held.rejected}
            yield model, {key: fig.with_error(*one) for key, one in words.items()} | {"against": held.against}


def _above(mean: float | None, error: float | None) -> bool:
    return mean is not None and mean > 2 * (error or 0.0)


def _no_effect(report: Report) -> Iterator[Found]:
    for model, held in preferring(report, referring=True):
        mean, error = held.margin
        if mean is not None and error is not None and abs(mean) <= 2 * error:
            yield model, {"margin": fig.with_error(mean, error), "against": held.against, "pairs": f"{held.pairs:,}"}


def _few_pairs(report: Report) -> Iterator[Found]:
    for model, held in preferring(report):
        ends = interval_of(held.accuracy[0], held.pairs)
        if held.pairs < FEW_PAIRS and ends is not None:
            low, high = (fig.percent(end) for end in ends)
            said = f"{held.pairs} held-out pair{'' if held.pairs == 1 else 's'}"
            yield model, {"pairs": said, "accuracy": fig.percent(held.accuracy[0]), "low": low, "high": high}


def _none_held_out(report: Report) -> Iterator[Found]:
    known = {model for model, _ in preferring(report)}
    for stage in dict.fromkeys(step.stage for step in report.steps if step.does.reads_pairs):
        if (model := report.last_step(stage)) not in known:
            yield model, {}


def _effect_lost(report: Report) -> Iterator[Found]:
    for step in report.steps:
        if step.effect is not None and step.effect.lost:
            words = {"kept": fig.percent(step.effect.kept), "of": step.effect.of}
            yield step.name, words | {"pairs": fig.count(step.effect.pairs)}


def _rows_lost(report: Report) -> Iterator[Found]:
    for source in report.sources:
        bad = {reason: n for reason, n in source.skipped.items() if reason not in POLICY}
        if words := _lost(bad, source.read):
            yield source.name, words | {"of": f"{source.read:,} rows", "when": "read", "longest": ""}
        for one in source.tokens:
            of = one.kept + sum(one.skipped.values())
            if words := _lost(one.skipped, of):
                longest = f"; the longest has {one.longest_seen:,} tokens" if one.longest_seen else ""
                when = f"tokenised to {one.max_length:,} tokens"
                yield source.name, words | {"of": f"{of:,} pairs", "when": when, "longest": longest}


def _lost(skipped: Mapping[str, int], of: int) -> dict[str, str]:
    """Return the words about rows that are lost, the most frequent reason first; none where they are few."""
    lost = sum(skipped.values())
    if lost <= ROWS_LOST * of:
        return {}
    reasons = ", ".join(f"{n:,} {reason}" for reason, n in sorted(skipped.items(), key=lambda it: -it[1]))
    return {"lost": f"{lost:,}", "share": fig.percent(lost / of), "reasons": reasons}


def repeats(text: str) -> bool:
    """Whether a text says the same again and again.

    It does where zlib makes it more than `REPEATS` times smaller, with a byte for each sign. Where a text is too short
    for that, a part of it that stands five times in a row is most of it.
    """
    # A byte for each sign: in UTF-8 half of a text in Hindi or Thai is which script it is.
    places: dict[str, int] = {}
    signs = [places.setdefault(sign, len(places)) for sign in text]
    width = 1 if len(places) <= 256 else 3  # Chinese has more signs than a byte has values
    data = b"".join(sign.to_bytes(width, "big") for sign in signs)
    if len(data) > REPEATS * len(zlib.compress(data, 9)):
        return True
    line = f"{' '.join(text.split())} "  # a last word has no blank after it
    longest = max((len(found.group()) for found in _LOOP.finditer(line)), default=0)
    return len(line) > _SHORTEST_LOOP and 2 * longest > len(line)


def unended(sample: SampledPrompt, one: WrittenAnswer) -> bool:
    """Whether a model wrote as far as it could, and more than twice as many tokens as the chosen answer has."""
    return not one.ended and 2 * sample.chosen_tokens <= one.tokens


def degenerate(sample: SampledPrompt, one: WrittenAnswer) -> str:
    """Return what is wrong with an answer as such, nothing where nothing is; a chosen answer may repeat itself too."""
    if not one.text.strip():
        return "is empty"
    if repeats(one.text) and not repeats(sample.chosen):
        return "repeats itself"
    return "never ends" if unended(sample, one) else ""


def written_by(report: Report) -> dict[str, list[tuple[SampledPrompt, WrittenAnswer]]]:
    """Return what each model wrote, in the order of the samples."""
    found: dict[str, list[tuple[SampledPrompt, WrittenAnswer]]] = {}
    for sample in report.samples:
        for one in sample.answers:
            found.setdefault(one.model, []).append((sample, one))
    return found


def _degenerate(report: Report) -> Iterator[Found]:
    for model, mine in written_by(report).items():
        wrong = [what for sample, one in mine if (what := degenerate(sample, one))]
        if model != "base" and 2 * len(wrong) > len(mine):
            kinds = ", ".join(f"{what}: {wrong.count(what)}" for what in dict.fromkeys(wrong))
            first = fig.on_one_line(next(one.text for sample, one in mine if degenerate(sample, one)), 80)
            yield model, {"wrong": str(len(wrong)), "of": str(len(mine)), "kinds": kinds, "first": first}


def _longer(report: Report) -> Iterator[Found]:
    # Random weights, or a model that never ends, write to the limit: answers are compared with the first sound ones.
    found = {model: mine for model, mine in written_by(report).items() if _sound(mine)}
    first = next(iter(found), "")
    for model, mine in found.items():
        before = statistics.fmean(one.tokens for _, one in found[first])
        after = statistics.fmean(one.tokens for _, one in mine)
        chosen = statistics.fmean(sample.chosen_tokens for sample, _ in mine)
        if after > LONGER * max(before, chosen):
            numbers = {"after": after, "before": before, "chosen": chosen}
            yield model, {key: fig.number(value, 0) for key, value in numbers.items()} | {"first": first}


def _sound(mine: list[tuple[SampledPrompt, WrittenAnswer]]) -> bool:
    return 2 * sum(bool(degenerate(sample, one)) for sample, one in mine) <= len(mine)


RULES: tuple[Rule[Report], ...] = (
    Rule(
        "chosen collapsed",
        True,
        _collapsed,
        "the chosen answers fell by {token} nats a token against {against} ({nats} nats an answer, {pairs} held-out "
        "pairs): the model no longer writes such answers; do not use it, whatever its reward accuracy is",
        "lower learning_rate or epochs, raise beta, or use kind: dpop, which holds the chosen answer up; give a merge "
        "other weights, or use one of its parts alone",
    ),
    Rule(
        "answers degenerate",
        True,
        _degenerate,
        "{wrong} of {of} of its answers are no answers ({kinds}), such as “{first}”",
        "lower learning_rate or epochs, and look at the answers below; if those of the start model are so too, begin "
        "with an sft stage",
    ),
    Rule(
        "effect lost in publishing",
        False,
        _effect_lost,
        "the published model keeps {kept} % of what was trained, over {pairs} {of}: rounding took the rest",
        "set model.dtype: float32, or serve the step's adapter over the model that it starts from",
    ),
    Rule(
        "rows lost",
        False,
        _rows_lost,
        "{lost} of {of} ({share} %) were left out when {when} ({reasons}{longest})",
        "raise max_length or set overlong: trim_prompt where they are too long; give model.chat_template, or mend the "
        "rows, where the template is the reason; mend the rows where they cannot be read",
    ),
    Rule(
        "no held-out pairs",
        False,
        _none_held_out,
        "it has no held-out pairs, so that nothing here tells learning from memory",
        "raise held_out of its sources, or give more rows",
    ),
    Rule(
        "too few pairs to tell",
        False,
        _few_pairs,
        "{pairs} bound its reward accuracy of {accuracy} % between {low} and {high} % only",
        f"raise held_out, or give more rows: from {FEW_PAIRS} pairs on it is known to 10 points",
    ),
    Rule(
        "no effect",
        False,
        _no_effect,
        "its margin against {against} is {margin} nats on {pairs} held-out pairs: not distinguishable from 0",
        "train for longer or at a higher learning_rate, or hold out more pairs to see a smaller effect",
    ),
    Rule(
        "margin from the rejected side alone",
        False,
        _rejected_alone,
        "its margin of {margin} nats comes from the rejected answers, which fell ({rejected} nats against {against}); "
        "the chosen answers did not rise ({chosen} nats)",
        "use kind: dpop (a higher penalty where it is dpop already), or a higher beta, to make chosen answers likelier",
    ),
    Rule(
        "answers grew longer",
        False,
        _longer,
        "its answers have {after} tokens on average, those of {first} {before}, and the chosen ones {chosen}",
        "compare lengths of chosen and rejected answers in the data: preference data teaches length where they differ",
    ),
)
