"""Let a model answer prompts, by the engine that a task names."""

from __future__ import annotations

from ratchet.evaluate.generate_flow import generate
from ratchet.evaluate.vllm_pool import VllmPool
from ratchet.pairs.pair import Ids
from ratchet.pairs.render import find_style
from ratchet.pairs.tokenizer import load_tokenizer
from ratchet.pipeline.context import Model, Run
from ratchet.plan.suite import ExactMatch
from ratchet.serving.journal import Journal
from ratchet.serving.requests import CompletionRequest, Sampling
from ratchet.serving.vllm import Served, version

_BATCH = 64


def write_answers(run: Run, model: Model, task: ExactMatch, prompts: list[Ids]) -> list[str]:
    """Return a greedy answer to each prompt, given as token ids. Raises ModelError, StorageError."""
    return (_by_vllm if task.engine == "vllm" else _by_transformers)(run, model, task, prompts)


def _by_transformers(run: Run, model: Model, task: ExactMatch, prompts: list[Ids]) -> list[str]:
    return generate(
        model.folder,
        prompts,
        dtype=model.dtype,
        batch=_BATCH,
        max_new_tokens=task.max_new_tokens,
        actors=run.plan.cluster.score_actors,
        gpus=run.plan.cluster.gpus_per_worker,
        chat_template=run.chat_template,
        trust_remote_code=model.trust_remote_code,
    )


def _by_vllm(run: Run, model: Model, task: ExactMatch, prompts: list[Ids]) -> list[str]:
    """Answer through vLLM; every answer is journalled in the run folder, and none is asked for twice."""
    if not prompts:
        return []
    cluster = run.plan.cluster
    served = Served(
        model.folder,
        model.dtype,
        max(len(prompt) for prompt in prompts) + task.max_new_tokens,
        bool(cluster.gpus_per_worker),
        tensor_parallel=cluster.tensor_parallel,
        trust_remote_code=model.trust_remote_code,
        tokenizer=True,
        chat_template=run.chat_template,
        end_ids=(find_style(load_tokenizer(model.folder, run.chat_template)).end_id,),
    )
    # What decides the answers beside the request: other precision or another engine gives others.
    name = f"{model.weights} {model.dtype} vllm {version()} end {served.end_ids}"
    sampling = Sampling(max_tokens=task.max_new_tokens)
    requests = [CompletionRequest(tuple(prompt.tolist()), sampling) for prompt in prompts]
    gpus = cluster.gpus_per_worker and max(cluster.gpus_per_worker, cluster.tensor_parallel)
    with Journal(run.folder / "answers" / f"{model.name}.jsonl") as journal:
        pool = VllmPool(served, name, journal, actors=cluster.score_actors, gpus=gpus, batch=_BATCH)
        return [answer.text for answer in pool.answer(requests)]
