"""Pairs as text, through the tokenizer's own chat template.

What a template does is found once (`style`). An answer trains as the model would write it after its generation prompt,
and prompt and answer together are the template's own text of the conversation. The one exception are thoughts that a
template drops: they are written after the generation prompt. A pair that comes out otherwise is refused with a reason.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from ratchet.pairs.checks import Unfit
from ratchet.pairs.pair import PreferencePair, Turn
from ratchet.pairs.style import Style, apply_messages, messages_of
from ratchet.pairs.thoughts import (
    OPENED,
    closes_thoughts,
    common_start,
    has_thoughts,
    is_empty_thought,
    never_end,
    opens_thoughts,
    split_thoughts,
    written_thoughts,
)

_SAID, _THOUGHT = "Zq7vAnswerX9", "Zq7vThoughtX9"
"""Texts that no template has of its own, and that none splits or alters."""


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
    THOUGHTS = "thoughts do not fit the template"
    TOOLS = "template drops tools"
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


@dataclasses.dataclass(frozen=True)
class _Ask:
    """A prompt: its turns, what the template gets of it, its text with the generation prompt, and its tools."""

    turns: Sequence[Turn]
    messages: list[dict[str, Any]]
    start: str
    tools: list[Any] | None


def render_pair(tokenizer: Any, style: Style, pair: PreferencePair) -> Rendered | Refusal:
    """Return the texts of a pair, or why there are none."""
    answers = [turn for turn in (pair.chosen, pair.rejected) if turn is not None]
    try:
        _check_texts(style, pair, answers)
        ask = _asked(tokenizer, style, pair)
        sides = [_side(tokenizer, style, ask, answer) for answer in answers]
    except Unfit as unfit:
        return Refusal(RefusalReason(unfit.reason), unfit.detail)
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


def _asked(tokenizer: Any, style: Style, pair: PreferencePair) -> _Ask:
    messages, tools = messages_of(style, pair.prompt), None
    if pair.tools is not None:
        named = json.loads(pair.tools)
        tools = [tool if "function" in tool else {"type": "function", "function": tool} for tool in named]
    ask = _Ask(pair.prompt, messages, _applied(tokenizer, messages, tools, asks=True), tools)
    if not _stand_in_order(ask.start, ask.turns):
        _check_apart(tokenizer, ask)
    return ask


def _applied(tokenizer: Any, messages: Sequence[Any], tools: Sequence[Any] | None, *, asks: bool) -> str:
    try:
        return apply_messages(tokenizer, messages, tools, asks=asks)
    except Exception as error:  # a template can raise whatever its expressions raise
        raise Unfit(RefusalReason.REFUSED, str(error)) from error


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


def _check_apart(tokenizer: Any, ask: _Ask) -> None:
    """Raise Unfit unless every text of a prompt stands in it, wherever. Thoughts of earlier turns may be left out.

    Some templates write a system text into the last turn of the user, and results of tools as JSON. One that drops a
    turn drops a text in its place, too: a known one for each is tried.
    """
    known = [f"{_SAID}{at}Z" for at in range(len(ask.messages))]
    twin = [
        {**message, "content": text if message["content"] else ""}
        for message, text in zip(ask.messages, known, strict=True)
    ]
    text = _applied(tokenizer, twin, ask.tools, asks=True)
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


def _side(tokenizer: Any, style: Style, ask: _Ask, answer: Turn) -> tuple[str, str]:
    """Return the prompt's text and that of prompt and answer, up to the end of the answer."""
    if not answer.content.strip() and answer.tool_calls is None:
        raise Unfit(RefusalReason.EMPTY_ANSWER, "an answer has no text")
    thinks = answer.reasoning is not None or has_thoughts(answer.content)
    if style.thoughts is not None:
        if never_end(answer.content):
            raise Unfit(RefusalReason.THOUGHTS, "an answer begins with thoughts that have no end")
    elif thinks and not style.raw:
        return _after_prompt(tokenizer, style, ask, answer)
    elif answer.reasoning is not None:
        # The template knows of no thoughts, so that they are text to it, as they are to the model.
        answer = dataclasses.replace(answer, content=written_thoughts(answer, ""), reasoning=None)
    (message,) = messages_of(dataclasses.replace(style, folds=False, merges=False), [answer])
    full = _applied(tokenizer, [*ask.messages, message], ask.tools, asks=False)
    if not thinks and answer.tool_calls is None:
        head = ask.start.removesuffix(style.opened)
        for content in (answer.content, answer.content.strip()):
            # As written first: most templates keep the blank space, and then nothing is lost.
            if full == head + style.lead + content + style.tail:
                ending = style.ending if style.tail_ends else ""
                return _prompt_of(head, style.lead), head + style.lead + content + ending
    return _by_twin(tokenizer, style, ask, message, full)


def _prompt_of(head: str, lead: str) -> str:
    """Return the prompt of an answer without thoughts: an empty thought that the template writes is part of it."""
    return head + lead if is_empty_thought(lead) else head


def _by_twin(tokenizer: Any, style: Style, ask: _Ask, message: dict[str, Any], full: str) -> tuple[str, str]:
    """Return a side whose text is the template's, found by rendering the same conversation with a known answer.

    Raises Unfit unless the answer's texts stand where the known ones do, and nothing else differs.
    """
    thought = message.get(style.thoughts) if style.thoughts is not None else None
    said = message["content"]
    known = {**message, **({"content": _SAID} if said else {})}
    if thought is not None:
        known[str(style.thoughts)] = _THOUGHT
    twin = _applied(tokenizer, [*ask.messages, known], ask.tools, asks=False)
    pieces = _pieces(twin, [mark for mark, text in ((_THOUGHT, thought), (_SAID, said)) if text])
    texts = [text for text in (thought, said) if text]
    if not _made_of(full, pieces, texts):
        raise Unfit(RefusalReason.ANSWER_ALTERED, f"the answer {(said or full)[:60]!r} is not as written")
    # Beside thoughts that stand in the text itself, the template has opened what the text begins with.
    head = common_start(ask.start, full if thought is None else pieces[0])
    opened = ask.start[len(head) :]
    _check_boundary(ask, head, opened, thinks=thought is not None)
    body = full[len(head) :]
    if thought is None:
        lead = pieces[0][len(head) :] if said else style.lead
        head = head + lead if is_empty_thought(lead) and full.startswith(head + lead) else head
    return head, full[: len(full) - len(body)] + _ended(style, body)


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


def _check_boundary(ask: _Ask, head: str, opened: str, *, thinks: bool) -> None:
    """Raise Unfit where a conversation goes on otherwise than its generation prompt."""
    # Only marks and blanks may be lost, so that every text of the prompt is before the answer.
    if not OPENED.fullmatch(opened):
        raise Unfit(RefusalReason.PROMPT_ALTERED, f"the answer does not follow {ask.start[-40:]!r}")
    if thinks and closes_thoughts(opened):
        what = "an answer has thoughts, and the generation prompt closes them: template_arguments turn thinking off"
        raise Unfit(RefusalReason.THOUGHTS, what)


def _ended(style: Style, body: str) -> str:
    """Return an answer's text up to the token that ends it, without what the template writes behind."""
    if body.endswith(style.tail):
        return body[: len(body) - len(style.tail)] + (style.ending if style.tail_ends else "")
    ends = [found.end() for found in style.special.finditer(body)]
    if not ends or body[ends[-1] :].strip():
        raise Unfit(RefusalReason.END, "an answer does not end with a special token")
    return body[: ends[-1]]


def _after_prompt(tokenizer: Any, style: Style, ask: _Ask, answer: Turn) -> tuple[str, str]:
    """Return a side whose thoughts its template drops: they stand after the generation prompt."""
    if closes_thoughts(ask.start[len(ask.start.rstrip()) - 24 :]) or answer.tool_calls is not None:
        what = "an answer has thoughts, which the template drops, and the generation prompt has no place for them"
        raise Unfit(RefusalReason.THOUGHTS, what)
    bare = split_thoughts(answer)
    plain = dataclasses.replace(answer, content=bare.content, reasoning=None)
    prompt, whole = _side(tokenizer, style, ask, plain)
    ending = whole[whole.rindex(plain.content.strip()) + len(plain.content.strip()) :]
    if not ask.start.startswith(prompt.removesuffix(style.lead if is_empty_thought(style.lead) else "")):
        raise Unfit(RefusalReason.THOUGHTS, "an answer has thoughts, and the template writes answers elsewhere")
    written = written_thoughts(answer, ask.start)
    if not opens_thoughts(ask.start) and style.lead.strip() and not is_empty_thought(style.lead):
        raise Unfit(RefusalReason.THOUGHTS, "an answer has thoughts, and the template has no place for them")
    return ask.start, ask.start + written.rstrip() + ending
