"""Signatures of data sets of demonstrations: a question and its answer under other names, or a dialogue."""

from __future__ import annotations

from ratchet.plan.signatures.signature import Signature, known

_SIDES = ("chosen", "rejected", "rejected_response", "rejected_messages", "messages", "conversations")


def _asked(name: str, prompt: str, answer: str, seen: str, *, without: tuple[str, ...] = ()) -> Signature:
    """Return a signature of one prompt and one answer, perhaps with a system text."""
    system = "system_prompt" if name == "openorca" else "system"
    columns = {"prompt": prompt, "completion": answer, "system?": system}
    return known(name, "instruction", columns, seen, without=(*_SIDES, *without))


WITH_THOUGHTS: tuple[Signature, ...] = tuple(
    known(
        f"{prompt}_{answer}_with_thoughts",
        "instruction",
        {"prompt": prompt, "completion": answer, "reasoning": "reasoning_content", "system?": "system"},
        "Congliu/Chinese-DeepSeek-R1-Distill-data-110k, and answers saved from an API of models that think",
        types={"reasoning_content": "text"},
        without=_SIDES,
    )
    for prompt in ("prompt", "question", "instruction", "query", "problem", "input")
    for answer in ("answer", "response", "completion", "output", "content", "solution")
)
"""A question and an answer with what APIs of models that think give beside it."""

DEMONSTRATIONS: tuple[Signature, ...] = (
    known(
        "lima",
        "instruction",
        {"messages": "conversations"},
        "GAIR/lima",
        types={"conversations": "texts"},
        without=_SIDES[:4],
    ),
    known(
        "dialogue",
        "instruction",
        {"messages": "conversation", "system?": "system"},
        "allenai/WildChat, lmsys/lmsys-chat-1m, LDJnr/Capybara",
        types={"conversation": "turns"},
        without=(*_SIDES, "instruction"),
    ),
    *(
        known(
            f"dialogue_in_{column}",
            "instruction",
            {"messages": column, "system?": "system"},
            "openchat's `items`, UltraChat's `data`, and other names of dialogues",
            types={column: ("turns", "texts") if column == "data" else "turns"},
            without=(*_SIDES, "instruction", "conversation", "prompt", "question"),
        )
        for column in ("items", "data", "dialogue", "dialog", "chat", "turns", "chat_messages")
    ),
    *WITH_THOUGHTS,
    known(
        "orca_chat",
        "instruction",
        {"messages": "conversation", "system?": "instruction"},
        "shahules786/orca-chat",
        types={"conversation": "turns"},
        without=_SIDES,
    ),
    known(
        "dolly",
        "instruction",
        {"instruction": "instruction", "input?": "context", "completion": "response"},
        "databricks/databricks-dolly-15k",
        types={"context": "text"},
        without=(*_SIDES, "input"),
    ),
    known(
        "squad",
        "instruction",
        {"instruction": "question", "input": "context", "completion": "answers.text[0]"},
        "rajpurkar/squad",
        types={"answers": ("object", "text")},
        without=_SIDES,
    ),
    known(
        "question_about_text",
        "instruction",
        {"instruction": "question", "input": "context", "completion": "answer"},
        "axolotl, context_qa; a question about a text",
        types={"answer": "text"},
        without=(*_SIDES, "choices", "options"),
    ),
    known(
        "ms_swift_query",
        "instruction",
        {"instruction": "query", "history": "history", "completion": "response", "system?": "system"},
        "ms-swift, query and response with history",
        without=_SIDES,
    ),
    _asked("openorca", "question", "response", "Open-Orca/OpenOrca"),
    _asked("magicoder", "problem", "solution", "ise-uiuc/Magicoder-OSS-Instruct-75K"),
    _asked("openmathinstruct_1", "question", "generated_solution", "nvidia/OpenMathInstruct-1"),
    _asked("openmathinstruct_2", "problem", "generated_solution", "nvidia/OpenMathInstruct-2"),
    known(
        "vertex_chat",
        "instruction",
        {"messages": "contents", "system?": "systemInstruction.parts[0].text"},
        "Vertex AI, tuning of Gemini models",
        types={"contents": ("turns", "turn")},
        without=("completions",),
    ),
    _asked("firefly", "input", "target", "YeungNLP/firefly-train-1.1M"),
    _asked(
        "nemotron", "input", "output", "nvidia/Llama-Nemotron-Post-Training-Dataset", without=("instruction", "prompt")
    ),
    _asked("flan", "inputs", "targets", "Muennighoff/flan, bigscience/P3"),
    _asked("metharme", "prompt", "generation", "axolotl, metharme"),
    _asked("prompt_output", "prompt", "output", "a prompt and an output", without=("instruction", "choices")),
    _asked("prompt_answer", "prompt", "answer", "a prompt and an answer", without=("choices", "options", "endings")),
    _asked("query_answer", "query", "answer", "a query and an answer", without=("choices", "options", "endings")),
    _asked("question_solution", "question", "solution", "GAIR/LIMO: a question and its solution", without=("choices",)),
    _asked("question_output", "question", "output", "a question and an output", without=("choices",)),
    _asked(
        "input_response", "input", "response", "an input and a response", without=("instruction", "prompt", "question")
    ),
    _asked("user_assistant", "user", "assistant", "one exchange of a user and an assistant"),
    _asked("human_assistant", "human", "assistant", "one exchange of a person and an assistant"),
    known(
        "instruction_completion",
        "instruction",
        {"instruction": "instruction", "input?": "input", "completion": "completion", "system?": "system"},
        "axolotl, kto's and ORPO's columns without a verdict",
        without=_SIDES,
    ),
    known(
        "instruction_answer",
        "instruction",
        {"instruction": "instruction", "input?": "input", "completion": "answer", "system?": "system"},
        "an instruction and an answer",
        types={"answer": "text"},
        without=(*_SIDES, "choices", "options", "output", "response", "completion"),
    ),
    known(
        "trl_prompt_completion",
        "instruction",
        {"prompt": "prompt", "completion": "completion"},
        "TRL, conversational prompt and completion",
        types={"prompt": ("turns", "turn"), "completion": ("turns", "turn")},
        without=_SIDES,
    ),
    known(
        "tldr",
        "instruction",
        {"prompt": "prompt", "completion": "label"},
        "CarperAI/openai_summarize_tldr",
        types={"label": "text"},
        without=(*_SIDES, "response", "completion", "output", "answer", "text", "responses", "completions"),
    ),
    _asked("cosmopedia", "prompt", "text", "HuggingFaceTB/cosmopedia", without=("response", "completion", "output")),
)
