"""What an engine is asked for lm-eval's requests, in tokens, and lm-eval's answers from what the engine says.

Tokens are those of lm-eval's own `HFLM`: the same BOS rule, the same split of context and continuation, the same cut
from the left. The profile `openllm-v1` never adds special tokens, as the harness of 2023 did not.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from lm_eval.api.model import LM, TemplateLM
from lm_eval.models.utils import has_bos_prefix, normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from ratchet.errors import DataError, ModelError, PlanError
from ratchet.evaluate.thoughts import spoken
from ratchet.serving.requests import Answer, CompletionRequest, ContinuationRequest, Request, Sampling

MAX_NEW_TOKENS = 256
"""What lm-eval lets a model say where the task sets no bound."""
# What engines here can do of what a definition may ask for.
_KNOWN = frozenset({"until", "do_sample", "temperature", "top_p", "max_gen_toks"})
Window = tuple[list[int], list[int]]
Tokens = tuple[int, ...]
Part = tuple[int, int]
"""Number of a request, and of one of its continuations."""


class Encoder(TemplateLM):  # type: ignore[misc]
    """A model for lm-eval whose answer to a request is the tokens to ask an engine about.

    `longest` is how many positions the model has. `special` is whether to add the tokenizer's special tokens;
    None leaves it to the tokenizer.
    """

    def __init__(self, tokenizer: Any, longest: int, *, special: bool | None) -> None:
        super().__init__()
        self.tokenizer, self.longest, self.special = tokenizer, longest, special
        self.joined = 0
        self._encode = functools.lru_cache(maxsize=64)(self._tokens)  # a document's choices share their context

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self.tokenizer.eos_token_id  # type: ignore[no-any-return]

    @property
    def prefix_token_id(self) -> int:
        """The token that stands before a text with nothing before it."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        """The tokenizer's name."""
        return str(self.tokenizer.name_or_path)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Return a text's token ids."""
        return list(self._encode(string, add_special_tokens))

    def _tokens(self, string: str, special: bool | None) -> Tokens:
        if special is None:
            special = self.special
            prefix = self.prefix_token_id
            if prefix is not None and has_bos_prefix(string, self.tokenizer.decode(prefix)):
                special = False  # a chat template wrote it already
        options = {} if special is None else {"add_special_tokens": special}
        return tuple(self.tokenizer(string, verbose=False, **options)["input_ids"])

    def _encode_pair(self, context: str, continuation: str) -> Window:
        """Return the tokens of a context and of a text after it.

        Where one token reaches over the join, the text after it may be left without any. Then both are encoded by
        themselves, which `joined` counts (EleutherAI/lm-evaluation-harness, issue 1053).
        """
        before, after = super()._encode_pair(context, continuation)
        if not after and continuation:
            self.joined += 1
            spaces = context[len(context.rstrip()) :]  # which belong to what comes after, as lm-eval has it
            after = self.tok_encode(spaces + continuation, add_special_tokens=False)
        return before, after

    def _loglikelihood_tokens(self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any) -> list[Window]:
        return [(context, continuation) for _, context, continuation in requests]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[list[Window]]:
        """Return each text's windows: what is before, and what is predicted."""
        return [
            [
                make_disjoint_window(window)
                for window in get_rolling_token_windows(
                    token_list=self.tok_encode(request.args[0]),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=self.longest,
                    context_len=1,
                )
            ]
            for request in requests
        ]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[list[int], Sampling]]:
        """Return each prompt's token ids, and how to go on from them."""
        return [(self.tok_encode(prompt), sampling_of(options)) for prompt, options in (it.args for it in requests)]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return a conversation as the text that the model is asked with. Raises ModelError."""
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    chat_history,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    continue_final_message=not add_generation_prompt,
                )
            )
        except (jinja2.TemplateError, ValueError) as error:
            raise ModelError(
                f"the chat template does not take the task's conversation: {error}",
                where=self.tokenizer_name,
                fix="leave chat_template out",
            ) from error


class ReplayModel(LM):  # type: ignore[misc]
    """A model for lm-eval that says what was answered before; `said` has answers by the identity of a request."""

    def __init__(self, said: Mapping[int, Sequence[Any]]) -> None:
        super().__init__()
        self.said = {key: iter(answers) for key, answers in said.items()}

    def _next(self, requests: Sequence[Any]) -> list[Any]:
        # By identity, as requests of several documents may be equal.
        return [next(self.said[id(request)]) for request in requests]

    loglikelihood = loglikelihood_rolling = generate_until = _next


@dataclasses.dataclass(frozen=True)
class HarnessRequests:
    """What an engine is asked for one leaf. Each instance, `repeats` times over, has its parts: which request, and
    which of its continuations. `cut` counts those whose context was cut from the left, `joined` the continuations
    whose first token began in the context.
    """

    instances: Sequence[Any]
    requests: tuple[Request, ...]
    parts: tuple[tuple[Part, ...], ...]
    cut: int
    joined: int

    def said(self, answers: Sequence[Answer]) -> dict[int, list[Any]]:
        """Return lm-eval's answer to each instance, once for every repeat, by the instance's identity."""
        said: dict[int, list[Any]] = {}
        instances = [instance for instance in self.instances for _ in range(instance.repeats)]
        for instance, parts in zip(instances, self.parts, strict=True):
            match instance.request_type:
                case "loglikelihood":
                    value: Any = _likelihood(answers, parts[0])
                case "loglikelihood_rolling":
                    value = sum(_likelihood(answers, part)[0] for part in parts)
                case _:
                    # What lm-eval looks for in a text, it finds in what was said: thoughts are cut.
                    value = spoken(answers[parts[0][0]].text) or ""
            said.setdefault(id(instance), []).append(value)
        return said

    def texts(self, answers: Sequence[Answer]) -> dict[int, str]:
        """Return the first text that was written about each document, thoughts and all."""
        found: dict[int, str] = {}
        instances = [instance for instance in self.instances for _ in range(instance.repeats)]
        for instance, parts in zip(instances, self.parts, strict=True):
            if instance.request_type == "generate_until":
                found.setdefault(instance.doc_id, answers[parts[0][0]].text)
        return found


def encode_requests(encoder: Encoder, instances: Sequence[Any]) -> HarnessRequests:
    """Return what to ask an engine for a leaf's instances; the choices of one document go together.

    Raises DataError where a text to be scored is empty or longer than the model; PlanError and ModelError
    where the model cannot be asked as the task says.
    """
    builder = _Builder(encoder.longest)
    parts: list[tuple[Part, ...]] = []
    for instance, tokens in zip(instances, _tokens_of(encoder, instances), strict=True):
        for repeat in range(instance.repeats):
            match instance.request_type:
                case "loglikelihood":
                    parts.append((builder.continuation(instance, *tokens),))
                case "loglikelihood_rolling":
                    parts.append(tuple(builder.continuation(instance, *window) for window in tokens))
                case _:
                    prompt, sampling = tokens
                    parts.append((builder.completion(instance, prompt, sampling, repeat),))
    return HarnessRequests(instances, builder.requests(), tuple(parts), len(builder.cut), encoder.joined)


def _tokens_of(encoder: Encoder, instances: Sequence[Any]) -> list[Any]:
    found: dict[int, Any] = {}
    # One kind at a time, as lm-eval's methods take requests of one kind.
    for kind in sorted({instance.request_type for instance in instances}):
        some = [instance for instance in instances if instance.request_type == kind]
        answers = getattr(encoder, kind)(some, disable_tqdm=True)
        found.update((id(instance), tokens) for instance, tokens in zip(some, answers, strict=True))
    return [found[id(instance)] for instance in instances]


@dataclasses.dataclass(frozen=True)
class _Choices:
    """Continuations of one context, each once; their number by their tokens."""

    number: int
    numbers: dict[Tokens, int] = dataclasses.field(default_factory=dict)


class _Builder:
    """Gathers requests: the continuations of one document that share a context become one."""

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self.count = 0
        self.cut: set[int] = set()  # by the identity of the instance
        self.choices: dict[tuple[int, Tokens], _Choices] = {}
        self.completions: dict[int, CompletionRequest] = {}

    def continuation(self, instance: Any, context: list[int], continuation: list[int]) -> Part:
        """Add a text to be scored. Raises DataError."""
        if not 0 < len(continuation) <= self.longest:
            raise DataError(
                f"a text of {len(continuation)} tokens is to be scored, and the model has {self.longest} positions",
                where=f"{instance.task_name}, document {instance.doc_id}",
                fix="use a model with more positions" if continuation else "look at the document: its text is no token",
            )
        keep = self.longest + 1 - len(continuation)  # the last token is predicted, and takes no position
        if len(context) > keep:
            self.cut.add(id(instance))
        found = self.choices.setdefault((instance.doc_id, tuple(context[-keep:])), _Choices(self.count))
        if found.number == self.count:
            self.count += 1
        return found.number, found.numbers.setdefault(tuple(continuation), len(found.numbers))

    def completion(self, instance: Any, prompt: list[int], sampling: Sampling, repeat: int) -> Part:
        """Add a text to be gone on with. Raises ModelError."""
        room = self.longest - sampling.max_tokens
        if room <= 0:
            raise ModelError(
                f"{instance.task_name} asks for {sampling.max_tokens} new tokens, "
                f"and the model has {self.longest} positions",
                fix="leave the task out, or use a model with more positions",
            )
        if len(prompt) > room:
            self.cut.add(id(instance))
        seed = repeat if sampling.temperature else None  # equal requests are one request
        self.completions[self.count] = CompletionRequest(
            tuple(prompt[-room:]), dataclasses.replace(sampling, seed=seed)
        )
        self.count += 1
        return self.count - 1, 0

    def requests(self) -> tuple[Request, ...]:
        """Return what was gathered, by number."""
        found: dict[int, Request] = dict(self.completions)
        for (_, context), choices in self.choices.items():
            found[choices.number] = ContinuationRequest(context, tuple(choices.numbers))
        return tuple(found[number] for number in range(self.count))


def sampling_of(options: Mapping[str, Any]) -> Sampling:
    """Return how text is drawn for lm-eval's `generation_kwargs`. Raises PlanError for what engines here cannot do."""
    wanted: dict[str, Any] = dict(normalize_gen_kwargs(dict(options), MAX_NEW_TOKENS))
    if unknown := sorted(wanted.keys() - _KNOWN):
        raise PlanError(
            f"the task asks for text drawn with {', '.join(unknown)}", fix="it cannot be asked here", code="plan.task"
        )
    return Sampling(
        max_tokens=wanted["max_gen_toks"],
        temperature=float(wanted.get("temperature") or 0.0) if wanted["do_sample"] else 0.0,
        top_p=float(wanted.get("top_p", 1.0)),
        stop=tuple(dict.fromkeys(text for text in wanted["until"] if text)),
    )


def _likelihood(answers: Sequence[Answer], part: Part) -> tuple[float, bool]:
    """Return a continuation's log-probability in nats, and whether it is what the model would say unasked."""
    answer = answers[part[0]]
    value = answer.logprobs[part[1]] if answer.logprobs else None
    if value is None or answer.greedy is None:
        raise ModelError("the engine does not say how likely a continuation is", fix="leave engine out")
    return value, answer.greedy[part[1]]
