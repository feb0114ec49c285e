"""Families of chat models, as facts of what their templates render: marks of roles, system turns, thoughts, tools."""

from __future__ import annotations

import dataclasses
from typing import Literal

Marks = tuple[str, str]
"""What stands before a text and after it."""


@dataclasses.dataclass(frozen=True)
class Thinking:
    """What is written around thoughts: `empty` where an answer has none, `past` in place of those of earlier turns.

    `asked` follows the generation prompt. `key` is where the template finds thoughts apart from the text; None where
    it drops all that stands before the mark that closes them, or writes an empty thought whatever the answer has.
    """

    around: Marks
    empty: str = ""
    past: str = ""
    asked: str = ""
    key: str | None = "reasoning_content"
    close: str = "</think>"

    @property
    def never(self) -> bool:
        """Whether an empty thought stands before every answer, whatever it has."""
        return self.key is None and bool(self.empty)


@dataclasses.dataclass(frozen=True)
class Family:
    """How a family writes conversations.

    `system` stands around a system text: in a turn of its own, or within the first or last turn of the user. There is
    none where `place` is `raises` or `drops`, nor behind an answer where it is `very last`. `given` is the system text
    where there is none. `ends` ends an answer.
    """

    name: str
    user: Marks
    assistant: Marks
    system: Marks = ("", "")
    place: Literal["own", "first", "last", "very last", "raises", "drops"] = "own"
    given: str = ""
    bos: str = ""
    ends: str = "</s>"
    ask: str | None = None
    """The generation prompt, where it is not what stands before an answer."""
    special: tuple[str, ...] = ()
    each: bool = False
    """The beginning of a sequence stands before every turn of the user."""
    alternates: bool = False
    trims: bool = False
    thinks: Thinking | None = None
    tools: bool = False
    """Calls stand as JSON between `<tool_call>` marks, results between `<tool_response>`, tools in the system turn."""


IM = ("<|im_start|>", "<|im_end|>")
HEADER = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
INST = ("[INST]", "[/INST]")
_THINK = ("<think>\n", "\n</think>\n\n")
_CLOSED = "<think></think>"
_EMPTY = "<think>\n\n</think>\n\n"


def _chatml(name: str, **facts: object) -> Family:
    marks = [(f"<|im_start|>{role}\n", "<|im_end|>\n") for role in ("user", "assistant", "system")]
    return Family(name, *marks, **{"ends": "<|im_end|>", "special": IM, **facts})  # type: ignore[arg-type]


def _llama3(name: str, **facts: object) -> Family:
    left, right = "<|start_header_id|>", "<|end_header_id|>\n\n"
    marks = [(left + who + right, HEADER[3]) for who in ("user", "assistant", "system")]
    more = {"bos": HEADER[0], "ends": HEADER[3], "special": HEADER, "trims": True, **facts}
    return Family(name, *marks, **more)  # type: ignore[arg-type]


def _gemma(name: str, **facts: object) -> Family:
    marks = [(f"<start_of_turn>{who}\n", "<end_of_turn>\n") for who in ("user", "model")]
    special = ("<start_of_turn>", "<end_of_turn>")
    more = {"bos": "<bos>", "ends": special[1], "special": special, "alternates": True, "trims": True, **facts}
    return Family(name, *marks, **more)  # type: ignore[arg-type]


def _cohere(name: str, answer: Marks, **facts: object) -> Family:
    turn, end = "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"
    bot, user, system = (f"{turn}<|{who}_TOKEN|>" for who in ("CHATBOT", "USER", "SYSTEM"))
    marks = (user, end), (bot + answer[0], answer[1] + end), (system, end)
    special = (turn, end, *(f"<|{who}_TOKEN|>" for who in ("CHATBOT", "USER", "SYSTEM")), *filter(None, answer))
    return Family(name, *marks, **{"bos": "<BOS_TOKEN>", "ends": answer[1] or end, "special": special, **facts})  # type: ignore[arg-type]


def _lines(name: str, user: str, assistant: str, system: str, between: str, **facts: object) -> Family:
    """Roles in words, each on lines of their own."""
    return Family(name, (user, between), (assistant, "</s>" + between), (system, between), **facts)  # type: ignore[arg-type]


FAMILIES = (
    Family("zephyr", ("<|user|>\n", "</s>\n"), ("<|assistant|>\n", "</s>\n"), ("<|system|>\n", "</s>\n")),
    _chatml("qwen2.5", given="You are Qwen.", tools=True),
    _chatml("yi"),
    _chatml("smollm2", given="You are a helpful assistant named SmolLM."),
    _chatml("lfm2", bos="<|startoftext|>"),
    _chatml("internlm2", bos="<s>"),
    _chatml("qwen3", thinks=Thinking(_THINK, _EMPTY), tools=True),
    _chatml("qwen3-instruct", tools=True),
    _chatml("qwen3.5", thinks=Thinking(_THINK, _EMPTY, asked="<think>\n"), trims=True, tools=True),
    _chatml("qwen3.5-small", thinks=Thinking(_THINK, _EMPTY, asked=_EMPTY), trims=True, tools=True),
    _chatml("nemotron", thinks=Thinking(("<think>\n", "\n</think>\n"), _CLOSED, _CLOSED, asked="<think>\n")),
    _chatml("minimax", thinks=Thinking(_THINK, asked="<think>\n")),
    _chatml("olmo3-think", thinks=Thinking(("<think>", "</think>"), asked="<think>", key="thinking")),
    Family(
        "glm4.5",
        *(("<|user|>\n", ""), ("<|assistant|>", ""), ("<|system|>\n", "")),
        ends="<|endoftext|>",
        special=("<|user|>", "<|assistant|>", "<|system|>"),
        thinks=Thinking(("\n<think>", "</think>\n"), "\n<think></think>\n", "\n<think></think>\n"),
        trims=True,
    ),
    Family(
        "deepseek-r1",
        *(("<｜User｜>", ""), ("<｜Assistant｜>", "<｜end▁of▁sentence｜>"), ("", "")),
        bos="<｜begin▁of▁sentence｜>",
        ends="<｜end▁of▁sentence｜>",
        special=("<｜User｜>", "<｜Assistant｜>"),
        thinks=Thinking(_THINK, asked="<think>\n", key=None),
    ),
    Family(
        "deepseek-r1-first",
        *(("<｜User｜>", ""), ("<｜Assistant｜>", "<｜end▁of▁sentence｜>"), ("", "")),
        bos="<｜begin▁of▁sentence｜>",
        ends="<｜end▁of▁sentence｜>",
        thinks=Thinking(_THINK, key=None),
    ),
    Family(
        "deepseek-v3.1",
        *(("<｜User｜>", ""), ("<｜Assistant｜></think>", "<｜end▁of▁sentence｜>"), ("", "")),
        bos="<｜begin▁of▁sentence｜>",
        ends="<｜end▁of▁sentence｜>",
        special=("<｜User｜>", "<｜Assistant｜>"),
        thinks=Thinking(_THINK, key=None),
    ),
    _llama3("llama3"),
    _llama3("llama3.1", given="Cutting Knowledge Date: December 2023\nToday Date: {date}"),
    _llama3("tulu-like", trims=False, given="Today is {date}."),
    Family(
        "llama2",
        *(("[INST] ", " [/INST]"), (" ", " </s>"), ("<<SYS>>\n", "\n<</SYS>>\n\n")),
        **{"ask": "", "place": "first", "bos": "<s>", "each": True, "trims": True},
    ),
    Family("mistral", ("[INST] ", " [/INST]"), ("", "</s>"), bos="<s>", place="raises", alternates=True),
    Family(
        "mistral-v0.3",
        *(("[INST] ", "[/INST]"), (" ", "</s>"), ("", "\n\n")),
        **{"ask": "", "place": "last", "bos": "<s>", "special": INST, "alternates": True},
    ),
    Family(
        "mistral-small3",
        *(("[INST]", "[/INST]"), ("", "</s>"), ("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")),
        **{"given": "You are Mistral Small 3.\nToday is {date}.", "bos": "<s>", "alternates": True},
        special=(*INST, "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
    ),
    Family(
        "magistral",
        *(("[INST]", "[/INST]"), ("", "</s>"), ("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")),
        **{"bos": "<s>", "special": INST, "alternates": True},
        thinks=Thinking(("[THINK]", "[/THINK]"), close="[/THINK]"),
    ),
    _gemma("gemma2", place="raises"),
    _gemma("gemma3", place="first", system=("", "\n\n")),
    Family(
        "gemma4",
        *(("<|turn>user\n", "<turn|>\n"), ("<|turn>model\n", "<turn|>\n"), ("<|turn>system\n", "<turn|>\n")),
        bos="<bos>",
        ends="<turn|>",
        special=("<|turn>", "<turn|>"),
        thinks=Thinking(("<|channel>thought\n", "\n<channel|>"), close="<channel|>"),
    ),
    Family(
        "gemma4-large",
        *(("<|turn>user\n", "<turn|>\n"), ("<|turn>model\n", "<turn|>\n"), ("<|turn>system\n", "<turn|>\n")),
        bos="<bos>",
        ends="<turn|>",
        special=("<|turn>", "<turn|>", "<|channel>", "<channel|>"),
        thinks=Thinking(
            ("<|channel>thought\n", "\n<channel|>"), asked="<|channel>thought\n<channel|>", close="<channel|>"
        ),
    ),
    Family(
        "mistral-v0.3-last",
        *(("[INST] ", "[/INST]"), (" ", "</s>"), ("", "\n\n")),
        **{"ask": "", "place": "very last", "bos": "<s>", "special": INST, "alternates": True},
    ),
    Family(
        "phi3",
        *((f"<|{who}|>\n", "<|end|>\n") for who in ("user", "assistant", "system")),
        ends="<|end|>",
        special=("<|end|>", "<|user|>", "<|assistant|>", "<|system|>"),
    ),
    Family(
        "phi4",
        *((f"<|im_start|>{who}<|im_sep|>", "<|im_end|>") for who in ("user", "assistant", "system")),
        ends="<|im_end|>",
        special=(*IM, "<|im_sep|>"),
    ),
    _cohere("command-r", ("", ""), alternates=True, trims=True),
    _cohere("command-r7b", ("<|START_RESPONSE|>", "<|END_RESPONSE|>"), alternates=True),
    Family(
        "gpt-oss",
        *(("<|start|>user<|message|>", "<|end|>"), ("<|start|>assistant", "<|return|>")),
        system=("<|start|>developer<|message|># Instructions\n\n", "<|end|>"),
        ends="<|return|>",
        special=("<|start|>", "<|message|>", "<|end|>", "<|return|>", "<|channel|>"),
        thinks=Thinking(
            ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
            *("<|channel|>final<|message|>", "<|channel|>final<|message|>"),
            key="thinking",
        ),
    ),
    Family(
        "granite",
        *((f"<|start_of_role|>{who}<|end_of_role|>", "<|end_of_text|>\n") for who in ("user", "assistant", "system")),
        given="Today's Date: {date}.\nYou are Granite.",
        ends="<|end_of_text|>",
        special=("<|start_of_role|>", "<|end_of_role|>"),
    ),
    _lines("olmo2", "<|user|>\n", "<|assistant|>\n", "<|system|>\n", "\n", bos="<|endoftext|>"),
    _lines("vicuna", "USER: ", "ASSISTANT: ", "", " ", bos="<s>", alternates=True),
    _lines("solar", "### User:\n", "### Assistant:\n", "### System:\n", "\n\n"),
    _lines("alpaca", "### Instruction:\n", "### Response:\n", "", "\n\n", place="drops"),
    _lines("ernie", "User: ", "Assistant: ", "", "\n", bos="<s>"),
    Family(
        "exaone",
        *(("[|user|]", "\n"), ("[|assistant|]", "[|endofturn|]\n"), ("[|system|]", "[|endofturn|]\n")),
        ends="[|endofturn|]",
    ),
    Family(
        "seed-oss",
        *((f"<seed:bos>{who}\n", "<seed:eos>") for who in ("user", "assistant", "system")),
        ends="<seed:eos>",
        special=("<seed:bos>",),
        thinks=Thinking(("<seed:think>", "</seed:think>"), close="</seed:think>"),
    ),
    Family(
        "kimi",
        *((f"<|im_{who}|>{who}<|im_middle|>", "<|im_end|>") for who in ("user", "assistant", "system")),
        ends="<|im_end|>",
        special=("<|im_user|>", "<|im_assistant|>", "<|im_system|>", "<|im_middle|>"),
        thinks=Thinking(("<think>", "</think>"), _CLOSED, _CLOSED, key=None),
    ),
    Family(
        "openchat",
        *((f"GPT4 Correct {who}: ", "<|end_of_turn|>") for who in ("User", "Assistant", "System")),
        **{"bos": "<s>", "ends": "<|end_of_turn|>", "trims": True},
    ),
)
