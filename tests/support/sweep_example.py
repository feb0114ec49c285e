"""Documents of sweeps such as a sweep writes: β × λ drawn at random, orders of three sources, two objectives."""

from __future__ import annotations

import itertools
import statistics
from typing import Any

import numpy as np

ACCURACY, CHOSEN, LOSS = "align/heldout/accuracy", "align/heldout/chosen_delta", "align/train/heldout/loss"
PLAN_TEXT = """\
# Sums first, then no mistakes in them.
name: sums
model: {name: Qwen/Qwen3-0.6B, revision: 1a2b3c4}
data:
  slips:   {path: data/gsm8k.jsonl, build: arithmetic_corruption}
  quiz:    {path: data/arc.jsonl, build: multiple_choice}
  helpful: {path: data/helpful.jsonl}
stages:
  warm:  {kind: sft, data: [slips]}
  align: {kind: dpop, data: [slips, quiz, helpful], steps: {order: ORDER}, after: warm, beta: 0.3, penalty: 50}
"""
SPACE_TEXT = "name: {name}\nkeys:\n  stages.align.beta: {{loguniform: [0.05, 1.0]}}\nobjectives: {{{metric}: max}}\n"


def trial(number: int, point: str, seed: int | None, home: str, **more: Any) -> dict[str, Any]:
    name = f"t{point[1:]}" + ("" if seed is None else f"-s{seed}")
    made = {"id": name, "number": number, "point": point, "seed": seed, "status": "finished", "reason": ""}
    return made | {"seconds": 70.0, "metrics": {}, "steps": [], "run": f"sweeps/{home}/trials/{name}", **more}


def stage(name: str, fp: str, start: str | None, trials: list[str], chunk: str, **more: Any) -> dict[str, Any]:
    made = {"id": fp, "name": name, "kind": "dpop", "chunk": chunk, "start": start, "trials": trials}
    made |= {"made_by": trials[0], "pairs": 800, "seconds": 12.25, "reference_pairs": 0, "reference_seconds": 0.0}
    return made | more


def result(metric: str, trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean over finished trials, its error over seeds where there are two, else over items."""
    found = [one["metrics"][metric] for one in trials if one["status"] == "finished"]
    values = [one["value"] for one in found]
    several = len(values) > 1
    error = statistics.stdev(values) / len(values) ** 0.5 if several else None
    if len(values) == 1:
        error = found[0]["standard_error"]
    mean = statistics.fmean(values) if values else None
    return {"metric": metric, "value": mean, "standard_error": error, "seeds": len(values), "of_seeds": several}


def work(stages: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the stages took, and what they would have if every trial had trained its own."""
    refs = sum(one["reference_pairs"] for one in stages)
    shares = [(len(one["trials"]), one) for one in stages]
    return {
        "stages": len(stages),
        "stages_found": 0,
        "stages_unshared": sum(count for count, _ in shares),
        "pairs": sum(one["pairs"] for one in stages),
        "pairs_unshared": sum(count * one["pairs"] for count, one in shares),
        "reference_passes": sum(one["reference_pairs"] > 0 for one in stages),
        "reference_passes_unshared": sum(count for count, one in shares if one["reference_pairs"] > 0),
        "reference_pairs": refs,
        "reference_pairs_unshared": sum(count * one["reference_pairs"] for count, one in shares),
        "seconds": sum(one["seconds"] + one["reference_seconds"] for one in stages),
        "seconds_unshared": sum(count * (one["seconds"] + one["reference_seconds"]) for count, one in shares),
    }


def sweep(
    name: str,
    keys: list[dict[str, Any]],
    points: list[dict[str, Any]],
    trials: list[dict[str, Any]],
    stages: list[dict[str, Any]],
    objectives: dict[str, str],
) -> dict[str, Any]:
    """Return a document: results, ranks and the front are worked out from the trials."""
    for point in points:
        mine = [one for one in trials if one["point"] == point["id"]]
        point |= {"results": [result(metric, mine) for metric in objectives], "rank": None, "front": False}
    measured = [one for one in points if all(found["value"] is not None for found in one["results"])]
    signs = [1 if mode == "max" else -1 for mode in objectives.values()]

    def values(point: dict[str, Any]) -> list[float]:
        return [sign * found["value"] for sign, found in zip(signs, point["results"], strict=True)]

    for point in measured:
        worse = (
            all(b >= a for a, b in zip(values(point), values(other), strict=True)) and values(other) != values(point)
            for other in measured
        )
        point["front"] = not any(worse)
    ranks = sorted(measured, key=lambda one: -values(one)[0]) if len(objectives) == 1 else []
    for rank, point in enumerate(ranks, 1):
        point["rank"] = rank
    return {
        "format": 1,
        "name": name,
        "plan": "sums",
        "created": "2026-11-21T09:14:05Z",
        "ratchet": "0.1.0",
        "commit": "9f8e7d6",
        "space": {"name": name.removeprefix("sums-")},
        "objectives": [{"metric": metric, "mode": mode} for metric, mode in objectives.items()],
        "keys": keys,
        "trials": trials,
        "points": points,
        "best": ranks[0]["id"] if ranks else None,
        "stages": stages,
        "work": work(stages),
        "importance": [],
        "planned": len(trials),
        "seconds": 5160.0,
        "versions": {"torch": "2.12.0", "ray": "2.56.0"},
        "hardware": {"cpu": "AMD EPYC 9B14", "cores": 2, "memory_gb": 15.6, "gpus": []},
        "plan_text": PLAN_TEXT.replace("ORDER", "easy_to_hard"),
        "space_text": SPACE_TEXT.format(name=name, metric=next(iter(objectives))),
        "warnings": [],
    }


def key(name: str, kind: str, *values: Any) -> dict[str, Any]:
    return {"key": name, "kind": kind, "values": list(values)}


def beta_lambda(count: int = 20, objectives: dict[str, str] | None = None) -> dict[str, Any]:
    """Return a random sweep of β × λ with two seeds a point; the first point has the plan's own values."""
    home, drawn = "sums-beta_lambda", np.random.default_rng(7)
    wanted = objectives or {ACCURACY: "max"}
    keys = [key("stages.align.beta", "loguniform", 0.05, 1.0), key("stages.align.penalty", "uniform", 5.0, 500.0)]
    points, trials, stages = [], [], []
    for number in range(count):
        beta, penalty = float(0.05 * 20 ** drawn.random()), float(drawn.uniform(5, 500))
        beta, penalty = (0.3, 50.0) if number == 0 else (beta, penalty)
        name = f"p{number:08x}"
        points.append({"id": name, "values": {keys[0]["key"]: beta, keys[1]["key"]: penalty}, "marks": []})
        for seed in (0, 1):
            accuracy = 0.72 - 0.05 * float(np.log(beta / 0.25)) ** 2 + 0.006 * drawn.normal()
            delta = 0.004 * penalty - 1.5 + 0.1 * drawn.normal()
            metrics = {ACCURACY: (accuracy, 0.011), CHOSEN: (delta, 0.05), LOSS: (1.2 - accuracy, None)}
            values = {metric: {"value": value, "standard_error": error} for metric, (value, error) in metrics.items()}
            steps = ["wa" * 8, f"a1{number:06x}{seed:08x}"]
            wandb = f"ratchet/{name}{seed}"
            made = trial(len(trials) + 1, name, seed, home, metrics=values, steps=steps, wandb=wandb)
            trials.append(made)
            stages.append(stage("align", steps[1], "wa" * 8, [made["id"]], "", seconds=61.5))
    everyone = [one["id"] for one in trials]
    stages.insert(0, stage("warm", "wa" * 8, None, everyone, "slips", kind="sft", pairs=5000, seconds=90.0))
    stages[1] |= {"reference_pairs": 800, "reference_seconds": 9.0}
    found = sweep(home, keys, points, trials, stages, wanted)
    for metric in wanted:
        shares = zip((0.83, 0.17), keys, strict=True)
        found["importance"] += [{"metric": metric, "key": one["key"], "share": share} for share, one in shares]
    found["work"] |= {"reference_pairs_unshared": 800 * len(trials), "reference_passes_unshared": len(trials)}
    return found


def troubled() -> dict[str, Any]:
    """Return the β × λ sweep with a point that failed, one trial stopped, and one not finished."""
    found = beta_lambda()
    for index, status, reason in (
        (6, "failed", "loss is nan at step 12 of align"),
        (7, "failed", "CUDA out of memory"),
        (9, "stopped", "worse than the median of 8 trials at step 30"),
        (11, "unfinished", ""),
    ):
        found["trials"][index] |= {"status": status, "reason": reason, "metrics": {}}
    wanted = {one["metric"]: one["mode"] for one in found["objectives"]}
    again = sweep(found["name"], found["keys"], found["points"], found["trials"], found["stages"], wanted)
    return again | {"importance": found["importance"], "work": found["work"]}


def orders(sources: tuple[str, ...] = ("slips", "quiz", "helpful")) -> dict[str, Any]:
    """Return a sweep of all orders of the sources, one seed: stages are shared by orders that begin alike."""
    home, drawn = "sums-partition_order", np.random.default_rng(3)
    keys = [key("stages.align.data", "permutation", *map(list, itertools.permutations(sources)))]
    points, trials, stages = [], [], dict[str, dict[str, Any]]()
    for number, order in enumerate(itertools.permutations(sources)):
        name = f"p{number:08x}"
        marks = [["easy to hard"], [], ["random"]][number] if number < 3 else []
        points.append({"id": name, "values": {keys[0]["key"]: list(order)}, "marks": marks})
        metrics = {ACCURACY: {"value": 0.7 + 0.01 * drawn.normal(), "standard_error": 0.012}}
        steps = ["s" + "-".join(source[:2] for source in order[:length]) for length in range(1, len(order) + 1)]
        made = trial(number + 1, name, None, home, metrics=metrics, steps=steps)
        trials.append(made)
        for length, fp in enumerate(steps, 1):
            start = steps[length - 2] if length > 1 else None
            if fp not in stages:
                refs = {"reference_pairs": 800, "reference_seconds": 3.5, "made_by": made["id"]}
                stages[fp] = stage(f"align.{length}", fp, start, [made["id"]], order[length - 1], **refs)
            else:
                stages[fp]["trials"].append(made["id"])
    return sweep(home, keys, points, trials, list(stages.values()), {ACCURACY: "max"})


def two_objectives() -> dict[str, Any]:
    """Return the β × λ sweep with two objectives that pull apart."""
    return beta_lambda(16, {ACCURACY: "max", CHOSEN: "max"})
