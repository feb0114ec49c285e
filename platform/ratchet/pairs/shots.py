"""Worked examples above a question: few-shot prompts, as the published sets of Smaug have them (`…_FewShot`)."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

from ratchet.errors import PlanError
from ratchet.pairs.checks import Reason, Unfit
from ratchet.pairs.ids import held_out, sample_key
from ratchet.pairs.pair import PreferencePair, Turn
from ratchet.plan.data import Source

_POOL = 256


@dataclasses.dataclass(frozen=True)
class Shot:
    """A question with its right answer, and the key of the question: no pair is its own example."""

    key: str
    question: str
    answer: str


def pool_of(pairs: Sequence[PreferencePair], source: Source) -> tuple[Shot, ...]:
    """Return the examples that a source's pairs draw from: questions with one user turn on the side to train on.

    `pairs` are from all over the source. A seeded hash chooses among them, never their order.
    """
    found: dict[str, Shot] = {}
    for whole in pairs:
        pair = _without_start(whole)
        if len(_spoken(pair.prompt)) == 1 and not held_out(source.seed, source.held_out_share, pair.prompt_key):
            shot = Shot(pair.prompt_key, pair.prompt[-1].content.strip(), pair.chosen.content.strip())
            found.setdefault(shot.key, shot)
    return tuple(sorted(found.values(), key=lambda shot: sample_key(source.seed, shot.key))[:_POOL])


def _without_start(pair: PreferencePair) -> PreferencePair:
    """Return a pair whose right answer has the beginning that its prompt gives."""
    *before, last = pair.prompt
    if last.role != "assistant":
        return pair
    right = dataclasses.replace(pair.chosen, content=last.content + pair.chosen.content)
    return dataclasses.replace(pair, prompt=tuple(before), chosen=right)


def enough_shots(pool: Sequence[Shot], source: Source) -> tuple[Shot, ...]:
    """Return the pool. Raises PlanError where it has too few examples for a question that is one of them."""
    if len(pool) <= source.few_shot:
        raise PlanError(
            f"few_shot: {source.few_shot} takes {source.few_shot + 1} questions to train on, and the rows looked at "
            f"give {len(pool)}",
            where=", ".join(source.paths) or "data",
            fix="lower few_shot, or give more rows",
            code="plan.rows",
        )
    return tuple(pool)


def with_shots(pair: PreferencePair, pool: Sequence[Shot], source: Source) -> PreferencePair:
    """Return a pair whose user turn has `few_shot` examples above its question, in lm-eval's plain form.

    Which ones follows from the seed and the question alone, so pairs of one question have the same prompt. The split
    goes by the question. Raises Unfit where the prompt is a dialogue.
    """
    if len(_spoken(pair.prompt)) != 1:
        raise Unfit(Reason.MESSAGES, "few_shot takes questions of one turn, and this prompt is a dialogue")
    question = pair.prompt[-1]
    draw = random.Random(f"few_shot:{source.seed}:{pair.prompt_key}")
    shots = draw.sample([shot for shot in pool if shot.key != pair.prompt_key], source.few_shot)
    above = "".join(f"Question: {shot.question}\nAnswer: {shot.answer}\n\n" for shot in shots)
    text = f"{above}Question: {question.content.strip()}\nAnswer:"
    prompt = (*pair.prompt[:-1], dataclasses.replace(question, content=text))
    return dataclasses.replace(pair, prompt=prompt, asked=question.content)


def _spoken(prompt: Sequence[Turn]) -> list[Turn]:
    return [turn for turn in prompt if turn.role != "system"]
