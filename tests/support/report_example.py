"""A report document such as a run writes: five sources' worth of figures, made from a seed."""

from __future__ import annotations

import functools
import json
import math
from typing import Any

import numpy as np

from report_history import history, sft_history

PLAN_TEXT = """\
# The mission in miniature: learn sums, then learn not to make mistakes in them.
name: sums-then-care
model: {name: Qwen/Qwen3-0.6B, revision: 1a2b3c4}
data:
  sums:    {path: data/sums.jsonl}
  slips:   {path: data/gsm8k.jsonl, build: arithmetic_corruption}
  quiz:    {path: data/arc.jsonl, build: multiple_choice}
  helpful: {path: data/helpful.jsonl}
stages:
  warm:    {kind: sft, data: [sums], learning_rate: 2e-5}
  control: {kind: dpo, data: [slips, quiz, helpful], after: warm, beta: 0.3}
  align:   {kind: dpop, steps: {by: source, order: easy_to_hard}, data: [slips, quiz, helpful], after: warm}
  blend:   {kind: merge, of: [warm, align], weights: [0.3, 0.7]}
evaluate: [eval/sums.yaml]
cluster: {workers: 2}
"""


def step(name: str, kind: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "stage": name.partition(".")[0],
        "kind": kind,
        "record": f"runs/sums-then-care/steps/{name}",
        **more,
    }


AGREEMENT = {
    "pairs": 512,
    "chosen": {"bias": 0.0021, "deviation": 0.0113, "worst": -0.0432, "worst_pair": "03f1c2"},
    "rejected": {"bias": -0.0007, "deviation": 0.0131, "worst": 0.0517, "worst_pair": "9be07a"},
    "shift": 0.176,
    "bound": 0.2,
    "first_loss": 0.7304,
    "passed": True,
    "noise": 0.103,
}


EFFECT = {
    "of": "held-out pairs",
    "pairs": 41,
    "margin_trained": 0.2931,
    "margin_published": 0.1717,
    "chosen_trained": -101.25,
    "chosen_published": -101.5,
    "kept": 0.1717 / 0.2931,
}


HEAD: dict[str, Any] = {
    "plan": "sums-then-care",
    "created": "2026-11-21T09:14:05Z",
    "ratchet": "0.1.0",
    "commit": "dcdfbfe0a1b2",
    "seconds": 5143.7,
}


def training(pairs: int, steps: int, seconds: float, **more: Any) -> dict[str, Any]:
    return {
        "pairs": pairs,
        "epochs": 1,
        "steps": steps,
        "seconds": seconds + 21.5,
        "train_seconds": seconds,
        "pairs_per_second": pairs / seconds,
        "tokens_per_second": 371.0 * pairs / seconds,
        "peak_memory_mb": 5312.4,
        "workers": 2,
        "resumed_from": None,
        **more,
    }


def preference(
    pairs: int, steps: int, seconds: float, reference_seconds: float, reused: bool, **more: Any
) -> dict[str, Any]:
    return training(
        pairs,
        steps,
        seconds,
        first_loss=0.693147 + 1.3e-7,
        first_loss_tolerance=2e-5,
        reference_seconds=reference_seconds,
        reference_pairs=pairs + pairs // 19,
        reference_reused=reused,
        reference_engine="vllm 0.32.0",
        reference_agreement=AGREEMENT,
        effect=EFFECT,
        **more,
    ) | {"seconds": seconds + 21.5 + (0.0 if reused else reference_seconds)}


def sources() -> list[dict[str, Any]]:
    rng = np.random.default_rng(3)
    made = []
    shapes = {"sums": None, "slips": (4.5, 62), "quiz": (14, 3.2), "helpful": (11, 5)}
    for index, (name, shape) in enumerate(shapes.items()):
        train = [7600, 6840, 3192, 12160][index]
        heldout = train // 19
        skipped = [{}, {"no calculation to corrupt": 412, "identical answers": 3}, {"one choice": 11}, {"tie": 640}][
            index
        ]
        distance = None
        if shape:
            counts, edges = np.histogram(values := rng.beta(*shape, size=train), bins=20, range=(0, 1))
            distance = {"edges": edges.tolist(), "counts": counts.tolist(), "median": float(np.median(values))}
        made.append(
            {
                "name": name,
                "layout": ["instruction", "instruction", "choices", "sharegpt"][index],
                "read": train + heldout + sum(skipped.values()),
                "kept": train + heldout,
                "train": train,
                "heldout": heldout,
                "skipped": skipped,
                "record": f"store/pairs/{index}f3a9c2e7b1d40{index}5e6a",
                "tokens": [
                    {
                        "max_length": 1024,
                        "kept": train + heldout - 17 * index,
                        "tokens_train": train * 371,
                        "skipped": {"too long": 17 * index} if index else {},
                        "trimmed": 0,
                        "boundary_moved": index,
                        "record": f"store/tokens/{index}a77d2e90c3b81{index}4f20",
                    }
                ],
                "edit_distance": distance,
            }
        )
    return made


_PAIRS = {"slips": 360, "quiz": 168, "helpful": 640}  # sources, with what each holds out
_HELDOUT = {  # model: of each source (accuracy, margin, chosen delta, rejected delta) against warm
    "control": ((0.871, 9.4, -14.82, -24.22), (0.926, 11.8, -3.11, -14.91), (0.712, 3.6, -6.4, -10.0)),
    "align.1": ((0.538, 0.3, 0.21, -0.09), (0.931, 9.2, 1.92, -7.28), (0.561, 0.4, 0.33, -0.07)),
    "align.2": ((0.566, 0.5, 0.35, -0.15), (0.925, 9.0, 1.88, -7.12), (0.724, 4.1, 1.12, -2.98)),
    "align.3": ((0.902, 6.2, 0.88, -5.32), (0.919, 8.8, 1.71, -7.09), (0.719, 4.0, 1.06, -2.94)),
    "blend": ((0.859, 4.3, 0.71, -3.59), (0.921, 6.4, 1.33, -5.07), (0.708, 2.8, 0.8, -2.0)),
}
EXAMPLES = [
    {"answer": "12 * 3 = 36\n36 + 7 = 43\nThe answer is 43.", "chosen": "12 * 3 = 36\n36 + 7 = 43\nThe answer is 43."},
    {"answer": "9 - 4 = 6\n6 * 2 = 12\nThe answer is 12.", "chosen": "9 - 4 = 5\n5 * 2 = 10\nThe answer is 10."},
]
_EXACT = {
    "base": 0.345,
    "warm": 0.61,
    "control": 0.445,
    "align.1": 0.615,
    "align.2": 0.63,
    "align.3": 0.705,
    "blend": 0.69,
}


def evaluation() -> list[dict[str, Any]]:
    made = []
    for model, score in _EXACT.items():
        rows = [
            {
                "source": source,
                "against": "warm",
                "reward_accuracy": accuracy,
                "standard_error": math.sqrt(accuracy * (1 - accuracy) / _PAIRS[source]),
                "pairs": _PAIRS[source],
                "margin": margin,
                "margin_error": 0.31,
                "chosen_delta": chosen,
                "chosen_delta_error": 0.11 + abs(chosen) / 40,
                "rejected_delta": rejected,
                "rejected_delta_error": 0.2 + abs(rejected) / 40,
            }
            for source, (accuracy, margin, chosen, rejected) in zip(_PAIRS, _HELDOUT.get(model, ()), strict=False)
        ]
        error = math.sqrt(score * (1 - score) / 200)
        exact = {"task": "sums", "score": score, "standard_error": error, "items": 200, "examples": EXAMPLES}
        record = f"runs/sums-then-care/scores/{model}.json"
        made.append({"model": model, "record": record, "heldout": rows, "exact_match": [exact]})
    return made


def gamma() -> list[dict[str, Any]]:
    means = {
        "base": (-4.1, 2.0, -3.0),
        "warm": (-1.2, 3.1, -2.2),
        "control": (8.2, 14.9, 1.4),
        "align.1": (-0.9, 12.3, -1.8),
        "align.2": (-0.7, 12.1, 1.9),
        "align.3": (5.0, 11.9, 1.8),
        "blend": (3.1, 9.5, 0.6),
    }
    trained = {"control": 3, "align.1": 1, "align.2": 2, "align.3": 3, "blend": 3}
    made = []
    for model, values in means.items():
        for source, mean in zip(_PAIRS, values, strict=True):
            seen = source in ("quiz", "helpful", "slips")[: trained.get(model, 0)]
            for split in ("heldout", "train"):
                memory = 26.4 if seen and split == "train" else 0.0
                made.append(
                    {
                        "model": model,
                        "source": source,
                        "split": split,
                        "mean": mean + memory,
                        "standard_error": 0.4 if split == "heldout" else 0.3,
                        "pairs": _PAIRS[source] if split == "heldout" else 512,
                        "seen": seen and split == "train",
                        "record": f"store/logps/{model}-{source}",
                    }
                )
    return made


def steps() -> list[dict[str, Any]]:
    dpo = {"beta": 0.3, "label_smoothing": 0.0, "learning_rate": 5e-7, "batch": 32}
    dpop = {"beta": 0.3, "penalty": 50.0, "penalty_position": "inside", "learning_rate": 5e-7, "batch": 32}
    shape = {"beta": 0.3, "penalty": 50.0}
    plain = {"beta": 0.3, "penalty": 0.0}
    return [
        step("warm", "sft", start="base", chunk=["sums"], **training(7600, 238, 402.0), history=sft_history(238))
        | {"options": {"learning_rate": 2e-5, "batch": 32}},
        step("control", "dpo", start="warm", reference="warm", chunk=["slips", "quiz", "helpful"], options=dpo)
        | preference(22192, 694, 1571.0, 388.0, False, history=history(694, 1, chosen=-15, rejected=-27, **plain)),
        step("align.1", "dpop", start="warm", reference="warm", chunk=["quiz"], options=dpop)
        | preference(3192, 100, 221.0, 55.0, True, history=history(100, 2, chosen=1.6, rejected=-9, **shape)),
        step("align.2", "dpop", start="align.1", reference="align.1", chunk=["helpful"], options=dpop)
        | preference(12160, 380, 866.0, 214.0, False, history=history(380, 3, chosen=1.1, rejected=-6, **shape)),
        step("align.3", "dpop", start="align.2", reference="align.2", chunk=["slips"], options=dpop)
        | preference(
            6840, 214, 483.0, 119.0, False, resumed_from=120, history=history(214, 4, chosen=0.7, rejected=-6, **shape)
        ),
        step("blend", "merge", start="warm", chunk=["warm", "align"], seconds=9.3)
        | {"options": {"of": ["warm", "align"], "weights": [0.3, 0.7]}},
    ]


@functools.cache
def _text() -> str:
    """The whole report document as JSON: it is made once in a process, and read for each test that takes it."""
    accuracy = {"quiz": (0.714, 168), "helpful": (0.462, 640), "slips": (0.403, 360)}
    document = HEAD | {
        "title": "sums-then-care",
        "plan_text": PLAN_TEXT,
        "resolved": {"name": "sums-then-care", "stages": {"align": {"kind": "dpop", "beta": 0.3, "penalty": 50.0}}},
        "hardware": {"cpu": "AMD EPYC 7B13", "cores": 16, "memory_gb": 125.8, "gpus": ["NVIDIA H100 80GB HBM3"]},
        "versions": {"ratchet": "0.1.0", "python": "3.11.7", "torch": "2.13.0", "ray": "2.60.0", "deepspeed": "0.19.8"},
        "sources": sources(),
        "overlap": [{"left": "quiz", "right": "helpful", "pairs": 3, "prompts": 41}],
        "difficulty": [
            {
                "stage": "align",
                "source": source,
                "accuracy": share,
                "standard_error": math.sqrt(share * (1 - share) / pairs),
                "pairs": pairs,
                "position": position,
                "record": "runs/sums-then-care/orders/align.json",
            }
            for position, (source, (share, pairs)) in enumerate(accuracy.items(), 1)
        ],
        "steps": steps(),
        "evaluation": evaluation(),
        "gamma": gamma(),
        "warnings": [
            "stage control trains plain dpo on slips, whose answers differ by 6.6% (median edit distance): it can "
            "lower the chosen answers' probability (Smaug, section 3); kind: dpop holds it up",
            "quiz and helpful share 3 pairs and 41 prompts: gains on one may be memory of the other",
        ],
    }
    return json.dumps(document)


def example() -> dict[str, Any]:
    """Return a whole report document."""
    found: dict[str, Any] = json.loads(_text())
    return found


def bare(**more: Any) -> dict[str, Any]:
    return HEAD | more


def short() -> dict[str, Any]:
    """A document with everything in it, but little of each, which is drawn faster."""
    data = example()
    data["steps"] = [data["steps"][number] for number in (0, 2)]
    data["gamma"] = [one for one in data["gamma"] if one["source"] == "quiz"]
    data["sources"] = [one for one in data["sources"] if one["name"] == "quiz"]
    for step in data["steps"]:
        step["history"] = step["history"][:20]
    return data
