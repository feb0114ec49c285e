"""How rows are laid out: a function, a detector and a row of `LAYOUTS` for each layout, named in `plan.data` too.

Each function takes a row and returns its `Sides` (`choices`: its `ChoiceQuestion`), or raises Unfit with the reason.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

from ratchet.pairs.checks import Reason, Unfit
from ratchet.pairs.fields import (
    best_and_worst,
    first_text,
    has,
    number_of,
    options_of,
    right_option,
    text_field,
    with_system,
)
from ratchet.pairs.messages import answered, is_transcript, transcript, turns_of
from ratchet.pairs.pair import Turn, answer_turn
from ratchet.plan import data as plan_data

VERSION = 2

Fields = Mapping[str, Any]
_PROMPTS = ("prompt", "question", "instruction")
_DEMONSTRATIONS = (("prompt", "completion"), ("prompt", "response"), ("question", "answer"), ("query", "response"))
_QUESTIONS = ("question", "question_stem", "query", "prompt", "ctx", "instruction")
_OPTIONS = ("choices", "endings", "options")
_KEYS = ("answer", "answerKey", "label", "gold")
_SCORES = (("score_chosen", "score_rejected"), ("chosen_rating", "rejected_rating"))
_ANSWERS = ("completions", "responses")


@dataclasses.dataclass(frozen=True)
class Sides:
    """What a row says: a prompt, and one answer (a demonstration) or two; `margin` where it has scores."""

    prompt: tuple[Turn, ...]
    chosen: Turn
    rejected: Turn | None
    margin: float | None = None


@dataclasses.dataclass(frozen=True)
class ChoiceQuestion:
    """A question with several answers, of which number `right` (from 0) is the right one."""

    prompt: tuple[Turn, ...]
    options: tuple[str, ...]
    right: int


def pair(row: Fields) -> Sides:
    """`prompt` (or `question`), `chosen`, `rejected`: texts or messages; answers may repeat the prompt's messages."""
    key = "prompt" if has(row, "prompt") else "question"
    value = row.get(key)
    if isinstance(value, list | tuple):
        prompt = turns_of(value, key)
    elif is_transcript(text := text_field(row, key)):
        turns = transcript(text, key)
        prompt = turns[:-1] if turns[-1] == Turn("assistant", "") else turns
    else:
        prompt = (Turn("user", text),)
    heads, answers = zip(*(_answer(row, side) for side in ("chosen", "rejected")), strict=True)
    if heads[0] != heads[1]:
        raise Unfit(Reason.MESSAGES, "chosen and rejected repeat different prompts")
    return Sides(with_system(row, _fuller(prompt, heads[0])), *answers)


def implicit_prompt(row: Fields) -> Sides:
    """`chosen` and `rejected` are whole conversations, equal up to the last answer: messages, or HH text."""
    sides = []
    for side in ("chosen", "rejected"):
        value = row.get(side)
        turns = turns_of(value, side) if isinstance(value, list | tuple) else transcript(text_field(row, side), side)
        sides.append(answered(turns, side))
    (prompt, chosen), (other, rejected) = sides
    if prompt != other:
        raise Unfit(Reason.MESSAGES, "chosen and rejected differ before the last answer")
    return Sides(with_system(row, prompt), chosen, rejected)


def alpaca(row: Fields) -> Sides:
    """`instruction`, perhaps `input`, `history` and `system`, with `chosen` and `rejected`."""
    return Sides(_instructed(row), answer_turn(text_field(row, "chosen")), answer_turn(text_field(row, "rejected")))


def sharegpt(row: Fields) -> Sides:
    """`conversations` that end with the human, and `chosen` and `rejected` as one message (or text) each."""
    prompt = turns_of(row.get("conversations", ()), "conversations")
    heads, answers = zip(*(_answer(row, side) for side in ("chosen", "rejected")), strict=True)
    if any(heads):
        raise Unfit(Reason.MESSAGES, "chosen and rejected are one message each")
    return Sides(with_system(row, prompt), *answers)


def scored(row: Fields) -> Sides:
    """Answers with scores (UltraFeedback): a chosen and a rejected one, or a list of which best and worst are taken."""
    for name in _ANSWERS:
        if has(row, name):
            best, worst, margin = best_and_worst(row, name)
            return Sides(_asked(row), answer_turn(best), answer_turn(worst), margin)
    named = has(row, "prompt") or has(row, "question")
    sides = (pair if named else alpaca if has(row, "instruction") else implicit_prompt)(row)
    for left, right in _SCORES:
        if has(row, left) or has(row, right):
            return dataclasses.replace(sides, margin=number_of(row, left) - number_of(row, right))
    raise Unfit(Reason.MISSING, " or ".join(left for left, _ in _SCORES))


def annotated(row: Fields) -> Sides:
    """`instruction`, `output_1`, `output_2` and `preference`: 1, 2, or between them; 1.5, 0 and null are ties."""
    sides = text_field(row, "output_1"), text_field(row, "output_2")
    preference = row.get("preference")
    if preference is None:
        raise Unfit(Reason.TIE, "preference is null")
    value = number_of(row, "preference")
    # AlpacaEval writes 0 or 1.5 for a draw.
    if value in {0.0, 1.5}:
        raise Unfit(Reason.TIE, f"preference is {preference}")
    if not 1 <= value <= 2:
        raise Unfit(Reason.ANSWER, f"preference is {preference}, not from 1 to 2")
    chosen, rejected = sides if value < 1.5 else sides[::-1]
    return Sides(_instructed(row), answer_turn(chosen), answer_turn(rejected))


def instruction(row: Fields) -> Sides:
    """A demonstration: instruction and output, prompt and completion, question and answer, or messages."""
    for key in ("messages", "conversations"):
        if has(row, key):
            prompt, last = answered(turns_of(row[key], key), key)
            return Sides(with_system(row, prompt), last, None)
    if has(row, "instruction"):
        return Sides(_instructed(row), answer_turn(first_text(row, ("output", "response"))), None)
    for question, answer in _DEMONSTRATIONS:
        if has(row, question, answer):
            prompt = (Turn("user", text_field(row, question)),)
            return Sides(with_system(row, prompt), answer_turn(text_field(row, answer)), None)
    raise Unfit(Reason.MISSING, "no known pair of prompt and answer fields")


def choices(row: Fields) -> ChoiceQuestion:
    """A question, its options, and the right one by index (from 0), letter, label or text (ARC, HellaSwag)."""
    prompt = (Turn("user", first_text(row, _QUESTIONS)),)
    name = next((key for key in _OPTIONS if has(row, key)), None)
    if name is None:
        raise Unfit(Reason.MISSING, " or ".join(_OPTIONS))
    texts, labels = options_of(row[name], name)
    key = next((key for key in _KEYS if row.get(key) not in (None, "")), None)
    if key is None:
        raise Unfit(Reason.MISSING, " or ".join(_KEYS))
    return ChoiceQuestion(with_system(row, prompt), texts, right_option(row[key], texts, labels, key))


def _asked(row: Fields) -> tuple[Turn, ...]:
    """Return a prompt under any of its names, as text or messages."""
    if isinstance(row.get("prompt"), list | tuple):
        return with_system(row, turns_of(row["prompt"], "prompt"))
    return with_system(row, (Turn("user", first_text(row, _PROMPTS)),))


def _answer(row: Fields, side: str) -> tuple[tuple[Turn, ...], Turn]:
    """Return what a side repeats before its answer, and the answer: from text, a message or messages."""
    value = row.get(side)
    if isinstance(value, Mapping):
        value = [value]
    if isinstance(value, list | tuple):
        return answered(turns_of(value, side), side)
    return (), answer_turn(text_field(row, side))


def _fuller(prompt: tuple[Turn, ...], head: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """Return `head`, what both sides repeat, where `prompt` is part of it. Raises Unfit where it is not."""
    if not head:
        return prompt
    system = tuple(turn for turn in prompt[:1] if turn.role == "system")
    if any(turn not in head for turn in prompt[len(system) :]):
        raise Unfit(Reason.MESSAGES, "chosen and rejected repeat another prompt than the row's")
    return head if head[0].role == "system" else (*system, *head)


def _instructed(row: Fields) -> tuple[Turn, ...]:
    """Return history, then the instruction with its input on a line of its own."""
    text = text_field(row, "instruction")
    if has(row, "input") and text_field(row, "input").strip():
        text = f"{text}\n{row['input']}"
    turns: list[Turn] = []
    for exchange in row.get("history") or ():
        if not isinstance(exchange, list | tuple) or [type(side) for side in exchange] != [str, str]:
            raise Unfit(Reason.WRONG_TYPE, "history is not a list of pairs of texts")
        turns += [Turn("user", exchange[0]), Turn("assistant", exchange[1])]
    return with_system(row, (*turns, Turn("user", text)))


def _both(row: Fields) -> bool:
    return has(row, "chosen", "rejected")


def _has_scores(row: Fields) -> bool:
    return any(has(row, *keys) for keys in _SCORES)


def _has_scored_list(row: Fields) -> bool:
    for name in _ANSWERS:
        if isinstance(row.get(name), list | tuple) and row[name]:
            # A list of plain texts without scores beside it is several answers of which none is better.
            inside = isinstance(row[name][0], Mapping)
            return inside or has(row, "scores") or has(row, "ratings")
    return False


def _is_pair(row: Fields) -> bool:
    return _both(row) and not _has_scores(row) and (has(row, "prompt") or has(row, "question"))


def _is_implicit(row: Fields) -> bool:
    named = any(has(row, key) for key in (*_PROMPTS, "conversations"))
    return _both(row) and not _has_scores(row) and not named


def _is_instruction(row: Fields) -> bool:
    """One answer, and no verdict on it: rows with a thumb up or down would teach their bad answers."""
    if _both(row) or isinstance(row.get("label"), bool) or any(has(row, key) for key in (*_OPTIONS, *_ANSWERS)):
        return False
    spoken = any(isinstance(row.get(key), list | tuple) for key in ("messages", "conversations"))
    told = has(row, "instruction", "output") or has(row, "instruction", "response")
    return spoken or told or any(has(row, *keys) for keys in _DEMONSTRATIONS)


@dataclasses.dataclass(frozen=True)
class RowLayout:
    """How a layout is read, whether a row looks like it, its fields as a person would name them, and what rows give."""

    read: Callable[[Fields], Sides | ChoiceQuestion]
    detect: Callable[[Fields], bool]
    fields: str
    gives: Literal["pairs", "pairs with scores", "demonstrations"]


LAYOUTS: dict[str, RowLayout] = {
    "pair": RowLayout(pair, _is_pair, "prompt, chosen, rejected", "pairs"),
    "implicit_prompt": RowLayout(implicit_prompt, _is_implicit, "chosen, rejected (whole conversations)", "pairs"),
    "alpaca": RowLayout(
        alpaca,
        lambda row: _both(row) and has(row, "instruction") and not _has_scores(row),
        "instruction, chosen, rejected",
        "pairs",
    ),
    "sharegpt": RowLayout(
        sharegpt,
        lambda row: _both(row) and isinstance(row.get("conversations"), list | tuple),
        "conversations, chosen, rejected",
        "pairs",
    ),
    "scored": RowLayout(
        scored,
        lambda row: (_both(row) and _has_scores(row)) or _has_scored_list(row),
        "chosen, rejected, score_chosen, score_rejected; or completions with scores",
        "pairs with scores",
    ),
    "annotated": RowLayout(
        annotated,
        lambda row: has(row, "output_1", "output_2") and "preference" in row,
        "instruction, output_1, output_2, preference",
        "pairs",
    ),
    "instruction": RowLayout(
        instruction, _is_instruction, "instruction, output; question, answer; or messages", "demonstrations"
    ),
    "choices": RowLayout(
        choices,
        lambda row: any(has(row, key) for key in _OPTIONS) and any(has(row, key) for key in _QUESTIONS),
        "question, choices, answer",
        "demonstrations",
    ),
}


@functools.cache
def layout_of(name: str) -> RowLayout:
    """Return a layout by its name. Raises PlanError where that of another package cannot be used."""
    return LAYOUTS[name] if name in LAYOUTS else plan_data.LAYOUT_KINDS.added[name].load(RowLayout)
