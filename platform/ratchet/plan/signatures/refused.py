"""Signatures of data sets that are known and cannot be used as they are, with why and what to do."""

from __future__ import annotations

from ratchet.plan.signatures.signature import Signature, refused

_SIDES = ("chosen", "rejected", "completion", "response", "output", "answer")

REFUSED: tuple[Signature, ...] = (
    refused(
        "helpsteer2_ratings",
        ("prompt", "response", "helpfulness"),
        "these are single answers with ratings, two rows for each prompt, not pairs: take HelpSteer2's preference "
        "files, or train on the good ones alone with `where: [helpfulness >= 4]`",
        "nvidia/HelpSteer, nvidia/HelpSteer2",
    ),
    refused(
        "stepwise",
        ("prompt", "completions", "labels"),
        "these are steps of an answer, each marked right or wrong, for a reward model of steps",
        "TRL, stepwise supervision; PRM800K",
        types={"completions": "texts"},
    ),
    refused(
        "summarize_feedback",
        ("info", "summaries", "choice"),
        "these are posts with two summaries, and no prompt that asks for one: write prompts, or take the post alone "
        "with `columns: {prompt: info.post, output_1: summaries[0].text, output_2: summaries[1].text, preference: "
        "{column: choice, first: [0], second: [1]}}`",
        "openai/summarize_from_feedback",
    ),
    refused(
        "arena_lists",
        ("prompt", "response_a", "response_b", "winner_model_a", "winner_model_b"),
        "these are dialogues whose turns lie in three lists; rows of one exchange are read with `columns: {prompt: "
        "prompt[0], responses: [response_a[0], response_b[0]], scores: [winner_model_a, winner_model_b]}`",
        "lmsys/lmsys-arena-human-preference-55k",
    ),
    refused(
        "text_alone",
        ("text",),
        "these are whole texts: it is not said where the prompt ends and the answer begins",
        "TRL, language modelling; timdettmers/openassistant-guanaco",
        without=("prompt", "question", "instruction", "input", "messages", "conversations", "label", *_SIDES),
    ),
)
