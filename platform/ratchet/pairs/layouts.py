"""How rows are laid out: a function, a detector and a row of `LAYOUTS` for each layout, named in `plan.data` too.

Each function takes a row and returns its `Sides` (`choices`: its `ChoiceQuestion`), or raises Unfit with the reason.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from ratchet.pairs.checks import Reason, Unfit
from ratchet.pairs.dialogue import by_assistant, dialogue_of
from ratchet.pairs.fields import (
    best_and_worst,
    first_text,
    has,
    number_of,
    text_field,
    with_system,
)
from ratchet.pairs.meanings import has_content, score_columns
from ratchet.pairs.messages import answered, transcript, turns_of
from ratchet.pairs.options import AnswerForm, form_of, meanings_of, options_of, right_option
from ratchet.pairs.pair import Turn, answer_turn
from ratchet.pairs.prompts import answer_of, asked, asked_turns, fuller, instructed
from ratchet.pairs.shapes import (
    ANSWERS,
    DEMONSTRATIONS,
    OPTIONS,
    both_sides,
    has_scored_list,
    has_scores,
    is_implicit,
    is_instruction,
    is_pair,
    is_whole,
    scores_of,
)
from ratchet.plan import data as plan_data

VERSION = 9

Fields = Mapping[str, Any]
_PROMPTS = ("prompt", "question", "instruction")
_QUESTIONS = ("question", "question_stem", "query", "prompt", "ctx", "instruction")
_KEYS = ("answer", "answerKey", "label", "gold")


@dataclasses.dataclass(frozen=True)
class Sides:
    """What a row says: a prompt, and one answer (a demonstration) or two; `margin` where it has scores.

    `also` are places (from 0) of turns in the prompt that are demonstrations too, each after the turns before it.
    `prefix` is the beginning of the answers, which is given.
    """

    prompt: tuple[Turn, ...]
    chosen: Turn
    rejected: Turn | None
    margin: float | None = None
    also: tuple[int, ...] = ()
    prefix: str | None = None


@dataclasses.dataclass(frozen=True)
class ChoiceQuestion:
    """A question with several answers, of which number `right` (from 0) is the right one."""

    prompt: tuple[Turn, ...]
    options: tuple[str, ...]
    right: int


Reader = Callable[[Fields], Sides | ChoiceQuestion]


def pair(row: Fields) -> Sides:
    """`prompt` (or `question`), `chosen`, `rejected`: texts or messages; answers may repeat the prompt's messages."""
    return _compared(row, asked_turns(row, ("prompt", "question")), "chosen", "rejected")


def _compared(row: Fields, prompt: tuple[Turn, ...], *sides: str) -> Sides:
    """Return a prompt with the answers of two fields, which may both repeat it."""
    heads, answers = zip(*(answer_of(row, side) for side in sides), strict=True)
    if heads[0] != heads[1]:
        raise Unfit(Reason.MESSAGES, f"{' and '.join(sides)} repeat different prompts")
    return Sides(with_system(row, fuller(prompt, heads[0])), *answers)


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
    return _compared(row, instructed(row), "chosen", "rejected")


def sharegpt(row: Fields) -> Sides:
    """`conversations` (or `messages`) that end with the human, with `chosen` and `rejected` as one message or text."""
    key = "messages" if has(row, "messages") and not has(row, "conversations") else "conversations"
    prompt = turns_of(row.get(key, ()), key)
    heads, answers = zip(*(answer_of(row, side) for side in ("chosen", "rejected")), strict=True)
    if any(heads):
        raise Unfit(Reason.MESSAGES, "chosen and rejected are one message each")
    return Sides(with_system(row, prompt), *answers)


def scored(row: Fields) -> Sides:
    """Answers with scores (UltraFeedback): a chosen and a rejected one, or a list of which best and worst are taken."""
    for name in ANSWERS:
        if has(row, name):
            best, worst, margin = best_and_worst(row, name)
            return Sides(asked(row), answer_turn(best), answer_turn(worst), margin)
    named = has(row, "prompt") or has(row, "question")
    spoken = not named and any(has(row, key) for key in ("conversations", "messages")) and not is_whole(row)
    reads = pair if named else alpaca if has(row, "instruction") else sharegpt if spoken else implicit_prompt
    sides = reads(row)
    if (found := scores_of(row) or score_columns(tuple(row))) is not None:
        # Where a mixture has no score for some of its rows, these are pairs all the same.
        known = all(has_content(row[column]) for column in found)
        apart = number_of(row, found[0]) - number_of(row, found[1]) if known else None
        return Sides(sides.prompt, sides.chosen, sides.rejected, apart)
    if has(row, "margin"):
        return dataclasses.replace(sides, margin=number_of(row, "margin"))
    raise Unfit(Reason.MISSING, "score_chosen and score_rejected")


def annotated(row: Fields) -> Sides:
    """A prompt, `output_1`, `output_2` and `preference`: 1, 2, or between them; 1.5, 0 and null are ties."""
    sides = "output_1", "output_2"
    preference = row.get("preference")
    if preference is None:
        raise Unfit(Reason.TIE, "preference is null")
    value = number_of(row, "preference")
    # AlpacaEval writes 0 or 1.5 for a draw.
    if value in {0.0, 1.5}:
        raise Unfit(Reason.TIE, f"preference is {preference}")
    if not 1 <= value <= 2:
        raise Unfit(Reason.ANSWER, f"preference is {preference}, not from 1 to 2")
    ordered = sides if value < 1.5 else sides[::-1]
    if has(row, "instruction"):
        return _compared(row, instructed(row), *ordered)
    if has(row, "prompt"):
        return _compared(row, asked_turns(row, ("prompt",)), *ordered)
    (prompt, chosen), (other, rejected) = (answer_of(row, side) for side in ordered)
    if prompt != other:
        raise Unfit(Reason.MESSAGES, "output_1 and output_2 differ before the last answer")
    return Sides(with_system(row, prompt), chosen, rejected)


def _annotated_alike(rows: Sequence[Fields]) -> Reader:
    """Return the reader of rows, none of which may have 0 for one of the answers. Raises Unfit."""
    found = set()
    for row in rows:
        with contextlib.suppress(Unfit):  # a bad row is counted when it is read
            found.add(number_of(row, "preference"))
    if {0.0, 1.0} <= found and max(found) <= 1:
        what = "preference is 0 and 1 and never 2, and 1 means that output_1 is better, 0 that neither is"
        raise Unfit(Reason.ANSWER, what)
    return annotated


def reply(row: Fields) -> Sides:
    """`messages` that end with the chosen answer, and the rejected one: a text, a message, or a conversation."""
    prompt, chosen = answered(turns_of(row.get("messages", ()), "messages"), "messages")
    head, rejected = answer_of(row, "rejected")
    if head and head != prompt:
        raise Unfit(Reason.MESSAGES, "messages and rejected differ before the last answer")
    return Sides(with_system(row, prompt), chosen, rejected)


def instruction(row: Fields) -> Sides:
    """A demonstration: instruction and output, prompt and completion, question and answer, or messages."""
    for key in ("messages", "conversations"):
        if has(row, key):
            prompt, last, also = dialogue_of(row, key)
            return Sides(prompt, last, None, also=also)
    if has(row, "instruction"):
        key = next((key for key in ("output", "response", "completion") if has(row, key)), "output")
        return dataclasses.replace(one := _demonstrated(row, instructed(row), key), also=by_assistant(one.prompt))
    for question, answer in DEMONSTRATIONS:
        if has(row, question, answer):
            return _demonstrated(row, asked_turns(row, (question,), spoken=False), answer)
    raise Unfit(Reason.MISSING, "no known pair of prompt and answer fields")


def _demonstrated(row: Fields, prompt: tuple[Turn, ...], key: str) -> Sides:
    head, answer = answer_of(row, key)
    return Sides(with_system(row, fuller(prompt, head)), answer, None)


def choices(row: Fields, form: AnswerForm | None = None) -> ChoiceQuestion:
    """A question, its options, and the right one by label, text, letter, index from 0 or from 1 (ARC, HellaSwag)."""
    prompt, texts, meanings, said = _optioned(row)
    return ChoiceQuestion(with_system(row, prompt), texts, right_option(meanings, form, said))


def _optioned(row: Fields) -> tuple[tuple[Turn, ...], tuple[str, ...], Mapping[AnswerForm, int], str]:
    """Return the prompt, the options' texts, and which of them the answer may mean, with the answer itself."""
    prompt = (Turn("user", first_text(row, _QUESTIONS)),)
    name = next((key for key in OPTIONS if has(row, key)), None)
    if name is None:
        raise Unfit(Reason.MISSING, " or ".join(OPTIONS))
    texts, labels = options_of(row[name], name)
    key = next((key for key in _KEYS if row.get(key) not in (None, "")), None)
    if key is None:
        raise Unfit(Reason.MISSING, " or ".join(_KEYS))
    return prompt, texts, meanings_of(row[key], texts, labels, key), f"{key} is {row[key]!r:.40}"


def _choices_alike(rows: Sequence[Fields]) -> Callable[[Fields], ChoiceQuestion]:
    """Return a reader that takes the answers of all rows in one form. Raises Unfit where that is not clear."""
    found = []
    for row in rows:
        with contextlib.suppress(Unfit):  # a bad row is counted when it is read
            found.append(_optioned(row)[2])
    return functools.partial(choices, form=form_of(found)) if found else choices


@dataclasses.dataclass(frozen=True)
class RowLayout:
    """How a layout is read, whether a row looks like it, its fields as a person would name them, and what rows give.

    `alike` makes the reader of a source, from rows of it, where one row alone does not say how it is to be read.
    Where it raises Unfit, `remedy` says what to do.
    """

    read: Reader
    detect: Callable[[Fields], bool]
    fields: str
    gives: Literal["pairs", "pairs with scores", "demonstrations"]
    alike: Callable[[Sequence[Fields]], Reader] | None = None
    remedy: str = "write the rows in one way"


LAYOUTS: dict[str, RowLayout] = {
    "pair": RowLayout(pair, is_pair, "prompt, chosen, rejected", "pairs"),
    "implicit_prompt": RowLayout(implicit_prompt, is_implicit, "chosen, rejected (whole conversations)", "pairs"),
    "alpaca": RowLayout(
        alpaca,
        lambda row: both_sides(row) and has(row, "instruction") and not has_scores(row),
        "instruction, chosen, rejected",
        "pairs",
    ),
    "sharegpt": RowLayout(
        sharegpt,
        lambda row: both_sides(row) and isinstance(row.get("conversations"), list | tuple),
        "conversations, chosen, rejected",
        "pairs",
    ),
    "scored": RowLayout(
        scored,
        lambda row: (both_sides(row) and has_scores(row)) or has_scored_list(row),
        "chosen, rejected, score_chosen, score_rejected; or completions with scores",
        "pairs with scores",
    ),
    "annotated": RowLayout(
        annotated,
        lambda row: has(row, "output_1", "output_2") and "preference" in row,
        "instruction, output_1, output_2, preference",
        "pairs",
        _annotated_alike,
        "say which value is which, as in `columns: {preference: {column: preference, first: [0], second: [1]}, …}`",
    ),
    "reply": RowLayout(
        reply,
        lambda row: has(row, "rejected") and not has(row, "chosen") and isinstance(row.get("messages"), list | tuple),
        "messages, rejected",
        "pairs",
    ),
    "instruction": RowLayout(
        instruction, is_instruction, "instruction, output; question, answer; or messages", "demonstrations"
    ),
    "choices": RowLayout(
        choices,
        lambda row: any(has(row, key) for key in OPTIONS) and any(has(row, key) for key in _QUESTIONS),
        "question, choices, answer",
        "demonstrations",
        _choices_alike,
        "write the answers as letters, or as integers without quotes",
    ),
}


@functools.cache
def layout_of(name: str) -> RowLayout:
    """Return a layout by its name. Raises PlanError where that of another package cannot be used."""
    return LAYOUTS[name] if name in LAYOUTS else plan_data.LAYOUT_KINDS.added[name].load(RowLayout)
