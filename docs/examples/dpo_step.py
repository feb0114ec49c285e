"""One update of DPO, from rows to weights, with the parts that every run of Ratchet is made of.

    python docs/examples/dpo_step.py

Read it from top to bottom. It needs no plan, no store, no Ray and no GPU, and takes seconds. What a run adds to it:
files of any size, batches by tokens, several workers, checkpoints, records (`train/loop.py` is the whole loop).

Names of tensors end with their axes: _B pairs.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from ratchet.losses.preference import PairLogps, dpo
from ratchet.model.forward import PairScorer, SideScores, score
from ratchet.model.load import load_model
from ratchet.model.scratch import make_scratch
from ratchet.pairs.detect import detect
from ratchet.pairs.layouts import LAYOUTS
from ratchet.pairs.pair import PreferencePair, TokenisedPair
from ratchet.pairs.pair_table import pairs_table
from ratchet.pairs.style import find_style
from ratchet.pairs.tokenizer import load_tokenizer
from ratchet.pairs.tokens import Policy, tokenise
from ratchet.plan.model import Scratch

ROWS = [
    {"prompt": "What is 2 + 3?", "chosen": "2 + 3 is 5.", "rejected": "2 + 3 is 6."},
    {"prompt": "What is 4 + 4?", "chosen": "4 + 4 is 8.", "rejected": "I do not know."},
    {"prompt": "Name a colour.", "chosen": "Blue is a colour.", "rejected": "Tuesday."},
    {"prompt": "Say hello.", "chosen": "Hello! How can I help?", "rejected": "No."},
]
"""Preference data: a prompt, an answer that somebody preferred, and one that they did not."""

BETA = 0.1
LEARNING_RATE = 1e-3
MODEL = Scratch(
    tokenizer_from=("rows",), vocab_size=300, hidden_size=32, layers=2, heads=2, key_value_heads=1, intermediate_size=64
)
"""A Llama of random weights, and a tokenizer trained on the rows. `load_model` reads any other model the same way."""


def read_pairs() -> list[PreferencePair]:
    """Return the rows as pairs. A layout knows where prompt and answers are; there are nine of them."""
    layout = LAYOUTS[detect(ROWS, "ROWS")]
    sides = [layout.read(row) for row in ROWS]
    return [
        PreferencePair(side.prompt, side.chosen, side.rejected, file="ROWS", row=number)
        for number, side in enumerate(sides, 1)
    ]


def make_tokens(pairs: list[PreferencePair], folder: Path) -> list[TokenisedPair]:
    """Return the pairs as token ids: the model's chat template writes them down, its tokenizer cuts them.

    A prompt stands once. What follows it in either answer, up to the end of the turn, is what is scored.
    """
    tokenizer = load_tokenizer(folder, None)
    rows = tokenise(
        pairs_table(pairs), tokenizer, find_style(tokenizer), Policy(max_length=256, overlong="drop")
    ).to_pylist()
    return [
        TokenisedPair(row["pair_id"], *(np.array(row[side], np.int32) for side in ("prompt", "chosen", "rejected")))
        for row in rows
        if row["reason"] is None  # else it says why the pair cannot be used
    ]


def loss_of(policy: SideScores, reference: SideScores) -> torch.Tensor:
    """Return the loss of each pair, (B,): −log σ(β d), where d is how much more than the reference the policy
    prefers the chosen answer, in nats.
    """
    logps = PairLogps(
        policy_chosen_B=policy.chosen_B,
        policy_rejected_B=policy.rejected_B,
        reference_chosen_B=reference.chosen_B,
        reference_rejected_B=reference.rejected_B,
        chosen_tokens_B=policy.chosen_tokens_B,
        rejected_tokens_B=policy.rejected_tokens_B,
    )
    return dpo(logps, beta=BETA)


def main(folder: Path) -> tuple[float, float]:
    """Make a model in `folder`, update it once, and return the loss before and after."""
    pairs = read_pairs()
    texts = [text for row in ROWS for text in row.values()]
    make_scratch(MODEL, texts, folder)
    tokens = make_tokens(pairs, folder)

    # A scorer gives the summed log-probability of each answer. Prompts, and whatever else two answers begin with,
    # are computed once.
    scorer = PairScorer(load_model(folder, "float32"))

    # The reference is the policy as it is before training. Its scores do not change, so a run computes them once
    # and keeps them.
    with torch.no_grad():
        reference = score(scorer, tokens, "cpu")

    # One step: forward, loss, backward, update. Policy and reference are equal yet, so that d = 0 and the loss ln 2.
    optimizer = torch.optim.AdamW(scorer.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    before_B = loss_of(score(scorer, tokens, "cpu"), reference)
    before_B.mean().backward()
    optimizer.step()

    with torch.no_grad():
        after_B = loss_of(score(scorer, tokens, "cpu"), reference)
    return before_B.mean().item(), after_B.mean().item()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        before, after = main(Path(made))
    sys.stdout.write(f"loss before the update: {before:.4f}\nloss after the update:  {after:.4f}\n")
