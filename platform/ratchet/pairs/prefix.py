"""Answers whose beginning is given: a prompt that ends with the assistant's turn, which the answers go on from.

The beginning and an answer are one text to the template and the tokenizer. What is trained and scored is what follows
the beginning; where a token holds characters of both, it is the answer's, as between a prompt and an answer.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ratchet.pairs.checks import Reason, Unfit, check_text
from ratchet.pairs.pair import PreferencePair, Turn
from ratchet.pairs.refusals import Refusal, RefusalReason
from ratchet.pairs.render import Rendered, render_pair
from ratchet.pairs.style import Style
from ratchet.pairs.thoughts import has_thoughts, is_mark, never_end, split_thoughts

_KNOWN = Turn("assistant", "Zq7vAnswerX9", "Zq7vThoughtX9")
"""Texts that no template has of its own, and that none splits or alters."""


def given_start(pair: PreferencePair) -> str | None:
    """Return the beginning of the answers that a prompt gives, None where it gives none."""
    last = pair.prompt[-1]
    return last.content if last.role == "assistant" else None


def with_start(pair: PreferencePair, start: str) -> PreferencePair:
    """Return a pair whose answers go on from `start`. Raises Unfit where they cannot."""
    check_text(start, "prefix")
    if any(turn is not None and turn.reasoning is not None for turn in (pair.chosen, pair.rejected)):
        raise Unfit(Reason.MESSAGES, "an answer has thoughts of its own, and a prefix stands before it")
    return dataclasses.replace(pair, prompt=(*pair.prompt, Turn("assistant", start)))


def render_whole(tokenizer: Any, style: Style, pair: PreferencePair) -> Rendered | Refusal:
    """Return the texts of a pair, the given beginning of its answers in the prompt, or why there are none."""
    start = given_start(pair)
    if start is None:
        return render_pair(tokenizer, style, pair)
    rejected = None if pair.rejected is None else _joined(start, pair.rejected)
    whole = dataclasses.replace(
        pair, prompt=pair.prompt[:-1], chosen=_joined(start, pair.chosen), rejected=rejected, asked=None
    )
    found = render_pair(tokenizer, style, whole)
    if isinstance(found, Refusal):
        return found
    sides = [side for side in (found.chosen, found.rejected) if side is not None]
    heads = {_up_to(start, side, len(found.prompt)) for side in sides}
    head = heads.pop()
    if (head is None or heads) and is_mark(start):
        head, heads = _up_to_thoughts(tokenizer, style, whole, found), set()
    if head is None or heads:
        # A template writes thoughts in its own place, and so the marks of a beginning may stand elsewhere.
        thinks = never_end(start) or has_thoughts(start)
        reason = RefusalReason.THOUGHTS if thinks else RefusalReason.ANSWER_ALTERED
        return Refusal(reason, f"the prefix {start[:60]!r} is not as written")
    return dataclasses.replace(found, prompt=head)


def _up_to_thoughts(tokenizer: Any, style: Style, whole: PreferencePair, found: Rendered) -> str | None:
    """Return the text up to where thoughts begin, None where an answer has none there.

    A template opens thoughts in its own way, perhaps in the prompt and with marks of its own. So a known thought is
    rendered in the same place.
    """
    twin = render_pair(tokenizer, style, dataclasses.replace(whole, chosen=_KNOWN, rejected=None))
    if isinstance(twin, Refusal):
        return None
    head, known, _ = twin.chosen.partition(str(_KNOWN.reasoning))
    for turn, side in ((whole.chosen, found.chosen), (whole.rejected, found.rejected)):
        thought = None if turn is None else split_thoughts(turn).reasoning
        if turn is not None and not (known and thought and str(side).startswith(head + thought)):
            return None
    return head


def _joined(start: str, answer: Turn) -> Turn:
    return dataclasses.replace(answer, content=start + answer.content)


def _up_to(start: str, side: str, prompt: int) -> str | None:
    """Return a text up to the end of the beginning that follows its first `prompt` characters; None without one.

    A template may have written the first characters of the beginning itself, as it does where it opens thoughts.
    """
    bare = start.lstrip()
    at = side.find(bare, max(prompt - len(bare) + 1, 0))
    return None if at < 0 else side[: at + len(bare)]
