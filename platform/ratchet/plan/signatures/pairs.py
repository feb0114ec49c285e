"""Signatures of data sets of pairs: a better and a worse answer, under other names or in other forms."""

from __future__ import annotations

from ratchet.plan.signatures.signature import Signature, known

_OTHERS = ("prompt", "question", "instruction", "conversations")

PAIRS: tuple[Signature, ...] = (
    known(
        "openai",
        "sharegpt",
        {
            "messages": "input.messages",
            "chosen": "preferred_output",
            "rejected": "non_preferred_output",
            "tools?": "input.tools",
        },
        "OpenAI's preference format, also of Azure and Fireworks",
    ),
    known(
        "messages_chosen_response",
        "sharegpt",
        {"messages": "messages", "chosen": "chosen_response", "rejected": "rejected_response", "system?": "system"},
        "nvidia/When2Call, preference",
        types={"chosen_response": ("turn", "text"), "rejected_response": ("turn", "text")},
    ),
    known(
        "ms_swift_rejected_response",
        "reply",
        {"messages": "messages", "rejected": "rejected_response"},
        "ms-swift, DPO",
        without=("chosen_response", "chosen"),
    ),
    known(
        "spin",
        "implicit_prompt",
        {"chosen": "real", "rejected": "generated"},
        "UCLA-AGI/SPIN_iter0",
        types={"real": "turns", "generated": "turns"},
    ),
    known(
        "ms_swift_rejected_messages",
        "reply",
        {"messages": "messages", "rejected": "rejected_messages"},
        "ms-swift, DPO",
    ),
    known(
        "ms_swift_query_rejected",
        "alpaca",
        {
            "instruction": "query",
            "history?": "history",
            "system?": "system",
            "chosen": "response",
            "rejected": "rejected_response",
        },
        "ms-swift, query and response",
    ),
    known(
        "axolotl_messages",
        "sharegpt",
        {"messages": "messages", "chosen": "chosen", "rejected": "rejected", "system?": "system"},
        "axolotl, chat_template.default",
        types={"chosen": ("turn", "text"), "rejected": ("turn", "text")},
        without=_OTHERS,
    ),
    known(
        "conversation_sides",
        "sharegpt",
        {"messages": "conversation", "chosen": "chosen", "rejected": "rejected", "system?": "system"},
        "as ShareGPT's pairs, with `conversation`",
        types={"chosen": ("turn", "text"), "rejected": ("turn", "text")},
        without=_OTHERS,
    ),
    known(
        "ultrainteract",
        "sharegpt",
        {"messages": "trajectory", "chosen": "chosen", "rejected": "rejected"},
        "openbmb/UltraInteract_pair",
    ),
    known(
        "step_dpo",
        "pair",
        {"prompt": "prompt", "prefix": "initial_reason_steps", "chosen": "chosen", "rejected": "rejected"},
        "xinlai/Math-Step-DPO-10K",
    ),
    known(
        "input_pair",
        "pair",
        {"prompt": "input", "chosen": "chosen", "rejected": "rejected", "system?": "system"},
        "argilla/distilabel-intel-orca-dpo-pairs; axolotl, chatml.icr",
        without=(*_OTHERS, "messages"),
    ),
    known(
        "query_pair",
        "pair",
        {"prompt": "query", "chosen": "chosen", "rejected": "rejected", "system?": "system"},
        "pairs with `query`",
        without=(*_OTHERS, "messages"),
    ),
    known(
        "intel_orca_old",
        "pair",
        {"prompt": "question", "chosen": "chatgpt", "rejected": "llama2-13b-chat", "system?": "system"},
        "Intel/orca_dpo_pairs, first columns",
    ),
    known(
        "nemo_aligner",
        "scored",
        {
            "prompt": "prompt",
            "chosen": "chosen_response",
            "rejected": "rejected_response",
            "score_chosen": "chosen_reward",
            "score_rejected": "rejected_reward",
        },
        "NeMo-Aligner, DPO",
    ),
    known(
        "argilla_avg_rating",
        "scored",
        {
            "instruction": "instruction",
            "chosen": "chosen_response",
            "rejected": "rejected_response",
            "score_chosen": "chosen_avg_rating",
            "score_rejected": "rejected_avg_rating",
        },
        "argilla/ultrafeedback-binarized-preferences",
    ),
    known(
        "argilla_rating",
        "scored",
        {
            "instruction": "instruction",
            "chosen": "chosen_response",
            "rejected": "rejected_response",
            "score_chosen": "chosen_rating",
            "score_rejected": "rejected_rating",
        },
        "argilla/distilabel-math-preference-dpo",
    ),
    known(
        "argilla",
        "alpaca",
        {
            "instruction": "instruction",
            "input?": "input",
            "system?": "system",
            "chosen": "chosen_response",
            "rejected": "rejected_response",
        },
        "axolotl, chatml.argilla; Reward-Aira",
    ),
    known(
        "stack_exchange_paired",
        "pair",
        {"prompt": "question", "chosen": "response_j", "rejected": "response_k"},
        "lvwerra/stack-exchange-paired",
    ),
    known(
        "llama_factory_ranked",
        "alpaca",
        {
            "instruction": "instruction",
            "input?": "input",
            "history?": "history",
            "system?": "system",
            "chosen": "output[0]",
            "rejected": "output[-1]",  # the best comes first, the worst last
        },
        "LLaMA-Factory, first ranking format (comparison_gpt4)",
        types={"output": "texts"},
        without=("chosen", "rejected"),
    ),
    known(
        "lists_of_answers",
        "pair",
        {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"},
        "allenai/reward-bench-2",
        types={"chosen": "texts", "rejected": "texts"},
    ),
    known(
        "torchtune",
        "implicit_prompt",
        {"chosen": "chosen_conversations", "rejected": "rejected_conversations"},
        "torchtune, preference",
    ),
    known(
        "lmflow",
        "implicit_prompt",
        {"chosen": "chosen.messages", "rejected": "rejected.messages", "system?": "chosen.system"},
        "LMFlow, paired conversations",
        repeats=("rejected.system",),
    ),
    known(
        "helpsteer3_edit_quality",
        "pair",
        {"prompt": "context", "chosen": "good_edited_response", "rejected": "bad_edited_response"},
        "nvidia/HelpSteer3, quality of edits",
    ),
    known(
        "helpsteer3_edit",
        "pair",
        {"prompt": "context", "chosen": "edited_response", "rejected": "original_response"},
        "nvidia/HelpSteer3, edits",
        without=("good_edited_response",),
    ),
)
