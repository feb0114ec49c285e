"""Why pairs cannot be rendered or encoded."""

from __future__ import annotations

import dataclasses
import enum


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
