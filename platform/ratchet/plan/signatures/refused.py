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
        "segments",
        ("segments",),
        "these are pieces of text, each marked as trained or not: give the dialogue as `messages`",
        "axolotl, input_output",
        types={"segments": "list"},
        without=("messages", "conversations", *_SIDES),
    ),
    refused(
        "rated_conversations",
        ("conv_A", "conv_B", "conv_A_rating", "conv_B_rating"),
        "these are whole conversations with a rating each: write the better one into `chosen`, the worse into "
        "`rejected`",
        "llm-blender/Unified-Feedback",
    ),
    refused(
        "embedding_triplets",
        ("anchor", "positive"),
        "these are texts that are near to each other, for a model of embeddings",
        "sentence-transformers",
        without=("prompt", "messages"),
    ),
    refused(
        "message_trees",
        ("message_id", "role", "text"),
        "these are single messages of trees: join each path into `messages`, or take one of the sets of pairs that "
        "others made of them",
        "OpenAssistant/oasst1, oasst2",
    ),
    refused(
        "translations",
        ("translation",),
        "these are texts in two languages, and no prompt that asks for a translation: write the prompts",
        "WMT and OPUS sets",
        types={"translation": "object"},
        without=("prompt", "instruction", "messages", *_SIDES),
    ),
    refused(
        "calls_as_answers",
        ("query", "answers", "tools"),
        "these are questions with calls of tools as JSON: write each as `messages`, the calls as `tool_calls` of the "
        "assistant's, and keep `tools`",
        "Salesforce/xlam-function-calling-60k",
        types={"answers": ("text", "list")},
        without=("messages", *_SIDES),
    ),
    refused(
        "dialogue_as_text",
        ("chat",),
        "these are dialogues written as one text (`USER: … ASSISTANT: …`): write each as `messages`",
        "glaiveai/glaive-function-calling-v2",
        types={"chat": "text"},
        without=("messages", "conversations", "prompt", "question", "instruction", *_SIDES),
    ),
    refused(
        "transcripts",
        ("transcript",),
        "these are dialogues written as one text (`Human: … Assistant: …`), and no pair: write each as `messages`",
        "Anthropic/hh-rlhf, red-team-attempts",
        types={"transcript": "text"},
        without=("messages", "conversations", "prompt", "question", "instruction", *_SIDES),
    ),
    refused(
        "embedding_messages",
        ("messages", "positive_messages"),
        "these are texts that are near to each other, for a model of embeddings or one that ranks",
        "ms-swift, embedding and reranker",
    ),
    refused(
        "prm800k",
        ("question", "label"),
        "these are steps of an answer, each marked right or wrong, for a reward model of steps",
        "openai/prm800k",
        types={"question": "object", "label": "object"},
    ),
)

# These say little of themselves, so all others come before them.
VAGUE: tuple[Signature, ...] = (
    refused(
        "text_alone",
        ("text",),
        "these are whole texts: it is not said where the prompt ends and the answer begins",
        "TRL, language modelling; timdettmers/openassistant-guanaco",
        without=("prompt", "question", "instruction", "input", "messages", "conversations", "label", "code", *_SIDES),
    ),
    refused(
        "summaries",
        ("summary",),
        "these are texts and their summaries, and no prompt that asks for one: write the prompts",
        "axolotl, summarizetldr; CNN/DailyMail, XSum, SAMSum",
        without=("prompt", "instruction", "question", "messages", "conversations", *_SIDES),
    ),
    refused(
        "text_classes",
        ("text", "label"),
        "these are texts with a class, and no answer: write prompts and answers",
        "stanfordnlp/imdb, ag_news",
        without=("prompt", "instruction", "question", "messages", "conversations", *_SIDES),
    ),
)
