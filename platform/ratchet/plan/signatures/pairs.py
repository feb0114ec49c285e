"""Signatures of data sets of pairs: two sides under other names, or two answers and what says which is better."""

from __future__ import annotations

from ratchet.plan.signatures.signature import Signature, known, verdict

_OTHERS = ("prompt", "question", "instruction", "conversations")
_A_OR_B = verdict(
    "winner", ("model_a", "a", "response_a", "A>B"), ("model_b", "b", "response_b", "B>A"), ("tie", "both", "neither")
)

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
        "ms_swift_rejected_response",
        "reply",
        {"messages": "messages", "rejected": "rejected_response"},
        "ms-swift, DPO",
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
        "responses_of_sides",
        "pair",
        {"prompt": "prompt", "chosen": "chosen_response", "rejected": "rejected_response", "system?": "system"},
        "pairs with `chosen_response`",
    ),
    known(
        "stack_exchange_paired",
        "pair",
        {"prompt": "question", "chosen": "response_j", "rejected": "response_k"},
        "lvwerra/stack-exchange-paired",
    ),
    known(
        "stack_exchange_answers",
        "scored",
        {"prompt": "question", "responses": "answers[*].text", "scores": "answers[*].pm_score"},
        "HuggingFaceH4/stack-exchange-preferences",
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
            "rejected": "output[1]",
        },
        "LLaMA-Factory, first ranking format (comparison_gpt4)",
        types={"output": "texts"},
        without=("chosen", "rejected"),
    ),
    known(
        "lists_of_answers",
        "pair",
        {"prompt": "prompt", "chosen": "chosen[0]", "rejected": "rejected[0]"},
        "allenai/reward-bench-2",
        types={"chosen": "texts", "rejected": "texts"},
    ),
    known(
        "pku_saferlhf",
        "annotated",
        {
            "prompt": "prompt",
            "output_1": "response_0",
            "output_2": "response_1",
            "preference": verdict("better_response_id", (0,), (1,)),
        },
        "PKU-Alignment/PKU-SafeRLHF, by helpfulness",
    ),
    known(
        "shp",
        "annotated",
        {
            "prompt": "history",
            "output_1": "human_ref_A",
            "output_2": "human_ref_B",
            "preference": verdict("labels", (1,), (0,)),
        },
        "stanfordnlp/SHP",
    ),
    known(
        "helpsteer2_preference",
        "annotated",
        {
            "prompt": "prompt",
            "output_1": "response_1",
            "output_2": "response_2",
            "preference": verdict("preference_strength", (-3, -2, -1), (1, 2, 3), (0,)),
        },
        "nvidia/HelpSteer2, preference",
    ),
    known(
        "helpsteer3",
        "annotated",
        {
            "prompt": "context",
            "output_1": "response1",
            "output_2": "response2",
            "preference": verdict("overall_preference", (-3, -2, -1), (1, 2, 3), (0,)),
        },
        "nvidia/HelpSteer3, preference",
    ),
    known(
        "nectar",
        "scored",
        {"prompt": "prompt", "responses": "answers[*].answer", "scores": "-answers[*].rank"},
        "berkeley-nest/Nectar: rank 1 is the best",
    ),
    known(
        "webgpt",
        "scored",
        {
            "prompt": "question.full_text",
            "responses": ("answer_0", "answer_1"),
            "scores": ("score_0", "score_1"),
        },
        "openai/webgpt_comparisons",
    ),
    known(
        "arena",
        "annotated",
        {
            "output_1": "conversation_a",
            "output_2": "conversation_b",
            "preference": verdict(
                "winner", ("model_a",), ("model_b",), ("tie", "tie (bothbad)", "both_bad", "tie (both bad)")
            ),
        },
        "lmsys/chatbot_arena_conversations, lmarena-ai/arena-human-preference-140k",
    ),
    known(
        "response_a_b",
        "annotated",
        {"prompt": "prompt", "output_1": "response_a", "output_2": "response_b", "preference": _A_OR_B},
        "two answers and a winner",
    ),
    known(
        "question_a_b",
        "annotated",
        {"prompt": "question", "output_1": "response_a", "output_2": "response_b", "preference": _A_OR_B},
        "two answers and a winner",
    ),
    known(
        "preference_collection",
        "annotated",
        {
            "prompt": "orig_instruction",
            "output_1": "orig_response_A",
            "output_2": "orig_response_B",
            "preference": verdict("orig_preference", ("A",), ("B",), ("TIE",)),
        },
        "prometheus-eval/Preference-Collection",
    ),
    known(
        "distilabel_ratings",
        "scored",
        {"prompt": "instruction", "responses": "generations", "scores": "ratings"},
        "distilabel, UltraFeedback task",
        without=("chosen", "rejected"),
    ),
)
