"""Columns that mean something: a source that has one with values, and does not read it, would train on other data."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
from collections.abc import Mapping
from typing import Any, Literal

Gives = Literal["pairs", "pairs with scores", "demonstrations"]
_VERDICTS = {"true", "false", "0", "1", "-1", "yes", "no", "good", "bad", "correct", "incorrect", "desirable"}
_VERDICTS |= {"undesirable", "up", "down", "thumbs_up", "thumbs_down", "t", "f", "chosen", "rejected"}
_GOOD_ONES = "`where: [{column} == {value}]` trains on the good answers alone"
_NOT_THE_BAD = "`where: [{column} != {said}]` trains on the good answers alone"
_SCORED = "where: [{column} >= …]"
_SWITCHES = {"on", "off", "low", "medium", "high", "auto", "yes", "no", "true", "false"}
_EMPTY = {"", "[]", "{}", "null", "none", "nan", "n/a"}


@dataclasses.dataclass(frozen=True)
class Meaning:
    """What a column says and how it is used.

    `single`: only beside a demonstration. `verdict`: it counts where its value judges the answer. `text`: it counts
    where its value is more than the setting of a switch. `bad`: it counts where its value calls the answer bad, as all
    answers may be good ones.
    """

    what: str
    use: str
    single: bool = False
    verdict: bool = False
    text: bool = False
    bad: bool = False

    @property
    def judges(self) -> bool:
        """Whether it calls an answer good or bad."""
        return self.use in (_GOOD_ONES, _NOT_THE_BAD)


_VERDICT = Meaning("whether the answer is a good one", _GOOD_ONES, single=True, bad=True)
_MEANINGS: Mapping[str, Meaning] = {
    **dict.fromkeys(
        (
            *("rejected", "non_preferred_output", "response_rejected", "answer_rejected", "worse_response"),
            *("dispreferred", "dispreferred_response", "reject_response"),
        ),
        Meaning("a rejected answer, so the rows are pairs", "columns: {{rejected: {column}, …}}", single=True),
    ),
    **dict.fromkeys(
        ("chosen", "chosen_response", "preferred_output", "response_chosen", "better_response"),
        Meaning("a chosen answer, so the rows are pairs", "columns: {{chosen: {column}, …}}", single=True),
    ),
    **dict.fromkeys(
        ("tools", "functions", "function_definitions", "python_tools", "xml_tools"),
        Meaning("the tools that a prompt offers", "columns: {{tools: {column}, …}}"),
    ),
    **dict.fromkeys(
        ("tool_calls", "tool_call", "function_call", "function_calls"),
        Meaning("calls of tools", "put them into the messages, as `tool_calls` of the assistant's"),
    ),
    **dict.fromkeys(
        (
            *("images", "image", "img", "image_path", "image_url", "pixel_values", "videos", "video", "video_path"),
            *("audio", "audios", "audio_path"),
        ),
        Meaning("pictures or sounds, and only text is trained on", "take other data, or rows without"),
    ),
    **dict.fromkeys(
        (
            *("reasoning_content", "reasoning", "thinking", "thoughts", "thinking_content", "reasoning_trace"),
            *("chain_of_thought", "complex_cot", "thought", "thinking_trajectories", "model_reasoning"),
        ),
        Meaning(
            "the thoughts before an answer",
            "columns: {{reasoning: {column}, …}}, or `reasoning_content` of the assistant's messages",
            text=True,
        ),
    ),
    **dict.fromkeys(
        ("context", "contexts", "passage", "article", "document", "documents", "background", "knowledge"),
        Meaning("text that the question is about", "columns: {{instruction: …, input: {column}, …}}"),
    ),
    "chat_template_kwargs": Meaning(
        "what its template is given, such as a system text or tools",
        "columns: {{messages: …, system: {column}.custom_instructions, …}}",
    ),
    "enable_thinking": Meaning("whether the template thinks", "model.template_arguments: {{enable_thinking: …}}"),
    "input": Meaning("text that belongs to the prompt", "columns: {{instruction: …, input: {column}, …}}"),
    "history": Meaning("the turns before the prompt", "columns: {{instruction: …, history: {column}, …}}"),
    **dict.fromkeys(
        ("system", "system_prompt", "system_message", "system_instruction", "sys_prompt", "sys"),
        Meaning("the system text", "columns: {{system: {column}, …}}"),
    ),
    **dict.fromkeys(
        ("label", "labels", "vote", "correct", "feedback", "accepted", "preferred"),
        Meaning("whether the answer is a good one", _GOOD_ONES, single=True, verdict=True),
    ),
    **dict.fromkeys(
        (
            "kto_tag",
            "is_correct",
            "is_safe",
            "is_chosen",
            "is_good",
            "is_accepted",
            "correctness",
            "desirable",
            "is_response_safe",
        ),
        Meaning("whether the answer is a good one", _GOOD_ONES, single=True),
    ),
    **dict.fromkeys(
        (
            *("thumbs", "thumb", "thumbs_up", "thumb_up", "liked", "upvoted", "reaction", "user_feedback"),
            *("verdict", "judgement", "judgment", "approved", "is_approved", "good"),
            *("passed", "is_passed", "solved", "is_solved", "resolved", "verified", "success", "is_success"),
            *("acceptable", "is_acceptable", "is_helpful", "is_preferred", "is_desirable", "is_right"),
            *("binary_label", "kto_label", "binary_feedback", "is_liked", "is_positive", "chosen_or_rejected"),
        ),
        _VERDICT,
    ),
    **dict.fromkeys(
        (
            *("thumbs_down", "thumb_down", "disliked", "dislike", "is_disliked", "downvoted", "is_bad", "bad", "wrong"),
            *("is_wrong", "is_incorrect", "is_rejected", "is_undesirable", "undesirable", "is_harmful"),
        ),
        dataclasses.replace(_VERDICT, use=_NOT_THE_BAD),
    ),
    **dict.fromkeys(
        ("winner", "better_response_id", "overall_preference", "preference_strength", "preference"),
        Meaning("which answer is the better one", "columns: {{preference: {{column: {column}, …}}, …}}"),
    ),
    **dict.fromkeys(
        (
            *("score", "scores", "rating", "ratings", "reward", "overall_score", "quality", "quality_score"),
            *("helpfulness", "helpful", "rank", "user_rating", "human_feedback"),
        ),
        Meaning("how good the answer is", _SCORED, single=True),
    ),
    **dict.fromkeys(
        (
            *("initial_reason_steps", "prefix", "response_prefix", "answer_prefix", "prefill", "partial_answer"),
            *("assistant_prefix", "answer_prefill"),
        ),
        Meaning("the beginning of the answer, which is given", "columns: {{prefix: {column}, …}}"),
    ),
}
_BY_ITS_WORD = dataclasses.replace(_VERDICT, what=f"{_VERDICT.what}, by its word")
"""Of a column whose name says nothing: `stop` may be what stands beside `failed`."""
_SIDES = (_MEANINGS["chosen"], _MEANINGS["rejected"])
_OF_A_SIDE = Meaning(
    "the thoughts before one of the answers", "columns: {{reasoning_chosen: …, reasoning_rejected: …, …}}", text=True
)
_ONE_SIDE = {"chosen", "rejected", "preferred", "dispreferred", "good", "bad"}
_NUMBER = re.compile(r"\s*[-+]?[\d.]+\s*")
_OF_BAD = {"false": "true", "f": "t", "no": "yes", "bad": "good", "incorrect": "correct", "undesirable": "desirable"}
_OF_BAD |= {"down": "up", "thumbs_down": "thumbs_up", "unsafe": "safe", "poor": "good"}
_OF_BAD |= {"thumb_down": "thumb_up", "dislike": "like", "disliked": "liked", "downvote": "upvote", "wrong": "right"}
_OF_BAD |= {"downvoted": "upvoted", "fail": "pass", "failed": "passed", "failure": "success", "negative": "positive"}
_OF_BAD |= {"unacceptable": "acceptable", "unhelpful": "helpful", "not_helpful": "helpful", "👎": "👍", "n": "y"}
_OF_BAD |= {"disapproved": "approved", "dispreferred": "preferred", "non_preferred": "preferred", "0": "1"}
"""The word for a good answer beside each word for a bad one."""
# Other words may be the topic of an answer as well, or say something of a row.
_SURELY_BAD = {"thumbs_down", "thumb_down", "👎", "dislike", "disliked", "downvote", "downvoted", "bad", "incorrect"}
_SURELY_BAD |= {"undesirable", "rejected", "dispreferred", "non_preferred", "unacceptable", "unhelpful", "not_helpful"}
_SURELY_BAD |= {"wrong", "failed", "fail", "disapproved"}
_BAD = _SURELY_BAD | _OF_BAD.keys()
_VERDICTS |= {*_BAD, *_OF_BAD.values()}
_REJECTED = re.compile(r"rejected_(?:text|completion|answers?|outputs?|responses?|messages|conversations?)")
_SIDE_THOUGHTS = re.compile(
    r"(?:chosen|rejected)_(?:reasoning(?:_content)?|thinking|thoughts?|cot)"
    r"|(?:reasoning(?:_content)?|thinking|thoughts?|cot)_(?:chosen|rejected)"
)
_SIDE_SCORE = re.compile(
    r"(?:.*_)?(?:chosen|rejected)(?:_.*)?_(?:score|rating|reward)|.*(?:score|rating|reward)_(?:chosen|rejected)"
)


@functools.cache
def flat(name: str) -> str:
    """Return a column's name in lower case with _ for all but letters and digits: `Chosen-Rating` → `chosen_rating`."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


@functools.cache
def meaning_of(column: str, gives: Gives) -> Meaning | None:
    """Return what a column means beside rows that give pairs or demonstrations, or None where it says nothing."""
    name = flat(column.rsplit(".", 1)[-1])
    found = _MEANINGS.get(name) or (_MEANINGS["rejected"] if _REJECTED.fullmatch(name) else None)
    found = found or (_OF_A_SIDE if _SIDE_THOUGHTS.fullmatch(name) else None)
    if found is None or (found.single and gives != "demonstrations"):
        return None
    return found


def verdict_in(value: Any, gives: Gives) -> Meaning | None:
    """Return what a column means, whatever its name, that calls an answer bad by a word; None where it does not."""
    said = gives == "demonstrations" and isinstance(value, str) and _word(value) in _SURELY_BAD
    return _BY_ITS_WORD if said else None


def _word(value: str) -> str:
    """Return a word of a verdict. Signs and thumbs have no letters."""
    return flat(value[:40]) or value.strip()[:1] or ""


def is_bad(value: Any, meaning: Meaning) -> bool:
    """Say whether a verdict calls an answer bad."""
    if meaning.use == _NOT_THE_BAD:
        return (
            value is True or value == 1 or (isinstance(value, str) and _word(value) in {"true", "yes", "t", "y", "1"})
        )
    if isinstance(value, bool | int | float):
        return value in {0, -1}
    return isinstance(value, str) and (_word(value) in _BAD or value.strip() == "-1")


def says(value: Any, meaning: Meaning) -> bool:
    """Say whether a value of a column that means something has any content: null, blank and empty ones do not."""
    if meaning.bad:
        return is_bad(value, meaning)
    if meaning.verdict:
        if isinstance(value, bool):
            return True
        if isinstance(value, int | float):
            return value in {0, 1, -1}
        return isinstance(value, str) and flat(value) in _VERDICTS
    if meaning.text and (
        isinstance(value, bool | int | float) or (isinstance(value, str) and flat(value) in _SWITCHES)
    ):
        return False
    return has_content(value)


def in_sight_of(value: Any, meaning: Meaning) -> Meaning:
    """Return what a column means with the value that it holds: true or false, and words, are verdicts on an answer."""
    if meaning.use == _SCORED and (
        isinstance(value, bool) or (isinstance(value, str) and not _NUMBER.fullmatch(value))
    ):
        return dataclasses.replace(meaning, what=_VERDICT.what, use=_GOOD_ONES)
    if meaning is _MEANINGS["preference"] and (isinstance(value, bool) or _word(str(value)) in _ONE_SIDE):
        return _VERDICT  # of two answers a verdict names one
    if isinstance(value, bool) and meaning in _SIDES:
        # Whether an answer is a rejected one is false of the good ones.
        use = _GOOD_ONES if meaning is _MEANINGS["chosen"] else _GOOD_ONES.replace("{value}", "false")
        return dataclasses.replace(_MEANINGS["label"], use=use)
    return meaning


def use_of(column: str, value: Any, meaning: Meaning) -> str:
    """Return how a column with such a value is used, as a plan writes it."""
    said = json.dumps(value, ensure_ascii=False) if isinstance(value, bool | int | float | str) else "…"
    unsure = meaning == _BY_ITS_WORD or (isinstance(value, str) and _word(value) not in _OF_BAD)
    if unsure and isinstance(value, str) and meaning.use == _GOOD_ONES and is_bad(value, meaning):
        # Good ones may have another name, or more than one, as beside `rejected`.
        meaning = dataclasses.replace(meaning, use=_NOT_THE_BAD)
    return meaning.use.format(column=column, value=good_literal(value), said=said)


def good_literal(value: Any) -> str:
    """Return the value that good answers have, as `where` writes it, from that of some answer."""
    if isinstance(value, bool):
        return "true"
    if isinstance(value, str):
        good = _OF_BAD.get(_word(value), value)
        # Python writes its own true in this way, and so do the tables that it saves.
        return '"True"' if good.strip().lower() == "true" else f'"{good}"'
    return "1" if isinstance(value, int | float) else "…"


def has_content(value: Any) -> bool:
    """Say whether a value holds anything. Zero and false do."""
    if isinstance(value, str):
        return value.strip().lower() not in _EMPTY
    if isinstance(value, list | tuple):
        return any(has_content(item) for item in value)
    if isinstance(value, Mapping):
        return any(has_content(item) for item in value.values())
    return value is not None and not (isinstance(value, float) and math.isnan(value))


@functools.lru_cache(maxsize=1024)
def score_columns(columns: tuple[str, ...]) -> tuple[str, str] | None:
    """Return the columns with the scores of both sides under any spelling, or None where there are none."""
    by_name = {flat(column): column for column in columns}
    for name in ("score_chosen", "chosen_rating", *sorted(by_name)):
        if "chosen" in name and _SIDE_SCORE.fullmatch(name):
            other = name.replace("chosen", "rejected")
            if name in by_name and other in by_name:
                return by_name[name], by_name[other]
    return None
