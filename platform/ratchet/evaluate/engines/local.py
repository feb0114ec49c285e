"""An engine in this process: a model as transformers loads it, for texts and for likelihoods.

Each row of a batch is drawn by its own rules: temperature, nucleus, seed, length and stop texts.

Axes: _S prompts, _T tokens, _V vocabulary.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ratchet.errors import EngineDeathError, ModelError
from ratchet.evaluate.engines.likelihood import forest_reach, likelihoods, may_share
from ratchet.evaluate.thoughts import is_token_of_marks
from ratchet.model.causal import need_causal, trying
from ratchet.model.load import load_model, original_length, put_back
from ratchet.pairs.chat import ChatTemplate
from ratchet.pairs.style import chat_ids, find_style
from ratchet.pairs.tokenizer import load_tokenizer
from ratchet.serving.requests import (
    Answer,
    ChatRequest,
    CompletionRequest,
    ContinuationRequest,
    Request,
    Sampling,
    request_words,
)
from ratchet.store.machine import out_of_memory

COLDEST = 1e-4
"""Below this temperature an answer is greedy, as in FastChat."""
_WRITES = "ask it for likelihoods alone, set the suite's engine to vllm, or give another model"


class LocalEngine:
    """Holds a model and answers requests; those of one call are one batch for each kind.

    A text ends where the model has no positions left; a prompt must leave one. `chat_template` says how chats
    become text.

    Raises ModelError, CorruptError where the folder holds no model that can be used.
    """

    def __init__(
        self,
        folder: Path,
        dtype: str,
        device: str,
        *,
        chat_template: ChatTemplate | None = None,
        trust_remote_code: bool = False,
        quantise: str | None = None,
    ) -> None:
        self.folder = folder
        self.tokenizer = load_tokenizer(folder, chat_template)
        self.model = load_model(folder, dtype, trust_remote_code=trust_remote_code, quantise=quantise)
        # Requests alone decide answers, as with vLLM: no penalties, beams or bans of the folder's own settings.
        from transformers import GenerationConfig  # not before `load_model`, which leaves out what nobody needs of it

        self.model.generation_config = GenerationConfig()
        if quantise is None:  # bitsandbytes has put its weights where they belong
            self.model.to(device)
        self.ends = end_ids_of(self.tokenizer)
        need_causal(self.model, masked=True)
        # Tried once and not looked up by architecture: remote code may bring a cache of its own.
        self.share, self.reach = may_share(self.model), forest_reach(self.model)
        config = self.model.config.get_text_config()
        self.original = original_length(self.model.config)
        # A model whose layers keep a state, such as Mamba, names no limit.
        self.longest = getattr(config, "max_position_embeddings", None) or sys.maxsize
        self.computed = 0
        self.model.get_input_embeddings().register_forward_hook(self._count)

    def _count(self, _module: Any, _inputs: Any, out_STH: Tensor) -> None:
        self.computed += out_STH.shape[:-1].numel()

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """Return one answer for each request, in their order.

        Raises ModelError for what no model is asked, EngineDeathError where memory runs out.
        """
        before = self.computed
        try:
            answers = self._answer_all(requests)
        except RuntimeError as error:
            if not out_of_memory(f"{type(error).__name__}: {error}"):
                raise
            raise EngineDeathError(
                f"no memory for a batch of {len(requests)} requests, the first {request_words(requests[0])}",
                where=str(self.folder),
                fix="lower the task's batch_tokens; what was answered is kept, other batches give other last bits",
            ) from error
        each, rest = divmod(self.computed - before, max(1, len(answers)))
        return [dataclasses.replace(one, computed=each + (at < rest)) for at, one in enumerate(answers)]

    def _answer_all(self, requests: Sequence[Request]) -> list[Answer]:
        answers: dict[int, Answer] = {}
        texts = [place for place, one in enumerate(requests) if isinstance(one, ChatRequest | CompletionRequest)]
        scores = [place for place, one in enumerate(requests) if isinstance(one, ContinuationRequest)]
        if len(texts) + len(scores) < len(requests):
            odd = next(
                one for one in requests if not isinstance(one, ChatRequest | CompletionRequest | ContinuationRequest)
            )
            raise ModelError(
                f"this engine has no answer to {request_words(odd)}", where=str(self.folder), code="model.request"
            )
        if texts:
            for some in self._batches([requests[place] for place in texts]):
                places = [texts[at] for at in some]
                answers |= zip(places, self._write([requests[place] for place in places]), strict=True)
        if scores:
            asked = [one for one in requests if isinstance(one, ContinuationRequest)]
            with trying(self.model, "fails to score continuations", "give a causal language model of texts"):
                made = likelihoods(self.model, asked, share=self.share, reach=self.reach)
            answers |= zip(scores, made, strict=True)
        return [answers[place] for place in range(len(requests))]

    def _batches(self, requests: Sequence[Any]) -> list[list[int]]:
        """Divide requests, by their places, so that no row of a batch is led beyond the model's positions.

        Nor is any led beyond the length up to which its rotary frequencies do not depend on the others: such a one is
        alone.
        """
        batches: list[list[int]] = []
        prompts = [len(prompt_ids(self.tokenizer, request)) for request in requests]
        answers = [
            min(request.sampling.max_tokens, self.longest - prompt)
            for request, prompt in zip(requests, prompts, strict=True)
        ]
        most = min(self.longest, self.original or self.longest)
        for at in range(len(requests)):
            grown = [*batches[-1], at] if batches else [at]
            # All rows of a batch are as wide as its longest prompt, and go on for as long as its longest answer.
            if batches and max(prompts[n] for n in grown) + max(answers[n] for n in grown) <= most:
                batches[-1] = grown
            else:
                batches.append([at])
        return batches

    def _write(self, requests: Sequence[Any]) -> list[Answer]:
        from transformers import LogitsProcessorList, StoppingCriteriaList

        prompts = [prompt_ids(self.tokenizer, request) for request in requests]
        rooms = [self.longest - len(prompt) for prompt in prompts]
        asked = [
            dataclasses.replace(request.sampling, max_tokens=min(request.sampling.max_tokens, room))
            for request, room in zip(requests, rooms, strict=True)
        ]
        width = max(map(len, prompts))
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id
        ids_ST = torch.full((len(prompts), width), pad, dtype=torch.long)
        mask_ST = torch.zeros_like(ids_ST)
        for row, prompt in enumerate(prompts):
            # To the right, as an answer goes on where its prompt ends.
            ids_ST[row, width - len(prompt) :] = torch.tensor(prompt)
            mask_ST[row, width - len(prompt) :] = 1
        if self.original is not None:
            put_back(self.model)
        with trying(self.model, "fails in transformers' generate", _WRITES), torch.inference_mode():
            out_ST = self.model.generate(
                input_ids=ids_ST.to(self.model.device),
                attention_mask=mask_ST.to(self.model.device),
                do_sample=False,  # `Draw` draws
                max_new_tokens=max(sampling.max_tokens for sampling in asked),
                eos_token_id=list(self.ends),
                pad_token_id=pad,
                use_cache=True,
                logits_processor=LogitsProcessorList([Draw(asked)]),
                stopping_criteria=StoppingCriteriaList([Done(asked, self.tokenizer, width)]),
            )
        return [
            self._answer(len(prompt), row, sampling)
            for prompt, row, sampling in zip(prompts, out_ST[:, width:].tolist(), asked, strict=True)
        ]

    def _answer(self, prompt_tokens: int, made: list[int], sampling: Sampling) -> Answer:
        end = next((place for place, one in enumerate(made) if one in self.ends), None)
        kept = made[: sampling.max_tokens] if end is None else made[:end]
        whole = decoded_text(self.tokenizer, kept)
        text = cut_answers(whole, sampling.stop)
        reason = "stop" if end is not None or text != whole else "length"
        return Answer(text, reason, prompt_tokens, len(kept))


def decoded_text(tokenizer: Any, ids: Sequence[int]) -> str:
    """Return the text of token ids without special tokens, but with those that mark thoughts."""
    # Without the marks, what a model thought and what it said would be one text.
    special = {at: str(one) for at, one in tokenizer.added_tokens_decoder.items() if one.special}
    marks = {at for at, token in special.items() if is_token_of_marks(token)}
    text, begin = "", 0
    for place in [place for place, one in enumerate(ids) if one in marks] + [len(ids)]:
        text += tokenizer.decode(ids[begin:place], skip_special_tokens=True)
        text += special[ids[place]] if place < len(ids) else ""
        begin = place + 1
    return text


def end_ids_of(tokenizer: Any) -> tuple[int, ...]:
    """Return the tokens that end an answer: the tokenizer's EOS, and its chat template's end of turn."""
    found = {tokenizer.eos_token_id} - {None}
    if tokenizer.chat_template:
        found |= find_style(tokenizer).ends
    if not found:
        raise ModelError(
            "no token ends an answer", where=str(tokenizer.name_or_path), fix="set eos_token", code="model.no-end"
        )
    return tuple(sorted(found))


def prompt_ids(tokenizer: Any, request: ChatRequest | CompletionRequest) -> list[int]:
    """Return the token ids of a request's prompt. Raises ModelError where it has none, or a chat has no template."""
    match request:
        case ChatRequest(turns=turns):
            return chat_ids(tokenizer, turns)  # says what to do where there is no template
        case CompletionRequest(prompt=str(text)):
            ids = list(tokenizer(text)["input_ids"])
        case CompletionRequest(prompt=tuple(given)):
            ids = list(given)
    if not ids:
        raise ModelError(
            "an empty prompt",
            where=str(tokenizer.name_or_path),
            fix="begin it with the BOS token",
            code="model.request",
        )
    return ids


class Draw:
    """Turns each row's logits so that the greedy choice is that row's draw.

    Drawing is adding Gumbel noise to logits / temperature and taking the largest (Gumbel 1954; Maddison et al. 2014):
    the same distribution as sampling, and with a generator for each row no row's draw depends on the others.
    """

    def __init__(self, asked: Sequence[Sampling]) -> None:
        self.asked = asked
        # On the CPU, so that the draw does not depend on the device.
        self.generators = [torch.Generator().manual_seed(sampling.seed or 0) for sampling in asked]

    def __call__(self, input_ids: Tensor, scores_SV: Tensor) -> Tensor:
        """Return scores [S, V] whose largest entry of a row is its next token."""
        drawn_SV = scores_SV.float().clone()
        for row, (sampling, generator) in enumerate(zip(self.asked, self.generators, strict=True)):
            if sampling.temperature < COLDEST:
                continue
            warm_V = drawn_SV[row] / sampling.temperature
            if sampling.top_p < 1.0:
                warm_V = _nucleus(warm_V, sampling.top_p)
            uniform_V = torch.rand(warm_V.shape, generator=generator, dtype=torch.float64)
            # The logarithm of 0 is infinite, and so is that of the logarithm of 1.
            noise_V = -torch.log(-torch.log(uniform_V.clamp(min=1e-300, max=1 - 1e-16)))
            drawn_SV[row] = warm_V + noise_V.to(warm_V)
        return drawn_SV


def _nucleus(logits_V: Tensor, top_p: float) -> Tensor:
    """Rule out all but the most likely tokens that together reach `top_p` (Holtzman et al. 2020)."""
    ordered_V, order_V = logits_V.sort(descending=True)
    # What is likelier than a token, without the token: so the likeliest one always stays.
    before_V = ordered_V.softmax(-1).cumsum(-1) - ordered_V.softmax(-1)
    return logits_V.masked_fill(
        torch.zeros_like(logits_V, dtype=torch.bool).scatter(0, order_V, before_V >= top_p), -torch.inf
    )


class Done:
    """Ends a row at its own length, or once one of its stop texts stands in it."""

    def __init__(self, asked: Sequence[Sampling], tokenizer: Any, width: int) -> None:
        self.asked, self.tokenizer, self.width = asked, tokenizer, width
        self.over = [False] * len(asked)

    def __call__(self, input_ids_ST: Tensor, scores: Any, **_: Any) -> Tensor:
        """Return which rows [S] are over."""
        made = input_ids_ST.shape[1] - self.width
        for row, sampling in enumerate(self.asked):
            if not self.over[row]:
                self.over[row] = made >= sampling.max_tokens or self._stopped(input_ids_ST[row], sampling.stop)
        return torch.tensor(self.over, device=input_ids_ST.device)

    def _stopped(self, ids_T: Tensor, stop: Sequence[str]) -> bool:
        if not stop:
            return False
        # The end is enough: what came before was looked at when it came.
        reach = max(map(len, stop)) + 8
        text = self.tokenizer.decode(ids_T[max(self.width, len(ids_T) - reach) :], skip_special_tokens=True)
        return any(one in text for one in stop)


def cut_answers(text: str, stop: Sequence[str]) -> str:
    """Return the text before the first of the stop texts."""
    ends = [at for one in stop if (at := text.find(one)) >= 0]
    return text[: min(ends)] if ends else text
