"""Pairs as text, through the tokenizer's own chat template.

What a template does to an answer is found once by rendering a known one: prompt + lead + answer +
tail. A pair that comes out otherwise is refused with a reason, never trained on as something else.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Sequence
from typing import Any

from ratchet.errors import ModelError
from ratchet.pairs.chat import own_template, reads
from ratchet.pairs.checks import Unfit
from ratchet.pairs.pair import PreferencePair, Turn

_KNOWN_QUESTION = "What is the colour of the sky?"
_KNOWN_ANSWER = "The sky is blue (at noon)."


@dataclasses.dataclass(frozen=True)
class Style:
    """What a chat template adds, as `find_style` saw it.

    `lead` and `tail` are the texts before and after an answer. Every answer ends with `end_id`;
    `after` is how many tokens of the tail come behind it and are cut off; `tail_ends` is False where
    the tail has no special token, so that the answer's content ends with the tokenizer's EOS.
    `bos_id` starts every sequence, where the template writes it or the tokenizer adds it.
    """

    lead: str
    tail: str
    end_id: int
    after: int
    tail_ends: bool
    bos_id: int | None
    special: re.Pattern[str]


@dataclasses.dataclass(frozen=True)
class Rendered:
    """Texts to encode; `rejected` is None for a demonstration."""

    prompt: str
    chosen: str
    rejected: str | None


class RefusalReason(enum.StrEnum):
    """The reasons in a tokens folder's `skipped.parquet` and in its record's counts."""

    SPECIAL = "special token in text"
    REFUSED = "template refuses"
    PROMPT_ALTERED = "template alters prompt"
    ANSWER_ALTERED = "template alters answer"
    EMPTY_ANSWER = "empty answer"
    EMPTY_PROMPT = "empty prompt"
    END = "end of turn"
    BOS = "beginning of sequence"
    SAME = "same tokens"
    ANSWER_TOO_LONG = "answer too long"
    TOO_LONG = "too long"


@dataclasses.dataclass(frozen=True)
class Refusal:
    """Why a pair cannot be rendered or encoded; `tokens` it has where it is too long."""

    reason: RefusalReason
    detail: str
    tokens: int = 0


def find_style(tokenizer: Any) -> Style:
    """Return what the tokenizer's chat template adds to an answer.

    Raises ModelError where there is no template, it fails on a plain question and answer, it drops
    or alters the answer, or nothing could end one.
    """
    where = str(tokenizer.name_or_path)
    if not tokenizer.chat_template:
        raise ModelError(
            "its tokenizer has no chat template",
            where=where,
            fix="set model.chat_template to a Jinja file, or to `plain`, which comes with Ratchet",
            code="model.no-template",
        )
    if drawn := reads(own_template(tokenizer)).drawn:
        raise ModelError(
            f"its chat template draws at random ({', '.join(drawn)}), so that no text comes out twice the same",
            where=where,
            fix="set model.chat_template to one that does not",
            code="model.template-random",
        )
    turns = (Turn("user", _KNOWN_QUESTION),)
    try:
        prompt, full = apply_template(tokenizer, turns, None), apply_template(tokenizer, turns, _KNOWN_ANSWER)
    except Exception as error:  # a template can raise whatever its expressions raise
        raise ModelError(
            f"its chat template fails on a question and an answer: {error}",
            where=where,
            fix="correct the template, or set model.chat_template",
            code="model.template-fails",
        ) from error
    if not full.startswith(prompt) or _KNOWN_ANSWER not in full[len(prompt) :] or _KNOWN_QUESTION not in prompt:
        raise ModelError(
            f"its chat template drops or alters texts: the prompt {prompt!r} became {full!r} with its answer",
            where=where,
            fix="set model.chat_template to one where prompt and answer stand as they are",
            code="model.template-alters",
        )
    lead, _, tail = full[len(prompt) :].partition(_KNOWN_ANSWER)
    end_id, after, tail_ends = _ending(tokenizer, tail, where)
    # The longest first: `<s>` may be the beginning of `<s_end>`.
    marks = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    special = re.compile("|".join(map(re.escape, sorted(marks, key=len, reverse=True))) or r"(?!)")
    return Style(lead, tail, end_id, after, tail_ends, _bos(tokenizer, prompt), special)


def _ending(tokenizer: Any, tail: str, where: str) -> tuple[int, int, bool]:
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"] if tail else []
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special} | set(
        tokenizer.all_special_ids
    )
    # The first special token ends the turn; templates may write a line break after it.
    for place, token_id in enumerate(ids):
        if token_id in special:
            return token_id, len(ids) - place - 1, True
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "neither the chat template nor the tokenizer ends an answer",
            where=where,
            fix="set eos_token in tokenizer_config.json",
            code="model.no-end",
        )
    return tokenizer.eos_token_id, 0, False


def _bos(tokenizer: Any, prompt: str) -> int | None:
    bos = tokenizer.bos_token_id
    if bos is None:
        return None
    written = tokenizer(prompt, add_special_tokens=False)["input_ids"][:1] == [bos]
    # Llama's tokenizer adds it by itself, and its template writes it too: both must give one.
    added = tokenizer("a")["input_ids"][:1] == [bos]
    return bos if written or added else None


def apply_template(tokenizer: Any, prompt: Sequence[Turn], answer: str | None) -> str:
    """Return the template's text of a prompt (with the generation prompt), or of it with an answer."""
    messages = [{"role": turn.role, "content": turn.content} for turn in prompt]
    if answer is not None:
        messages.append({"role": "assistant", "content": answer})
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer is None)
    return text


def render_pair(tokenizer: Any, style: Style, pair: PreferencePair) -> Rendered | Refusal:
    """Return the texts of a pair, or why there are none."""
    prompt, chosen, rejected = pair.prompt, pair.chosen.content, pair.rejected.content if pair.rejected else None
    try:
        turns = [*prompt, pair.chosen, *((pair.rejected,) if pair.rejected else ())]
        if pair.tools or any(turn.texts != (turn.content,) for turn in turns):
            raise Unfit(RefusalReason.REFUSED, "turns with thoughts, tools or calls are not rendered")
        for text in (turn.content for turn in turns):
            # Its ids would be those of a real mark, and a text could end a turn or begin one.
            if found := style.special.search(text):
                raise Unfit(RefusalReason.SPECIAL, f"the text holds {found.group()!r}")
        start = _apply_or_refuse(tokenizer, prompt, None)
        _check_prompt(start, prompt)
        texts = [
            None if answer is None else _answer_text(style, start, answer, _apply_or_refuse(tokenizer, prompt, answer))
            for answer in (chosen, rejected)
        ]
    except Unfit as unfit:
        return Refusal(RefusalReason(unfit.reason), unfit.detail)
    return Rendered(start, texts[0] or "", texts[1])


def _apply_or_refuse(tokenizer: Any, prompt: Sequence[Turn], answer: str | None) -> str:
    try:
        return apply_template(tokenizer, prompt, answer)
    except Exception as error:  # a template can raise whatever its expressions raise
        raise Unfit(RefusalReason.REFUSED, str(error)) from error


def _check_prompt(start: str, prompt: Sequence[Turn]) -> None:
    """Raise Unfit unless every turn stands in the prompt, in order; white space around it may go."""
    place = 0
    for turn in prompt:
        content = turn.content.strip()
        at = start.find(content, place)
        if at < 0:
            raise Unfit(RefusalReason.PROMPT_ALTERED, f"the {turn.role} turn {content[:60]!r} is not as written")
        place = at + len(content)


def _answer_text(style: Style, start: str, answer: str, full: str) -> str:
    """The text from the start to the end of the answer; a template may strip white space around it."""
    if not answer.strip():
        raise Unfit(RefusalReason.EMPTY_ANSWER, "an answer has no text")
    # As written first: most templates keep the blank space, and then nothing is lost.
    for content in (answer, answer.strip()):
        if full == start + style.lead + content + style.tail:
            return full if style.tail_ends else full[: len(full) - len(style.tail)]
    raise Unfit(RefusalReason.ANSWER_ALTERED, f"the answer {answer[:60]!r} is not as written")
