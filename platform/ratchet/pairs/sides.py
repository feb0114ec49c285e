"""One answer behind its prompt: where the prompt ends, and what the model writes.

Prompt and answer together are the template's own text. The two exceptions are thoughts that a template drops, and
templates that write a prompt otherwise once it is answered: there the answer stands behind the generation prompt.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
from collections.abc import Sequence
from typing import Any

from ratchet.pairs.checks import Unfit
from ratchet.pairs.pair import Turn
from ratchet.pairs.refusals import RefusalReason
from ratchet.pairs.style import Style, apply_messages, messages_of
from ratchet.pairs.thoughts import (
    closes_thoughts,
    continued,
    has_thoughts,
    is_empty_thought,
    never_end,
    opens_thoughts,
    split_thoughts,
    without_closed,
    written_thoughts,
)

_log = logging.getLogger(__name__)
_SAID, _THOUGHT = "Zq7vAnswerX9", "Zq7vThoughtX9"
"""Texts that no template has of its own, and that none splits or alters."""
Side = tuple[str, str]
"""The prompt's text, and that of prompt and answer up to the end of the answer."""


@dataclasses.dataclass(frozen=True)
class Ask:
    """A prompt: its turns, what the template gets of it, its text with the generation prompt, and its tools."""

    turns: Sequence[Turn]
    messages: list[dict[str, Any]]
    start: str
    tools: list[Any] | None


def applied(tokenizer: Any, messages: Sequence[Any], tools: Sequence[Any] | None, *, asks: bool) -> str:
    """Return the template's text of messages. Raises Unfit where it refuses them."""
    try:
        return apply_messages(tokenizer, messages, tools, asks=asks)
    except Exception as error:  # a template can raise whatever its expressions raise
        raise Unfit(RefusalReason.REFUSED, str(error)) from error


def side_of(tokenizer: Any, style: Style, ask: Ask, answer: Turn) -> Side:
    """Return where a prompt ends and its answer does. Raises Unfit."""
    if not answer.content.strip() and answer.tool_calls is None:
        raise Unfit(RefusalReason.EMPTY_ANSWER, "an answer has no text")
    thinks = answer.reasoning is not None or has_thoughts(answer.content)
    if thinks and closes_thoughts(ask.start[len(without_closed(ask.start)) :]):
        _tell_closed(str(tokenizer.name_or_path))
    if style.thoughts is not None:
        if never_end(answer.content):
            raise Unfit(RefusalReason.THOUGHTS, "an answer begins with thoughts that have no end")
    elif thinks and not style.raw:
        return _after_prompt(tokenizer, style, ask, answer)
    elif answer.reasoning is not None:
        # The template knows of no thoughts, so that they are text to it, as they are to the model.
        answer = dataclasses.replace(answer, content=written_thoughts(answer, ""), reasoning=None)
    (message,) = messages_of(dataclasses.replace(style, folds=False, merges=False), [answer], ask.turns)
    full = applied(tokenizer, [*ask.messages, message], ask.tools, asks=False)
    head = continued(ask.start, full)
    if answer.tool_calls is None and (style.thoughts is None or not thinks):
        found = _plainly(style, ask, head, answer.content, full)
        if found is not None:
            return found
    if head is None:
        raise Unfit(RefusalReason.PROMPT_ALTERED, f"the answer does not follow {ask.start[-40:]!r}")
    return _by_twin(tokenizer, style, ask, head, message, full)


@functools.cache
def _tell_closed(name: str) -> None:
    """Warn once of answers that the model will not be asked for."""
    _log.warning(
        "%s: some answers have thoughts, and the generation prompt has an empty thought in their place: such answers "
        "train behind a prompt without it; let the template think by model.template_arguments, such as "
        "{enable_thinking: true}",
        name,
    )


@functools.cache
def tell_opened(name: str) -> None:
    """Warn once of answers without the thoughts that the model will be asked for."""
    _log.warning(
        "%s: some answers have no thoughts, and the generation prompt opens thoughts: such answers train behind a "
        "prompt without that; give rows with thoughts, or turn them off by model.template_arguments, such as "
        "{enable_thinking: false}",
        name,
    )


def _plainly(style: Style, ask: Ask, head: str | None, content: str, full: str) -> Side | None:
    """Return a side whose answer stands between what the style has found, None where it does not."""
    base = ask.start.removesuffix(style.opened)
    # As written first: most templates keep the blank space, and then nothing is lost.
    for said in dict.fromkeys((content, content.strip())):
        body = style.lead + said + style.tail
        # Mistral writes the system text into the last turn of all, so that behind an answer it is lost.
        if full == base + body or (head is None and full.endswith(body)):
            prompt = base + style.lead if is_empty_thought(style.lead) else base
            # A text that begins with thoughts goes on where the template has opened them.
            prompt = max(prompt, head or "", key=len) if has_thoughts(said) else prompt
            return prompt, base + style.lead + said + (style.ending if style.tail_ends else "")
    return None


def _by_twin(tokenizer: Any, style: Style, ask: Ask, head: str, message: dict[str, Any], full: str) -> Side:
    """Return a side whose text is the template's, found by rendering the same conversation with a known answer.

    Raises Unfit unless the answer's texts stand where the known ones do, and nothing else differs.
    """
    thought = message.get(style.thoughts) if style.thoughts is not None else None
    said = message["content"]
    known = {**message, **({"content": _SAID} if said else {})}
    if thought is not None:
        known[str(style.thoughts)] = _THOUGHT
    twin = applied(tokenizer, [*ask.messages, known], ask.tools, asks=False)
    pieces = _pieces(twin, [mark for mark, text in ((_THOUGHT, thought), (_SAID, said)) if text])
    texts = [text for text in (thought, said) if text]
    if not _made_of(full, pieces, texts):
        raise Unfit(RefusalReason.ANSWER_ALTERED, f"the answer {(said or full)[:60]!r} is not as written")
    whole = head + _ended(style, full[len(head) :])
    if thought is None:
        lead = pieces[0][len(head) :] if said else style.lead
        head = head + lead if is_empty_thought(lead) and full.startswith(head + lead) else head
    return head, whole


def _pieces(twin: str, marks: Sequence[str]) -> list[str]:
    """Return what stands before, between and after known texts. Raises Unfit where one is not there just once."""
    pieces = []
    for mark in marks:
        before, found, twin = twin.partition(mark)
        if not found or mark in twin:
            raise Unfit(RefusalReason.ANSWER_ALTERED, "the template drops or repeats an answer")
        pieces.append(before)
    return [*pieces, twin]


def _made_of(full: str, pieces: Sequence[str], texts: Sequence[str]) -> bool:
    """Say whether a text is the pieces with the texts between them; white space around these may go."""
    parts = [re.escape(pieces[0])]
    for text, piece in zip(texts, pieces[1:], strict=True):
        core = text.strip()
        before, after = text[: text.index(core)], text[text.index(core) + len(core) :]
        parts.append(f"{_any_end(before)}{re.escape(core)}{_any_start(after)}{re.escape(piece)}")
    return re.fullmatch("".join(parts), full, re.DOTALL) is not None


def _any_end(blank: str) -> str:
    return "(?:" + "|".join(re.escape(blank[at:]) for at in range(min(len(blank), 40) + 1)) + ")"


def _any_start(blank: str) -> str:
    return "(?:" + "|".join(re.escape(blank[: len(blank) - at]) for at in range(min(len(blank), 40) + 1)) + ")"


def _ended(style: Style, body: str) -> str:
    """Return an answer's text up to the token that ends it, without what the template writes behind."""
    if body.endswith(style.tail):
        return body[: len(body) - len(style.tail)] + (style.ending if style.tail_ends else "")
    ends = [found.end() for found in style.special.finditer(body)]
    if not ends or body[ends[-1] :].strip():
        raise Unfit(RefusalReason.END, "an answer does not end with a special token")
    return body[: ends[-1]]


def _after_prompt(tokenizer: Any, style: Style, ask: Ask, answer: Turn) -> Side:
    """Return a side whose thoughts its template drops: they stand after the generation prompt."""
    bare = split_thoughts(answer)
    _, whole = side_of(tokenizer, style, ask, dataclasses.replace(answer, content=bare.content, reasoning=None))
    start = without_closed(ask.start)
    told = style.lead.strip() and not is_empty_thought(style.lead)
    if answer.tool_calls is not None or (told and not opens_thoughts(start)):
        raise Unfit(RefusalReason.THOUGHTS, "an answer has thoughts, which the template has no place for")
    ending = style.ending if style.tail_ends else ""
    if not whole.endswith(bare.content.strip() + ending):
        raise Unfit(RefusalReason.ANSWER_ALTERED, f"the answer {bare.content[:60]!r} does not end as other answers do")
    return start, start + written_thoughts(answer, start).rstrip() + ending
