"""A long prompt with many answers, in passes of a few tokens: the prompt in each of them, and kept across them.

    python -m benchmarks.prefixes --prompt 1500 --answers 100 --length 40 --budgets 4096 2048 550

Both sides make the gradient of the same answers with the same weights, in turns, on one thread. Tokens and GFLOP are
those of all passes; CPU seconds are medians, and ratios medians of the rounds' ratios. Together with the largest
difference of the gradients they are printed as a table.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.flops import Work, scoring_flops, training_flops
from benchmarks.models import PRECISIONS, Sizes, build, sizes
from ratchet.model.batch import SequenceBatch
from ratchet.model.divide import Micro, divide_units, units
from ratchet.model.forward import PairScorer
from ratchet.model.passes import batches, divide_passes
from ratchet.pairs.pair import TokenisedPair


@dataclasses.dataclass(frozen=True)
class Measured:
    """One way through the answers: passes, tokens and GFLOP in all, and the most tokens of a pass with a graph."""

    passes: int
    tokens: int
    gflop: float
    alive: int


def drawn(prompt: int, answers: int, length: int, vocab: int, seed: int = 0) -> list[TokenisedPair]:
    """Return pairs of one prompt, each of two answers."""
    draw = np.random.default_rng(seed)
    one = draw.integers(3, vocab, prompt).astype(np.int32)
    sides = draw.integers(3, vocab, (answers // 2, 2, length)).astype(np.int32)
    return [TokenisedPair(str(k), one, chosen, rejected) for k, (chosen, rejected) in enumerate(sides)]


def accumulate_gradient(scorer: PairScorer, pairs: Sequence[TokenisedPair], micros: Sequence[Micro]) -> Tensor:
    """Return the gradient of a weighted sum of all answers' log-probabilities, flat, float32."""
    scorer.zero_grad()
    for micro, batch in batches(micros, pairs.__getitem__, scorer.packing):
        with torch.set_grad_enabled(micro.role != "keep"):
            logps_S = scorer(batch)
        if micro.role == "score":
            signs_S = torch.ones_like(logps_S)
            signs_S[batch.pairs :] = -0.5
            (logps_S * signs_S).sum().backward()
        elif micro.role == "return":
            (logps_S.sum() * 0.0).backward()
    return torch.cat([weight.grad.flatten().float() for weight in scorer.parameters() if weight.grad is not None])


def counted(scorer: PairScorer, pairs: Sequence[TokenisedPair], micros: Sequence[Micro], of: Sizes) -> Measured:
    """Count what the passes compute."""
    flops, alive = 0, 0
    for micro, batch in batches(micros, pairs.__getitem__, scorer.packing):
        kept = micro.role == "keep"
        flops += (scoring_flops if kept else training_flops)(of, _work(batch)).executed
        alive = max(alive, 0 if kept else batch.computed)
    return Measured(len(micros), sum(micro.cost for micro in micros), flops / 1e9, alive)


def _work(batch: SequenceBatch) -> Work:
    assert batch.plan is not None
    attended = 0
    for chain in batch.plan.chains:
        own = chain.stop - chain.start
        attended += own * (own + 1) // 2 + own * sum(stop - first for first, stop in chain.ancestors)
    return Work(batch.computed, len(batch.rows_E), attended, attended)


def compare(asked: argparse.Namespace, budget: int) -> str:
    """Return a row of the table."""
    of = sizes(asked.model, asked.vocab)
    pairs = drawn(asked.prompt, asked.answers, asked.length, asked.vocab)
    scorer = PairScorer(build(of, asked.dtype))
    rows = np.arange(len(pairs))
    again = divide_units(units(pairs.__getitem__, rows, scorer.packing, budget), 1, budget)[0]
    kept = divide_passes(pairs.__getitem__, rows, scorer.packing, budget, 1)[0]
    counts = [counted(scorer, pairs, micros, of) for micros in (again, kept)]
    seconds: list[list[float]] = [[], []]
    off = 0.0
    for _ in range(asked.rounds):
        gradients = []
        for k, micros in enumerate((again, kept)):
            began = time.process_time()
            gradients.append(accumulate_gradient(scorer, pairs, micros))
            seconds[k].append(time.process_time() - began)
        off = float((gradients[0] - gradients[1]).norm() / gradients[0].norm())
    ratio = statistics.median(one / other for one, other in zip(*seconds, strict=True))
    names = [field.name for field in dataclasses.fields(Measured)]
    cells = [str(budget), *(" · ".join(f"{getattr(count, name):.0f}" for count in counts) for name in names)]
    cells.append(" · ".join(f"{statistics.median(some):.2f}" for some in seconds))
    return f"| {' | '.join(cells)} | **{ratio:.2f}** | {off:.0e} |\n"


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", type=int, default=1500)
    parser.add_argument("--answers", type=int, default=100)
    parser.add_argument("--length", type=int, default=40)
    parser.add_argument("--budgets", type=int, nargs="+", default=[4096, 2048, 550])
    parser.add_argument("--model", default="30m")
    parser.add_argument("--vocab", type=int, default=32000)
    parser.add_argument("--dtype", choices=PRECISIONS[:2], default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    sys.stdout.write(
        "| tokens a pass | passes | tokens | GFLOP | most at a time | CPU s | × | gradient |\n|" + "---|" * 8 + "\n"
    )
    for budget in asked.budgets:
        sys.stdout.write(compare(asked, budget))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
