"""Signatures of pairs whose prompt and sides have other names, of every prompt with every two sides."""

from __future__ import annotations

from ratchet.plan.signatures.signature import Signature, known

_PROMPTS = ("prompt", "question", "instruction", "input", "query")
_SIDES: tuple[tuple[str, str], ...] = (
    ("preferred", "dispreferred"),
    ("preferred", "rejected"),
    ("selected", "rejected"),
    ("accepted", "rejected"),
    ("accept", "reject"),
    ("better", "worse"),
    ("good", "bad"),
    ("win", "lose"),
    ("y_w", "y_l"),
    ("response_w", "response_l"),
    ("answer_w", "answer_l"),
    ("output_w", "output_l"),
    ("chosen_response", "rejected_response"),
    ("preferred_response", "rejected_response"),
    ("preferred_response", "dispreferred_response"),
    ("preferred_output", "non_preferred_output"),
    ("better_response", "worse_response"),
    ("better_answer", "worse_answer"),
    ("good_response", "bad_response"),
    ("good_answer", "bad_answer"),
    ("winning_response", "losing_response"),
    ("correct_response", "incorrect_response"),
    ("chosen_answer", "rejected_answer"),
    ("chosen_output", "rejected_output"),
    ("chosen_text", "rejected_text"),
    ("chosen_completion", "rejected_completion"),
    ("response_chosen", "response_rejected"),
    ("answer_chosen", "answer_rejected"),
    ("answer", "rejected_answer"),
    ("output", "rejected_output"),
    ("completion", "rejected_completion"),
    ("text", "rejected_text"),
)


def _named(prompt: str, chosen: str, rejected: str) -> Signature:
    asked = ("messages", "conversations", *(name for name in _PROMPTS if name != prompt))
    # A prompt may be messages. What has another name is a text, and may have turns before it.
    spoken = prompt == "prompt"
    field = "prompt" if spoken else "instruction"
    more = {} if spoken else {"history?": "history", **({"input?": "input"} if prompt == "instruction" else {})}
    without = tuple(name for name in asked if f"{name}?" not in more)
    return known(
        f"{prompt}_{chosen}_{rejected}",
        "pair" if spoken else "alpaca",
        {field: prompt, **more, "chosen": chosen, "rejected": rejected, "system?": "system"},
        f"pairs with `{chosen}` and `{rejected}`",
        without=(*without, *(name for name in ("chosen", "rejected") if name not in {chosen, rejected})),
    )


SIDES: tuple[Signature, ...] = tuple(_named(prompt, *sides) for prompt in _PROMPTS for sides in _SIDES)
