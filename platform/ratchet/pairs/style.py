"""What a chat template does with a conversation, found once by rendering known ones.

Families differ in what stands around an answer, where thoughts go, whether there are system turns, calls and tools, and
whether two turns of a user may follow one another. No list of families is kept: each template is asked.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import re
from collections.abc import Sequence
from typing import Any, Literal

import jinja2
from jinja2 import nodes

from ratchet.errors import ModelError
from ratchet.pairs.call_ids import calls_in, with_ids
from ratchet.pairs.chat import may_fold, own_template, parse_template, reads, template_names
from ratchet.pairs.folds import fold_system, merge_turns
from ratchet.pairs.pair import Turn
from ratchet.pairs.thoughts import OPENED, common_start, is_empty_thought, split_thoughts

_ASK, _SAY, _THINK, _RULE, _GIVEN = (
    "What is the sky?",
    "It is blue (at noon).",
    "Look up (twice).",
    "Be brief.",
    "Noon!",
)
_KEYS = ("reasoning_content", "thinking", "reasoning")
_CALL = {"type": "function", "function": {"name": "ask_sky", "arguments": {"hour": "twelve"}}}
_ID = "call_Zq7v_23"
_CALLED = Turn("assistant", "", tool_calls=json.dumps([{**_CALL, "id": _ID}]))
_CALLED_ALONE = Turn("assistant", "", tool_calls=json.dumps([_CALL]))
_TWICE = Turn("assistant", "", tool_calls=json.dumps([_CALL, _CALL]))
_RESULT = Turn("tool", _GIVEN, tool_call_id=_ID, name="ask_sky")
_HOUR = {"type": "object", "properties": {"hour": {"type": "string", "description": "The hour."}}, "required": ["hour"]}
_TOOL = {"type": "function", "function": {"name": "ask_sky", "description": "Asks the sky.", "parameters": _HOUR}}
_USER = Turn("user", _ASK)


@dataclasses.dataclass(frozen=True)
class Style:
    """What a chat template adds, as `find_style` saw it.

    `lead` and `tail` are the texts before and after a plain answer; `ending` is the part of the tail that the model
    writes. Every answer ends with `end_id`, one with calls perhaps with another of `ends`; `tail_ends` is False where
    the tail has no special token, so that the answer's content ends with the tokenizer's EOS. `opened` is what the
    generation prompt has and a plain conversation has not: the mark that opens thoughts. `bos_id` starts every
    sequence, where the template writes it or the tokenizer adds it.

    `thoughts` is the key of a message from which thoughts are read, None where there is none; then `raw` says whether
    thoughts inside the content stay, with no other before them. `folds`: system turns go into the first user turn;
    `merges`: turns of a user that follow one another become one. `calls` says how arguments of calls are given, None
    where calls are not written; `results` and `tools` whether those are. `ids` is the form of a call's id that the
    template asks for (`call_ids`), None where it reads none; `names` whether it writes the tool's name beside a result.
    """

    lead: str
    tail: str
    ending: str
    end_id: int
    tail_ends: bool
    bos_id: int | None
    special: re.Pattern[str]
    opened: str = ""
    ends: frozenset[int] = frozenset()
    thoughts: str | None = None
    raw: bool = True
    folds: bool = False
    merges: bool = False
    calls: Literal["object", "text"] | None = None
    ids: str | None = None
    names: bool = False
    results: bool = False
    tools: bool = False


def find_style(tokenizer: Any) -> Style:
    """Return what the tokenizer's chat template does with a conversation.

    Raises ModelError where there is no template, it fails on a plain question and answer, it drops
    or alters the answer, or nothing could end one.
    """
    return _style_of(tokenizer, own_template(tokenizer), tokenizer.apply_chat_template)


@functools.lru_cache(maxsize=8)
def _style_of(tokenizer: Any, template: str, apply: Any) -> Style:
    # A dozen conversations are rendered: once for each tokenizer, template and what that is handed.
    del apply
    where = str(tokenizer.name_or_path)
    if not template and (names := template_names(tokenizer)):
        raise ModelError(
            f"its chat templates have the names {', '.join(names)}, and none is `default`",
            where=where,
            fix=f"set model.named_template to one of them, such as {names[0]}",
            code="model.no-template",
        )
    if not template:
        raise ModelError(
            "its tokenizer has no chat template",
            where=where,
            fix="set model.chat_template to a Jinja file, or to `plain`, which comes with Ratchet",
            code="model.no-template",
        )
    if drawn := reads(template).drawn:
        raise ModelError(
            f"its chat template draws at random ({', '.join(drawn)}), so that no text comes out twice the same",
            where=where,
            fix="set model.chat_template to one that does not",
            code="model.template-random",
        )
    turns = [{"role": "user", "content": _ASK}]
    try:
        prompt = apply_messages(tokenizer, turns, None, asks=True)
        full = apply_messages(tokenizer, [*turns, {"role": "assistant", "content": _SAY}], None, asks=False)
    except Exception as error:  # a template can raise whatever its expressions raise
        raise ModelError(
            f"its chat template fails on a question and an answer: {error}",
            where=where,
            fix="correct the template, or set model.chat_template",
            code="model.template-fails",
        ) from error
    head = common_start(prompt, full)
    opened = prompt[len(head) :]
    if not OPENED.fullmatch(opened) or _SAY not in full[len(head) :] or _ASK not in head:
        raise ModelError(
            f"its chat template drops or alters texts: the prompt {prompt!r} became {full!r} with its answer",
            where=where,
            fix="set model.chat_template to one where prompt and answer stand as they are",
            code="model.template-alters",
        )
    lead, _, tail = full[len(head) :].partition(_SAY)
    ending, end_id, tail_ends = _ending(tokenizer, tail, where)
    # The longest first: `<s>` may be the beginning of `<s_end>`.
    marks = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    special = re.compile("|".join(map(re.escape, sorted(marks, key=len, reverse=True))) or r"(?!)")
    style = Style(lead, tail, ending, end_id, tail_ends, _bos(tokenizer, prompt), special, opened, frozenset({end_id}))
    return _with_tools(tokenizer, _with_turns(tokenizer, _with_thoughts(tokenizer, style)))


def _ending(tokenizer: Any, tail: str, where: str) -> tuple[str, int, bool]:
    """Return the part of a tail that ends the answer, the id that it ends with, and whether the tail has that id."""
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"] if tail else []
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special} | set(
        tokenizer.all_special_ids
    )
    # The first special token ends the turn; templates may write a line break after it.
    for token_id in ids:
        if token_id in special:
            written = tokenizer.convert_ids_to_tokens(token_id)
            return tail[: tail.index(written) + len(written)], token_id, True
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "neither the chat template nor the tokenizer ends an answer",
            where=where,
            fix="set eos_token in tokenizer_config.json",
            code="model.no-end",
        )
    return "", tokenizer.eos_token_id, False


def _bos(tokenizer: Any, prompt: str) -> int | None:
    bos = tokenizer.bos_token_id
    if bos is None:
        return None
    written = tokenizer(prompt, add_special_tokens=False)["input_ids"][:1] == [bos]
    # Llama's tokenizer adds it by itself, and its template writes it too: both must give one.
    added = tokenizer("a")["input_ids"][:1] == [bos]
    return bos if written or added else None


def _tried(
    tokenizer: Any, style: Style, turns: Sequence[Turn], tools: Sequence[Any] | None = None, *, asks: bool = False
) -> str:
    """Return the text of known turns, empty where the template refuses them."""
    try:
        return apply_messages(tokenizer, messages_of(style, turns), tools, asks=asks)
    except Exception:  # a template can raise whatever its expressions raise; this is the question
        return ""


def _with_thoughts(tokenizer: Any, style: Style) -> Style:
    named = _constants(own_template(tokenizer))
    for key in (key for key in _KEYS if key in named):
        found = dataclasses.replace(style, thoughts=key)
        if _THINK in _tried(tokenizer, found, (_USER, Turn("assistant", _SAY, _THINK))):
            return found
    text = f"<think>\n{_THINK}\n</think>\n\n{_SAY}"
    # Behind an empty thought of the template's own no other one can stand.
    raw = not is_empty_thought(style.lead) and _THINK in _tried(tokenizer, style, (_USER, Turn("assistant", text)))
    return dataclasses.replace(style, raw=raw)


def _with_turns(tokenizer: Any, style: Style) -> Style:
    folds = _RULE not in _tried(tokenizer, style, (Turn("system", _RULE), _USER), asks=True)
    both = _tried(tokenizer, style, (Turn("user", _GIVEN), _USER), asks=True)
    folds = folds and may_fold(tokenizer)
    return dataclasses.replace(style, folds=folds, merges=_GIVEN not in both or _ASK not in both)


def _with_tools(tokenizer: Any, style: Style) -> Style:
    if "tools" in reads(own_template(tokenizer)).names:
        style = dataclasses.replace(style, tools="ask_sky" in _tried(tokenizer, style, (_USER,), [_TOOL], asks=True))
    hows: tuple[Literal["object", "text"], ...] = ("object", "text")
    for ids, how in itertools.product((None, "any", "nine", "named"), hows):
        found = dataclasses.replace(style, calls=how, ids=ids)
        full, bare = (_tried(tokenizer, found, (_USER, called)) for called in (_CALLED, _CALLED_ALONE))
        # Without a form of ids, one that is written says that the template reads it.
        read = ids is None and (_ID in full or not bare)
        if not read and all("ask_sky" in text and "twelve" in text for text in (full, bare)):
            results = _GIVEN in _tried(tokenizer, found, (_USER, _CALLED, _RESULT), asks=True)
            if ids is None and results and _numbers_by_id(tokenizer, found):
                found = dataclasses.replace(found, ids="any")
            alone = dataclasses.replace(_RESULT, name=None)
            texts = {_tried(tokenizer, found, (_USER, _CALLED, one), asks=True) for one in (_RESULT, alone)}
            ends = style.ends | _last_special(tokenizer, full)
            return dataclasses.replace(found, results=results, names=len(texts) > 1, ends=ends)
    # Results are also written after calls that are texts, as Hermes has them.
    results = _GIVEN in _tried(tokenizer, style, (_USER, Turn("assistant", _SAY), _RESULT), asks=True)
    return dataclasses.replace(style, results=results)


def _numbers_by_id(tokenizer: Any, style: Style) -> bool:
    """Say whether a template that writes no id finds by it which call a result is of, as Cohere's do."""
    turns = (_USER, _TWICE, *(Turn("tool", text, name="ask_sky") for text in (_GIVEN, _SAY)))
    plain, named = (_tried(tokenizer, dataclasses.replace(style, ids=ids), turns, asks=True) for ids in (None, "any"))
    # An id that is written where there is one, and only then, is the row's to have.
    made = [call["id"] for call in json.loads(with_ids(turns, "any")[1].tool_calls or "[]")]
    return named != plain and bool(named) and not any(one in named for one in made)


def _last_special(tokenizer: Any, text: str) -> frozenset[int]:
    ids = tokenizer(text.rstrip(), add_special_tokens=False)["input_ids"][-1:]
    special = tokenizer.added_tokens_decoder
    return frozenset(one for one in ids if one in special and special[one].special)


@functools.lru_cache(maxsize=16)
def _constants(template: str) -> frozenset[str]:
    """Return the keys and texts that a template names."""
    try:
        parsed = parse_template(template)
    except jinja2.TemplateSyntaxError:
        return frozenset()
    named = {node.attr for node in parsed.find_all(nodes.Getattr)}
    return frozenset(named | {node.value for node in parsed.find_all(nodes.Const) if isinstance(node.value, str)})


def apply_messages(tokenizer: Any, messages: Sequence[Any], tools: Sequence[Any] | None, *, asks: bool) -> str:
    """Return the template's text of messages, with the generation prompt where it `asks` for an answer."""
    offered = {"tools": list(tools)} if tools else {}
    text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=asks, **offered)
    return text


def messages_of(style: Style, turns: Sequence[Turn], before: Sequence[Turn] = ()) -> list[dict[str, Any]]:
    """Return turns as the messages that a template gets: folded, merged, and with thoughts where it looks for them.

    Calls have ids of the form that it asks for, counted on from those of the turns `before`.
    """
    turns = with_ids(turns, style.ids, calls_in(before) if style.ids is not None else 0, names=style.names)
    if style.folds:
        turns = fold_system(turns)
    if style.merges:
        turns = merge_turns(turns)
    return [_message(style, turn) for turn in turns]


def _message(style: Style, turn: Turn) -> dict[str, Any]:
    if turn.role == "assistant" and style.thoughts is not None:
        turn = split_thoughts(turn)
    message: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.reasoning is not None and style.thoughts is not None:
        message[style.thoughts] = turn.reasoning
    if turn.tool_calls is not None:
        message["tool_calls"] = [_call(style, call) for call in json.loads(turn.tool_calls)]
    for key in ("tool_call_id", "name"):
        if (value := getattr(turn, key)) is not None:
            message[key] = value
    return message


def _call(style: Style, call: dict[str, Any]) -> dict[str, Any]:
    if style.calls != "text":
        return call
    function = call["function"]
    return {**call, "function": {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}}


def apply_template(tokenizer: Any, style: Style, prompt: Sequence[Turn]) -> str:
    """Return the template's text of a prompt, with the generation prompt."""
    return apply_messages(tokenizer, messages_of(style, prompt), None, asks=True)


def chat_ids(tokenizer: Any, turns: Sequence[Turn]) -> list[int]:
    """Return the ids of a prompt as it is trained: with the generation prompt, and the beginning of a sequence."""
    style = find_style(tokenizer)
    # The template writes special tokens itself: the tokenizer would put some before them again.
    ids = list(tokenizer(apply_template(tokenizer, style, turns), add_special_tokens=False)["input_ids"])
    return ids if style.bos_id is None or ids[:1] == [style.bos_id] else [style.bos_id, *ids]
