"""The door to vLLM: one engine in this process, for log-probabilities of token ids and for text.

Scores are of token ids that the trainer made, so no tokenizer stands between the two. Their requests
do not read the prefix cache: a number then cannot depend on what was asked before.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import importlib.metadata
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ratchet.errors import EngineDeathError, ModelError
from ratchet.pairs.pair import Ids
from ratchet.pairs.style import chat_ids
from ratchet.pairs.tokenizer import load_tokenizer
from ratchet.pairs.trust import refuse_code
from ratchet.serving.requests import (
    Answer,
    ChatRequest,
    CompletionRequest,
    ContinuationRequest,
    Request,
    Sampling,
    request_words,
)
from ratchet.serving.served import Served, engine_options, shape_of

logger = logging.getLogger(__name__)

# One process an actor, and the engine dies with it: whatever the environment says.
_IN_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
_ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "ERROR"}


def version() -> str | None:
    """Return the version of vLLM that is installed, or None; imports nothing."""
    try:
        return importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return None


class VllmEngine:
    """One engine. Raises ModelError for a model that vLLM does not take, EngineDeathError where memory is short."""

    def __init__(self, served: Served) -> None:
        os.environ.update({**_ENVIRONMENT, **os.environ, **_IN_PROCESS})
        self.served = served
        self._adapters: dict[Path, Any] = {}
        if not served.trust_remote_code:
            refuse_code(served.folder, "vLLM")
        self._llm = _start(served)
        self._by_token_ids = _takes_token_ids(self._llm)
        try:
            self.answer_logps([(np.array([1, 2], np.int32), 1)])  # the first request is slow, and shows what is wrong
        except EngineDeathError as error:
            self.close()
            if _is_memory(error.__cause__):
                raise
            raise _refused(served, error.what) from error

    def answer_logps(
        self, sequences: Sequence[tuple[Ids, int]], adapter: Path | None = None
    ) -> npt.NDArray[np.float64]:
        """Return Σ log p(ids[i] | ids[:i]) over i ≥ first for each (ids, first), in nats, shape (S,).

        Summed in float64. `adapter` is a folder in peft's layout, put on the model for these requests.
        Raises EngineDeathError; ModelError where the engine gives no finite number.
        """
        return np.array([tokens.sum(dtype=np.float64) for tokens in self.token_logps(sequences, adapter)], np.float64)

    def token_logps(
        self, sequences: Sequence[tuple[Ids, int]], adapter: Path | None = None
    ) -> list[npt.NDArray[np.float32]]:
        """Return log p(ids[i] | ids[:i]) for i ≥ first of each (ids, first), as `answer_logps` adds them up."""
        lora = None if adapter is None else self._lora(adapter)
        outputs = self._run(
            [{"prompt_token_ids": ids.tolist()} for ids, _ in sequences],
            [self._scoring(ids, first) for ids, first in sequences],
            lora,
        )
        return [_answer_logps(output, first) for output, (_, first) in zip(outputs, sequences, strict=True)]

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """Return the answer to each chat, completion or continuation request, in their order.

        Raises EngineDeathError, ModelError.
        """
        scored = [one for one in requests if isinstance(one, ContinuationRequest)]
        texts = [one for one in requests if not isinstance(one, ContinuationRequest)]
        prompts = [self._prompt(one) for one in texts]
        outputs = self._run(prompts, [self._sampling(one) for one in texts], None) if texts else []
        written = iter([_answer_of(output, request) for output, request in zip(outputs, texts, strict=True)])
        likely = iter(self._continuations(scored))
        return [next(likely if isinstance(one, ContinuationRequest) else written) for one in requests]

    def _continuations(self, requests: Sequence[ContinuationRequest]) -> list[Answer]:
        from vllm import SamplingParams

        rows = [(request.context, one) for request in requests for one in request.continuations]
        asked = SamplingParams(max_tokens=1, temperature=0.0, detokenize=False, prompt_logprobs=0, flat_logprobs=True)
        prompts = [{"prompt_token_ids": [*context, *one]} for context, one in rows]
        outputs = self._run(prompts, [asked] * len(rows), None) if rows else []
        return _continuation_answers(requests, outputs)

    def reload(self, folder: Path) -> bool:
        """Put the weights of another folder into the engine; return False where that cannot be done in place."""
        if self.served.adapter_rank or shape_of(folder) != shape_of(self.served.folder):
            return False
        try:
            self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
            if shape_of(folder).get("tie_word_embeddings", True):
                self._llm.apply_model(_tie)
            self._llm.reset_prefix_cache()
        except Exception as error:
            logger.info("weights could not be put in place, another engine is started: %s", _first_line(error))
            return False
        self.served = dataclasses.replace(self.served, folder=folder)
        return True

    def close(self) -> None:
        """Free the model and its memory."""
        if self._llm is None:
            return
        self._llm.llm_engine.engine_core.shutdown()
        self._llm = None
        gc.collect()
        if self.served.gpu:
            import torch

            torch.cuda.empty_cache()

    def _run(self, prompts: list[Any], sampling: list[Any], lora: Any) -> list[Any]:
        import torch
        from vllm.exceptions import VLLMValidationError

        if self._llm is None:
            raise EngineDeathError("the engine is closed", where=str(self.served.folder))
        # On a CPU vLLM compiles one small function for the first request, which needs a C++ compiler: not so eagerly.
        stance = contextlib.nullcontext() if self.served.gpu else torch.compiler.set_stance("force_eager")
        try:
            with stance:
                return list(self._llm.generate(prompts, sampling, lora_request=lora, use_tqdm=False))
        except VLLMValidationError as error:
            raise ModelError(f"vLLM refuses a request: {_first_line(error)}", where=str(self.served.folder)) from error
        except Exception as error:  # whatever it was: the requests stay queued, and the next call would spin over them
            raise EngineDeathError(f"vLLM stopped: {_first_line(error)}", where=str(self.served.folder)) from error

    def _scoring(self, ids: Ids, first: int) -> Any:
        from vllm import SamplingParams

        common: dict[str, Any] = {"max_tokens": 1, "temperature": 0.0, "detokenize": False}
        if self._by_token_ids:
            targets = np.asarray(ids[first:], np.int32)[:, None]
            return SamplingParams(**common, prompt_logprob_token_ids=targets, prompt_logprob_start=first - 1)
        return SamplingParams(**common, prompt_logprobs=0, flat_logprobs=True)

    def _sampling(self, request: Request) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        if not isinstance(request, ChatRequest | CompletionRequest):
            raise ModelError(f"no text is drawn for {request_words(request)}", code="model.request")
        asked: Sampling = request.sampling
        return SamplingParams(
            max_tokens=asked.max_tokens,
            temperature=asked.temperature,
            top_p=asked.top_p,
            seed=asked.seed,
            stop=list(asked.stop) or None,
            stop_token_ids=list(self.served.end_ids) or None,
            structured_outputs=StructuredOutputsParams(choice=list(asked.choice)) if asked.choice else None,
        )

    @functools.cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(self.served.folder, self.served.chat_template)

    def _prompt(self, request: Request) -> Any:
        match request:
            case ChatRequest(turns=turns):
                return {"prompt_token_ids": chat_ids(self._tokenizer, turns)}
            case CompletionRequest(prompt=str(text)):
                return text
            case CompletionRequest(prompt=ids):
                return {"prompt_token_ids": list(ids)}
        what = f"an engine in this process gives scores by `answer_logps`, not by {request_words(request)}"
        raise ModelError(what, code="model.request")

    def _lora(self, folder: Path) -> Any:
        from vllm.lora.request import LoRARequest

        if folder not in self._adapters:
            number = len(self._adapters) + 1
            self._adapters[folder] = LoRARequest(f"adapter-{number}", number, str(folder))
        return self._adapters[folder]


def _start(served: Served) -> Any:
    try:
        from vllm import LLM

        return LLM(**engine_options(served))
    except ImportError as error:
        raise ModelError(
            f"vLLM does not load: {_first_line(error)}", fix="install it again (docs/install.md)"
        ) from error
    except Exception as error:  # vLLM, pydantic, safetensors and the hub raise their own
        if _is_memory(error):
            raise EngineDeathError(f"no memory for vLLM: {_first_line(error)}", where=str(served.folder)) from error
        raise _refused(served, _first_line(error)) from error


def _is_memory(error: BaseException | None) -> bool:
    import torch

    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "out of memory" in said or "free memory" in said


def _refused(served: Served, what: str) -> ModelError:
    return ModelError(
        f"vLLM does not take this model: {what}",
        where=str(served.folder),
        fix="set reference.engine to trainer, or name a model that vLLM knows; "
        "if its context is too short, lower the stage's max_length",
    )


def _tie(model: Any) -> None:
    """Make a tied head the embedding again: vLLM 0.32 leaves the old one in its place when weights are reloaded."""
    head, embedding = model.lm_head, model.model.embed_tokens
    head.weight = embedding.weight
    head.quant_method.process_weights_after_loading(head)


def _takes_token_ids(llm: Any) -> bool:
    """Whether log-probabilities of given ids alone can be had, as an array; vLLM's second model runner can."""
    from vllm import SamplingParams

    known = hasattr(SamplingParams(), "prompt_logprob_token_ids")
    return known and bool(getattr(llm.llm_engine.vllm_config, "use_v2_model_runner", False))


def _first_line(error: BaseException) -> str:
    """Return the line of an error that says what is wrong: pydantic's has more before and after it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line.removeprefix("Value error, ").partition(" [type=")[0] for line in lines if "Value error, " in line]
    return (said or lines[-1:] or [type(error).__name__])[0][:300]


def _answer_of(output: Any, request: Request) -> Answer:
    """Return vLLM's answer. Raises EngineDeathError where it gave the request up."""
    (said,) = output.outputs
    if said.finish_reason == "error":
        raise EngineDeathError(f"vLLM gave up {request_words(request)}")
    return Answer(said.text, str(said.finish_reason), len(output.prompt_token_ids), len(said.token_ids))


def _continuation_answers(requests: Sequence[ContinuationRequest], outputs: Sequence[Any]) -> list[Answer]:
    """Return the answers to continuation requests from one scored prompt for each continuation, in their order."""
    left = iter(outputs)
    answers = []
    for request in requests:
        first = len(request.context)
        mine = [next(left) for _ in request.continuations]
        sums = tuple(float(_answer_logps(output, first).sum(dtype=np.float64)) for output in mine)
        tokens = first + sum(map(len, request.continuations))
        answers.append(Answer("", "scored", tokens, 0, sums, tuple(_is_greedy(output, first) for output in mine)))
    return answers


def _is_greedy(output: Any, first: int) -> bool:
    """Tell whether every token from `first` on is the most likely one there: its rank is 1."""
    flat = output.prompt_logprobs
    return bool((np.asarray(flat.ranks)[np.asarray(flat.start_indices[first:])] == 1).all())


def _answer_logps(output: Any, first: int) -> npt.NDArray[np.float32]:
    """Return an answer's log-probabilities. Raises ModelError where one is not finite."""
    if getattr(output, "prompt_token_id_logprobs", None) is not None:
        logps = np.asarray(output.prompt_token_id_logprobs, np.float32)[:, 0]
    else:
        flat = output.prompt_logprobs
        # The first log-probability of a position is the prompt token's own; position 0 has none.
        logps = np.asarray(flat.logprobs, np.float32)[np.asarray(flat.start_indices[first:])]
    wanted = len(output.prompt_token_ids) - first
    if not np.isfinite(logps).all() or len(logps) != wanted:
        said = f"vLLM gave {int(np.isfinite(logps).sum())} finite log-probabilities for {wanted} tokens"
        raise ModelError(said, fix="set reference.engine to trainer")
    return logps
