"""What a family's facts say of a conversation, twice: as a Jinja template, and as texts worked out in Python."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from families import Family
from ratchet.pairs.chat import ChatTemplate, bind
from ratchet.pairs.pair import Turn

DATE = "26 Jul 2024"
_ROLES = "(m.role == 'user') != (loop.index0 % 2 == 0)"
_SPLIT = """
{%- if CLOSE in said %}{% set parts = said.split(CLOSE) %}
{%- if not thought %}{% set thought = parts[0].split(OPEN)[-1].strip() %}{% endif %}
{%- set said = parts[-1].lstrip('\\n') %}{% endif %}
"""


def template_of(family: Family) -> str:
    """Return a Jinja template that renders what the facts say."""
    return "".join(_template_lines(family))


def _template_lines(family: Family) -> Any:
    text = json.dumps
    trim = " | trim" if family.trims else ""
    yield "{% set led = messages[0].role == 'system' %}{% set turns = messages[1:] if led else messages %}"
    yield f"{{% set rule = messages[0].content{trim} if led else {text(family.given)} %}}"
    if "{date}" in family.given:
        yield "{% set rule = rule if led else rule.replace('{date}', strftime_now('%d %b %Y')) %}"
    if family.place == "raises":
        yield "{% if led %}{{ raise_exception('System role not supported') }}{% endif %}"
    if family.bos and not family.each:
        yield "{{ bos_token }}"
    own = f"{text(family.system[0])} + rule + {text(family.system[1])}"
    if family.tools:
        yield "{% if tools %}{{ " + text(family.system[0]) + " }}{% if rule %}{{ rule + '\\n\\n' }}{% endif %}"
        yield "{{ '<tools>' }}{% for tool in tools %}{{ '\\n' + tool | tojson }}{% endfor %}{{ '\\n</tools>' }}"
        yield "{{ " + text(family.system[1]) + " }}{% elif rule %}{{ " + own + " }}{% endif %}"
    elif family.place == "own":
        yield f"{{% if rule %}}{{{{ {own} }}}}{{% endif %}}"
    yield "{% for m in turns %}"
    if family.alternates:
        yield f"{{% if {_ROLES} %}}{{{{ raise_exception('Conversation roles must alternate') }}}}{{% endif %}}"
    yield from _user_lines(family, own, trim)
    yield from _assistant_lines(family, trim)
    yield "{% endif %}{% endfor %}"
    yield f"{{% if add_generation_prompt %}}{{{{ {text(_ask(family))} }}}}{{% endif %}}"


def _user_lines(family: Family, own: str, trim: str) -> Any:
    left, right = map(json.dumps, family.user)
    yield "{% if m.role == 'user' %}" + ("{{ bos_token }}" if family.each else "") + "{{ " + left + " }}"
    at = {"first": "loop.first", "last": "loop.revindex <= 2", "very last": "loop.last"}
    if family.place in at:
        yield f"{{% if rule and ({at[family.place]}) %}}{{{{ {own} }}}}{{% endif %}}"
    yield f"{{{{ m.content{trim} + {right} }}}}"
    if family.tools:
        yield "{% elif m.role == 'tool' %}{{ " + left + " + '<tool_response>\\n' + m.content + '\\n</tool_response>' + "
        yield right + " }}"


def _assistant_lines(family: Family, trim: str) -> Any:
    left, right = map(json.dumps, family.assistant)
    yield "{% else %}{% set said = m.content" + trim + " %}"
    lead = ""
    if (thinks := family.thinks) is not None:
        around, opened = thinks.around, thinks.around[0].strip()
        yield f"{{% set thought = m.{thinks.key} | default('') %}}" if thinks.key else "{% set thought = '' %}"
        if thinks.never:
            yield f"{{% set lead = {json.dumps(thinks.empty)} %}}"
            lead = "lead + "
        else:
            yield (
                _SPLIT.replace("CLOSE", json.dumps(thinks.close)).replace("OPEN", json.dumps(opened)).replace("\n", "")
            )
        if thinks.key:
            yield f"{{% set lead = {json.dumps(around[0])} + thought + {json.dumps(around[1])} if thought"
            yield f" else {json.dumps(thinks.empty)} %}}"
            yield f"{{% set lead = lead if loop.last else {json.dumps(thinks.past)} %}}"
            lead = "lead + "
    yield f"{{{{ {left} + {lead}said }}}}"
    if family.tools:
        yield "{% for call in m.tool_calls or [] %}{{ '\\n' if said or not loop.first else '' }}{{ '<tool_call>\\n' + "
        yield "{'name': call.function.name, 'arguments': call.function.arguments} | tojson + '\\n</tool_call>' }}"
        yield "{% endfor %}"
    yield f"{{{{ {right} }}}}"


def _ask(family: Family) -> str:
    ask = family.assistant[0] if family.ask is None else family.ask
    return ask + (family.thinks.asked if family.thinks else "")


def tokenizer_of(family: Family) -> Any:
    """Return a tokenizer of bytes and the family's marks, with its template, on the day that plans take."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={letter: at for at, letter in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    marks = dict.fromkeys(filter(None, (family.bos, family.ends, *family.special)))
    inner.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    begins = {"bos_token": family.bos} if family.bos else {}
    if family.bos:
        bos = (family.bos, inner.token_to_id(family.bos))
        inner.post_processor = processors.TemplateProcessing(single=f"{family.bos} $A", special_tokens=[bos])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=family.ends, **begins)
    bind(tokenizer, ChatTemplate(template_of(family)))
    return tokenizer


@dataclasses.dataclass(frozen=True)
class Expected:
    """Texts of a pair: the prompt, and each side from the beginning to the end of its answer."""

    prompt: str
    chosen: str
    rejected: str


def expected(family: Family, prompt: Sequence[Turn], answers: Sequence[Turn], tools: Sequence[Any] | None) -> Expected:
    """Return what the facts say of a pair."""
    base = _before(family, _fitted(family, prompt), tools)
    sides = [_side(family, base, answer) for answer in answers]
    return Expected(_shared(sides[0][0], sides[1][0]), sides[0][1], sides[1][1])


def _fitted(family: Family, prompt: Sequence[Turn]) -> list[Turn]:
    turns = list(prompt)
    if turns[0].role == "system" and family.place in {"raises", "drops"}:
        rule = turns.pop(0).content
        at = [turn.role for turn in turns].index("user")
        turns[at] = Turn("user", rule + "\n\n" + turns[at].content)
    if family.alternates:
        for at in range(len(turns) - 1, 0, -1):
            if turns[at].role == turns[at - 1].role == "user":
                turns[at - 1] = Turn("user", turns[at - 1].content + "\n\n" + turns.pop(at).content)
    return turns


def _before(family: Family, turns: list[Turn], tools: Sequence[Any] | None) -> str:
    """Return a conversation's text up to where the answer begins."""
    text = "" if family.each else family.bos
    rule = family.given.replace("{date}", DATE)
    if turns[0].role == "system":
        rule = _trimmed(family, turns.pop(0).content)
    if tools:
        lines = "".join("\n" + json.dumps(tool) for tool in tools)
        rule = (rule + "\n\n" if rule else "") + f"<tools>{lines}\n</tools>"
    own = family.system[0] + rule + family.system[1] if rule else ""
    if family.place == "own":
        text += own
    users = [at for at, turn in enumerate(turns) if turn.role == "user"]
    led = {"first": users[0], "last": users[-1], "very last": users[-1]}.get(family.place)
    for at, turn in enumerate(turns):
        if turn.role == "assistant":
            thinks = family.thinks
            past = thinks.past if thinks and (thinks.key or thinks.never) else ""
            said = divided(turn)[1] if thinks and not thinks.never else turn.content
            text += family.assistant[0] + past + _trimmed(family, said) + _calls(turn) + family.assistant[1]
        elif turn.role == "tool":
            text += family.user[0] + f"<tool_response>\n{turn.content}\n</tool_response>" + family.user[1]
        else:
            text += (family.bos if family.each else "") + family.user[0] + (own if at == led else "")
            text += _trimmed(family, turn.content) + family.user[1]
    return text


def _side(family: Family, base: str, answer: Turn) -> tuple[str, str]:
    """Return the prompt's text, and that of prompt and answer."""
    left, right = family.assistant
    end = right[: right.index(family.ends)] + family.ends if family.ends in right else family.ends
    asked = base + _ask(family)
    thought, said = divided(answer)
    if (thinks := family.thinks) is None:
        said = answer.content if answer.reasoning is None else f"<think>\n{thought}\n</think>\n\n{said}"
        return asked, base + left + _trimmed(family, said) + _calls(answer) + end
    body = _trimmed(family, said) + _calls(answer) + end
    if not thought:
        belongs = thinks.empty if thinks.close in thinks.empty else ""
        return base + left + belongs, base + left + thinks.empty + body
    if thinks.key is None:
        opens = "" if thinks.asked else "<think>\n"
        asked = asked.removesuffix(thinks.close)
        return asked, asked + opens + thought + "\n</think>\n\n" + body
    whole = base + left + thinks.around[0] + thought + thinks.around[1] + body
    return _shared(asked, whole), whole


def _shared(left: str, right: str) -> str:
    return "".join(a for a, _ in itertools.takewhile(lambda two: two[0] == two[1], zip(left, right, strict=False)))


def divided(turn: Turn) -> tuple[str, str]:
    """Return a turn's thoughts and what it says, where thoughts stand apart or before `</think>`."""
    if turn.reasoning is not None:
        return turn.reasoning, turn.content
    thought, close, said = turn.content.partition("</think>")
    return (thought.replace("<think>", "").strip(), said.lstrip()) if close else ("", turn.content)


def _trimmed(family: Family, text: str) -> str:
    return text.strip() if family.trims else text


def _calls(turn: Turn) -> str:
    calls = json.loads(turn.tool_calls or "[]")
    return ("\n" if calls and turn.content else "") + "\n".join(
        "<tool_call>\n"
        + json.dumps({"name": call["function"]["name"], "arguments": call["function"]["arguments"]})
        + "\n</tool_call>"
        for call in calls
    )
