"""What sharing saves for models with attention sinks or a carried state: `python -m benchmarks.families`.

A training step's scores and gradients of 8 pairs, with random weights and one thread: padded rows, in the attention
that transformers gives the model, and shared ones. The sides take turns on the same batches.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import GptOssConfig, Qwen3_5TextConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from benchmarks import machine
from benchmarks.shapes import SHAPES
from ratchet.model.batch import PADDED, Packing, collate
from ratchet.model.forward import PairScorer
from ratchet.pairs.pair import TokenisedPair

_VOCAB = 2_000
_SIZES = {
    **{"vocab_size": _VOCAB, "hidden_size": 256, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64},
    **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
}
FAMILIES = {
    "gpt-oss": GptOssConfig(
        **_SIZES,
        **{"intermediate_size": 256, "num_hidden_layers": 4, "num_local_experts": 8, "num_experts_per_tok": 2},
        rope_parameters={"rope_type": "default", "rope_theta": 150_000.0},
    ),
    "qwen3.5": Qwen3_5TextConfig(
        **_SIZES,
        **{"intermediate_size": 768, "num_hidden_layers": 4, "linear_num_key_heads": 4, "linear_num_value_heads": 8},
        **{"linear_key_head_dim": 64, "linear_value_head_dim": 64},
        layer_types=["linear_attention", "linear_attention", "linear_attention", "full_attention"],
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row of a table for each family and shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=["near twins", "one right, three wrong"])
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(machine.describe("cpu"))
    print("| family | shape | tokens: padded, shared | CPU s: padded, shared | × (each round) | gradient off |")
    print("|---|---|---|---|---|---|")
    for family in options.family:
        for shape in options.shape:
            pairs = SHAPES[shape](8, _VOCAB, 0)
            print(_row(family, shape, pairs, getattr(torch, options.dtype), options.rounds), flush=True)


def _row(family: str, shape: str, pairs: list[TokenisedPair], dtype: torch.dtype, rounds: int) -> str:
    sides = [_side(family, dtype, shares=shares) for shares in (False, True)]
    seconds: list[list[float]] = [[], []]
    for _ in range(rounds + 1):  # the first is thrown away
        for side, taken in zip(sides, seconds, strict=True):
            taken.append(_step(side, pairs))
    padded, shared = (taken[1:] for taken in seconds)
    ratios = [one / other for one, other in zip(padded, shared, strict=True)]
    tokens = [collate(pairs, side.packing).computed for side in sides]
    grads = [torch.cat([weight.grad.flatten() for weight in side.parameters()]) for side in sides]
    off = float((grads[0] - grads[1]).norm() / grads[0].norm())
    return (
        f"| {family} | {shape} | {tokens[0]}, {tokens[1]} "
        f"| {statistics.median(padded):.2f}, {statistics.median(shared):.2f} "
        f"| **{statistics.median(ratios):.2f}** ({', '.join(f'{ratio:.2f}' for ratio in ratios)}) | {off:.1e} |"
    )


def _side(family: str, dtype: torch.dtype, *, shares: bool) -> PairScorer:
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(FAMILIES[family], dtype=dtype)
    before = model.config._attn_implementation
    scorer = PairScorer(model.train())
    if scorer.packing.why_padded is not None:
        raise RuntimeError(f"{family} shares no tokens: {scorer.packing.why_padded}")
    if not shares:
        scorer.packing = Packing(why_padded=PADDED.why_padded)
        model.set_attn_implementation(before)
    return scorer


def _step(scorer: PairScorer, pairs: list[TokenisedPair]) -> float:
    scorer.zero_grad()
    begun = time.process_time()
    batch = collate(pairs, scorer.packing)
    logps_S = scorer(batch)
    (logps_S[: batch.pairs].sum() - logps_S[batch.pairs :].sum()).backward()
    return time.process_time() - begun


if __name__ == "__main__":
    main()
