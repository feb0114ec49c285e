"""What a chat template gets, and what it reads: all that decides a conversation's text apart from its messages.

Some templates write today's date (Llama 3.1 and later, Mistral Small 3, Granite, gpt-oss). Here the clock that they
read is fixed, so that a plan's tokens and requests are the same on every day.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta
from jinja2 import nodes

from ratchet.errors import ModelError
from ratchet.plan.model import DAY, ModelSpec
from ratchet.store.files import at_home

TEMPLATES = Path(__file__).parent / "templates"
CLOCK = "strftime_now"
"""The function by which templates read the clock; transformers has no other."""
_QUESTION = "What is the sky?"
_DRAWN = {"random", "lipsum"}
"""jinja's filter and function that give something else each time."""


def shipped_templates() -> list[str]:
    """Return the names of the chat templates that come with Ratchet."""
    return sorted(path.stem for path in TEMPLATES.glob("*.jinja"))


def template_text(name: str) -> str:
    """Return a chat template's text, by shipped name or file. Raises ModelError where neither exists."""
    shipped = TEMPLATES / f"{name}.jinja"
    path = shipped if name in shipped_templates() else at_home(name)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            f"no chat template {name!r}: {error}",
            where="model.chat_template",
            fix=f"give a Jinja file, or one of {', '.join(shipped_templates())}",
            code="model.no-template",
        ) from error


@dataclasses.dataclass(frozen=True)
class StandingClock:
    """A clock fixed at the beginning of a day, such as 2024-07-26."""

    day: str

    def __call__(self, form: str) -> str:
        """Return the day in a format of `strftime`."""
        return datetime.datetime.fromisoformat(self.day).strftime(form)


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """How conversations become text: the template's own text (None: the tokenizer's), its arguments, and its day.

    `named` is the one of the tokenizer's templates that is taken; None where it has one, or its default is meant.
    Arguments are pairs of name and JSON, so that `true` and 1 are two. `folds`: a system text that the template has no
    place for goes into the first user turn.
    """

    text: str | None = None
    arguments: tuple[tuple[str, str], ...] = ()
    day: str = DAY
    folds: bool = True
    named: str | None = None

    @property
    def handed(self) -> dict[str, Any]:
        """What the template gets along with the messages."""
        return {**{name: json.loads(value) for name, value in self.arguments}, CLOCK: StandingClock(self.day)}


@dataclasses.dataclass(frozen=True, eq=False)
class Applied:
    """A tokenizer's `apply_chat_template`, with what the template is handed at every call."""

    apply: Callable[..., Any]
    handed: Mapping[str, Any]
    folds: bool
    parts: bool = False
    """Whether the template reads a message's text only where it is a part of a list, as those of models that see do."""

    def __call__(self, conversation: Any, *given: Any, **more: Any) -> Any:
        """Return a conversation's text or ids."""
        if self.parts:
            conversation = [_in_parts(message) for message in conversation]
        return self.apply(conversation, *given, **{**self.handed, **more})


def _in_parts(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    return {**message, "content": [{"type": "text", "text": content}]} if isinstance(content, str) else {**message}


PLAIN = ChatTemplate((TEMPLATES / "plain.jinja").read_text(encoding="utf-8"))
"""The template that comes with Ratchet, for models whose own does not matter."""


def chat_template_of(spec: ModelSpec) -> ChatTemplate:
    """Return how a model's conversations become text. Raises ModelError where the template's file cannot be read."""
    text = None if spec.chat_template is None else template_text(spec.chat_template)
    arguments = ((name, json.dumps(value)) for name, value in sorted(spec.template_arguments.items()))
    return ChatTemplate(text, tuple(arguments), spec.date, spec.system_turns == "fold", spec.named_template)


def bind(tokenizer: Any, chat_template: ChatTemplate) -> None:
    """Let a tokenizer render conversations in this way alone, for every caller.

    Raises ModelError for an argument that its template never reads, and for a name that none of its templates has.
    """
    if chat_template.text is not None:
        tokenizer.chat_template = chat_template.text
    elif chat_template.named is not None:
        tokenizer.chat_template = _named(tokenizer, chat_template.named)
    # transformers' own arguments, such as `tokenize`, are not the template's to read.
    own = {"messages", *inspect.signature(tokenizer.apply_chat_template).parameters}
    known = reads(own_template(tokenizer)).names - own
    for name, _ in chat_template.arguments:
        if name not in known:
            raise ModelError(
                f"the chat template never reads {name}; it reads {', '.join(sorted(known)) or 'nothing'}",
                where="model.template_arguments",
                fix="correct the name, or leave it out",
                code="model.template-argument",
            )
    # Bound to the tokenizer, so that no caller can forget it, whichever library it is in.
    plain = Applied(tokenizer.apply_chat_template, chat_template.handed, chat_template.folds)
    in_parts = dataclasses.replace(plain, parts=True)
    tokenizer.apply_chat_template = in_parts if not _writes(plain) and _writes(in_parts) else plain


def _writes(apply: Applied) -> bool:
    """Say whether a template writes the text of a question."""
    try:
        return _QUESTION in apply([{"role": "user", "content": _QUESTION}], tokenize=False)
    except Exception:  # a template can raise whatever its expressions raise; `find_style` says so to people
        return False


def template_names(tokenizer: Any) -> list[str]:
    """Return the names of a tokenizer's templates; none where it has one without a name, or none at all."""
    return sorted(tokenizer.chat_template) if isinstance(tokenizer.chat_template, dict) else []


def _named(tokenizer: Any, name: str) -> str:
    templates: Any = tokenizer.chat_template
    if isinstance(templates, dict) and name in templates:
        return str(templates[name])
    names = template_names(tokenizer)
    raise ModelError(
        f"no chat template of it has the name {name!r}; "
        + (f"it has {', '.join(names)}" if names else "it has " + ("one without a name" if templates else "none")),
        where="model.named_template",
        fix="correct the name" if names else "leave it out",
        code="model.no-template",
    )


def template_identity(tokenizer: Any) -> dict[str, Any]:
    """Return all that decides the text of a conversation. The tokenizer is one that `bind` has seen to."""
    return {"template": tokenizer.chat_template, **handed_of(tokenizer)}


def handed_of(tokenizer: Any) -> dict[str, Any]:
    """Return what decides a conversation's text apart from its template: arguments, and the day where it reads one.

    Raises ModelError where it reads a clock that is not fixed.
    """
    bound, clock = tokenizer.apply_chat_template, reads(own_template(tokenizer)).clock
    arguments = dict(bound.handed) if isinstance(bound, Applied) else {}
    stands: StandingClock | None = arguments.pop(CLOCK, None)
    if clock and stands is None:
        raise ModelError(
            "its chat template writes today's date, which is not fixed",
            where=str(tokenizer.name_or_path),
            fix="load the tokenizer with `load_tokenizer`",
        )
    date = {"date": stands.day} if clock and stands else {}
    folds = {} if may_fold(tokenizer) else {"system_turns": "refuse"}
    return {**({"arguments": arguments} if arguments else {}), **date, **folds}


def may_fold(tokenizer: Any) -> bool:
    """Say whether a system text may go into the first user turn where the template has no place for it."""
    bound = tokenizer.apply_chat_template
    return bound.folds if isinstance(bound, Applied) else True


def own_template(tokenizer: Any) -> str:
    """Return the text of the template that plain conversations go through, empty where there is none."""
    template: Any = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    return template or ""


@dataclasses.dataclass(frozen=True)
class Reads:
    """What a template reads: names that it is handed, whether the clock is among them, and what it draws at random."""

    names: frozenset[str] = frozenset()
    clock: bool = False
    drawn: tuple[str, ...] = ()


class _Generation(jinja2.ext.Extension):
    """Takes transformers' `generation` blocks, which mark answers and change no text."""

    tags = {"generation"}  # noqa: RUF012  as jinja declares it

    def parse(self, parser: Any) -> list[nodes.Node]:
        """Return what stands in the block."""
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


def parse_template(text: str) -> nodes.Template:
    """Return a template's parts. Raises jinja2.TemplateSyntaxError."""
    return jinja2.Environment(extensions=[_Generation, "jinja2.ext.loopcontrols"], autoescape=False).parse(text)  # noqa: S701  parsed, never rendered


@functools.lru_cache(maxsize=16)
def reads(text: str) -> Reads:
    """Return what a template reads; nothing of one that is no template, as `find_style` tells why."""
    try:
        parsed = parse_template(text)
    except jinja2.TemplateSyntaxError:
        return Reads(clock=CLOCK in text)
    # What jinja cannot find in the template comes from outside; what a template never reads cannot change its text.
    names = frozenset(jinja2.meta.find_undeclared_variables(parsed))
    called = {node.name for node in parsed.find_all(nodes.Filter)}
    called |= {node.name for node in parsed.find_all(nodes.Name)}
    return Reads(names - {CLOCK, "raise_exception"}, CLOCK in names, tuple(sorted(_DRAWN & called)))
