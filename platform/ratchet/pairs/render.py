"""Pairs as text, through the tokenizer's own chat template.

What a template does is found once (`style`). An answer trains as the model would write it after its generation prompt
(`sides`). A pair that comes out otherwise is refused with a reason.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any

from ratchet.pairs.checks import Unfit
from ratchet.pairs.pair import PreferencePair, Turn
from ratchet.pairs.refusals import Refusal, RefusalReason
from ratchet.pairs.sides import Ask, applied, side_of, tell_opened
from ratchet.pairs.style import Style, messages_of
from ratchet.pairs.thoughts import common_start, has_thoughts, opens_thoughts, split_thoughts


@dataclasses.dataclass(frozen=True)
class Rendered:
    """Texts to encode; `rejected` is None for a demonstration."""

    prompt: str
    chosen: str
    rejected: str | None


def render_pair(tokenizer: Any, style: Style, pair: PreferencePair) -> Rendered | Refusal:
    """Return the texts of a pair, or why there are none."""
    answers = [turn for turn in (pair.chosen, pair.rejected) if turn is not None]
    try:
        _check_texts(style, pair, answers)
        ask = _asked(tokenizer, style, pair)
        sides = [side_of(tokenizer, style, ask, answer) for answer in answers]
    except Unfit as unfit:
        return Refusal(RefusalReason(unfit.reason), unfit.detail)
    plain = [one for one in answers if not (one.reasoning or one.tool_calls or has_thoughts(one.content))]
    if plain and opens_thoughts(ask.start):
        tell_opened(str(tokenizer.name_or_path))
    # Where one answer has thoughts and the other has not, the mark that opens them is no longer the prompt's.
    prompt = common_start(sides[0][0], sides[-1][0])
    return Rendered(prompt, sides[0][1], sides[1][1] if pair.rejected is not None else None)


def _check_texts(style: Style, pair: PreferencePair, answers: Sequence[Turn]) -> None:
    """Raise Unfit where a text holds a special token, or the template has no place for what a turn has."""
    for turn in (*pair.prompt, *answers):
        # The marks of an answer's thoughts are its template's own, and some tokenizers count them as special.
        bare = split_thoughts(turn) if turn.role == "assistant" else turn
        # Its ids would be those of a real mark, and a text could end a turn or begin one.
        if found := next((found for text in bare.texts if (found := style.special.search(text))), None):
            raise Unfit(RefusalReason.SPECIAL, f"the text holds {found.group()!r}")
        if turn.tool_calls is not None and style.calls is None:
            raise Unfit(RefusalReason.TOOLS, "the chat template does not write calls of tools")
        if turn.role == "tool" and not style.results:
            raise Unfit(RefusalReason.TOOLS, "the chat template does not write results of tools")
    if pair.tools is None:
        return
    if not style.tools:
        raise Unfit(RefusalReason.TOOLS, "the chat template does not write the tools that a row offers")
    if found := style.special.search(pair.tools):
        raise Unfit(RefusalReason.SPECIAL, f"the tools hold {found.group()!r}")


def _asked(tokenizer: Any, style: Style, pair: PreferencePair) -> Ask:
    messages, tools = messages_of(style, pair.prompt), None
    if pair.tools is not None:
        named = json.loads(pair.tools)
        tools = [tool if "function" in tool else {"type": "function", "function": tool} for tool in named]
    ask = Ask(pair.prompt, messages, applied(tokenizer, messages, tools, asks=True), tools)
    if not _stand_in_order(ask.start, ask.turns):
        _check_apart(tokenizer, ask)
    return ask


def _stand_in_order(start: str, turns: Sequence[Turn]) -> bool:
    """Say whether every turn's text stands in a prompt, in order; white space around it may go."""
    place = 0
    for turn in turns:
        content = turn.content.strip()
        at = start.find(content, place)
        if at < 0:
            return False
        place = at + len(content)
    return True


def _check_apart(tokenizer: Any, ask: Ask) -> None:
    """Raise Unfit unless every text of a prompt stands in it, wherever. Thoughts of earlier turns may be left out.

    Some templates write a system text into the last turn of the user, and results of tools as JSON. One that drops a
    turn drops a text in its place, too: a known one for each is tried.
    """
    # Texts that no template has of its own, and that none splits or alters.
    known = [f"Zq7vTurn{at}Z" for at in range(len(ask.messages))]
    twin = [
        {**message, "content": text if message["content"] else ""}
        for message, text in zip(ask.messages, known, strict=True)
    ]
    text = applied(tokenizer, twin, ask.tools, asks=True)
    for message, mark in zip(ask.messages, known, strict=True):
        if message["content"] and mark not in text:
            raise Unfit(RefusalReason.PROMPT_ALTERED, f"the {message['role']} turn does not appear")
    for turn in ask.turns:
        bare = split_thoughts(turn) if turn.role == "assistant" else turn
        if not any(form.strip() in ask.start for form in _forms(bare)):
            raise Unfit(
                RefusalReason.PROMPT_ALTERED, f"the {turn.role} turn {turn.content.strip()[:60]!r} is not as written"
            )


def _forms(turn: Turn) -> Iterator[str]:
    """Yield how a template may write a turn's text."""
    yield turn.content
    if turn.role == "tool":
        for plain in (True, False):
            yield json.dumps(turn.content, ensure_ascii=plain)
