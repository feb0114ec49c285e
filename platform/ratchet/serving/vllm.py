"""The door to vLLM: one engine in this process, for log-probabilities of token ids and for text.

Scores are of token ids that the trainer made, so no tokenizer stands between the two. Their requests
do not read the prefix cache: a number then cannot depend on what was asked before.
"""

from __future__ import annotations

import contextlib
import dataclasses
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
from ratchet.pairs.chat import ChatTemplate
from ratchet.pairs.pair import Ids
from ratchet.pairs.trust import refuse_code
from ratchet.serving.model_config import bytes_of_a_token, first_line, shape_of
from ratchet.serving.requests import (
    Answer,
    ChatRequest,
    CompletionRequest,
    ContinuationRequest,
    Request,
    Sampling,
    request_words,
)
from ratchet.serving.vllm_outputs import answer_logps, answer_of, continuation_answers

logger = logging.getLogger(__name__)

_IN_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
"""One process an actor, and the engine dies with it: whatever the environment says."""
_ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
_BATCHED_TOKENS = 2048
"""Tokens computed at a time. vLLM makes the logits of all of them at once, in float32: 152,000 words take 1.2 GB."""
_SEQUENCES = 64
_GPU_SHARE = 0.85
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks of adapters that vLLM makes room for."""


@dataclasses.dataclass(frozen=True)
class Served:
    """What an engine holds: a model folder, and how.

    `longest` is in tokens, prompt and answer together, and for scores one more, which is drawn and
    thrown away. `adapter_rank` above 0 makes room for adapters on the modules `adapter_targets`. An
    engine with a `tokenizer` writes text, and ends an answer at `end_ids` as well as at the model's own.
    """

    folder: Path
    dtype: str
    longest: int
    gpu: bool
    tensor_parallel: int = 1
    quantisation: str | None = None
    trust_remote_code: bool = False
    tokenizer: bool = False
    end_ids: tuple[int, ...] = ()
    chat_template: ChatTemplate | None = None
    adapter_rank: int = 0
    adapter_targets: tuple[str, ...] = ()
    batched_tokens: int = _BATCHED_TOKENS


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
        return [answer_logps(output, first) for output, (_, first) in zip(outputs, sequences, strict=True)]

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """Return the answer to each chat, completion or continuation request, in their order.

        Raises EngineDeathError, ModelError.
        """
        scored = [one for one in requests if isinstance(one, ContinuationRequest)]
        texts = [one for one in requests if not isinstance(one, ContinuationRequest)]
        prompts = [self._prompt(one) for one in texts]
        outputs = self._run(prompts, [self._sampling(one) for one in texts], None) if texts else []
        written = iter([answer_of(output, request) for output, request in zip(outputs, texts, strict=True)])
        likely = iter(self._continuations(scored))
        return [next(likely if isinstance(one, ContinuationRequest) else written) for one in requests]

    def _continuations(self, requests: Sequence[ContinuationRequest]) -> list[Answer]:
        from vllm import SamplingParams

        rows = [(request.context, one) for request in requests for one in request.continuations]
        asked = SamplingParams(max_tokens=1, temperature=0.0, detokenize=False, prompt_logprobs=0, flat_logprobs=True)
        prompts = [{"prompt_token_ids": [*context, *one]} for context, one in rows]
        outputs = self._run(prompts, [asked] * len(rows), None) if rows else []
        return continuation_answers(requests, outputs)

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
            logger.info("weights could not be put in place, another engine is started: %s", first_line(error))
            return False
        self.served = dataclasses.replace(self.served, folder=folder)
        return True

    def close(self) -> None:
        """Let go of the model and its memory."""
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
            raise ModelError(f"vLLM refuses a request: {first_line(error)}", where=str(self.served.folder)) from error
        except Exception as error:  # whatever it was: the requests stay queued, and the next call would spin over them
            raise EngineDeathError(f"vLLM stopped: {first_line(error)}", where=str(self.served.folder)) from error

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
            raise ModelError(f"no text is drawn for {request_words(request)}")
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

    def _prompt(self, request: Request) -> Any:
        match request:
            case ChatRequest(turns=turns):
                messages = [{"role": turn.role, "content": turn.content} for turn in turns]
                tokenizer = self._llm.get_tokenizer()
                chat = self.served.chat_template or ChatTemplate()
                template = chat.text or tokenizer.chat_template
                if template is None:
                    raise ModelError(
                        "its tokenizer has no chat template", where=str(self.served.folder), fix="name one"
                    )
                ids = tokenizer.apply_chat_template(
                    messages, chat_template=template, add_generation_prompt=True, return_dict=False, **chat.handed
                )
                return {"prompt_token_ids": list(ids)}
            case CompletionRequest(prompt=str(text)):
                return text
            case CompletionRequest(prompt=ids):
                return {"prompt_token_ids": list(ids)}
        raise ModelError(f"an engine in this process gives scores by `answer_logps`, not by {request_words(request)}")

    def _lora(self, folder: Path) -> Any:
        from vllm.lora.request import LoRARequest

        if folder not in self._adapters:
            number = len(self._adapters) + 1
            self._adapters[folder] = LoRARequest(f"adapter-{number}", number, str(folder))
        return self._adapters[folder]


def _start(served: Served) -> Any:
    try:
        from vllm import LLM

        return LLM(**_options(served))
    except ImportError as error:
        raise ModelError(
            f"vLLM does not load: {first_line(error)}", fix="install it again (docs/install.md)"
        ) from error
    except Exception as error:  # vLLM, pydantic, safetensors and the hub raise their own
        if _is_memory(error):
            raise EngineDeathError(f"no memory for vLLM: {first_line(error)}", where=str(served.folder)) from error
        raise _refused(served, first_line(error)) from error


def _is_memory(error: BaseException | None) -> bool:
    import torch

    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "out of memory" in said or "free memory" in said


def _options(served: Served) -> dict[str, Any]:
    options: dict[str, Any] = {"gpu_memory_utilization": _GPU_SHARE}
    if not served.gpu:
        tokens = 2 * max(served.batched_tokens, served.longest) + _SEQUENCES * 128  # in blocks of 128
        options = {"kv_cache_memory_bytes": max(64 << 20, tokens * bytes_of_a_token(served.folder, served.dtype))}
    if served.adapter_rank:
        rank = next((rank for rank in _RANKS if rank >= served.adapter_rank), served.adapter_rank)
        # Named modules: else vLLM wraps the head too, and then gives wrong prompt log-probabilities or none.
        options |= {
            "enable_lora": True,
            "max_lora_rank": rank,
            "max_loras": 1,
            "lora_target_modules": list(served.adapter_targets),
        }
    return options | {
        "model": str(served.folder),
        "dtype": served.dtype,
        "quantization": served.quantisation,
        "tensor_parallel_size": served.tensor_parallel,
        "trust_remote_code": served.trust_remote_code,
        "skip_tokenizer_init": not served.tokenizer,
        "max_model_len": served.longest,
        "generation_config": "vllm",  # sampling is what a request says, not what the model's folder recommends
        "max_num_seqs": _SEQUENCES,
        "max_num_batched_tokens": served.batched_tokens,
        "enable_prefix_caching": False,
        "enforce_eager": True,  # a captured graph gains nothing where each sequence is read once
        "seed": 0,
        "disable_log_stats": True,
    }


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
