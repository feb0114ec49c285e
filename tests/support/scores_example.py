"""A scores.json such as an evaluation writes: two suites, models in a row, figures made from a seed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

BOARD, TALK = "eval/open_llm_leaderboard.yaml", "eval/talk.yaml"
MODELS = ("base", "warm", "align.1", "align.3")
SHARES = {
    "arc": ("acc_norm", 1172, 0.412),
    "hellaswag": ("acc_norm", 10042, 0.613),
    "truthfulqa": ("mc2", 817, 0.447),
    "winogrande": ("acc", 1267, 0.598),
    "gsm8k": ("strict-match", 1319, 0.094),
}
CATEGORIES = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
H4 = ("arc", "hellaswag", "mmlu", "truthfulqa")
H6 = (*H4, "winogrande", "gsm8k")
SIGNIFICANT = 0.05

ANSWER = "The square of side 3 has area 9.\n\nSo the answer is **9**."
RIGHT_TO_LEFT = "שלום עולם, 3 ועוד 4 הם 7"


def score(name: str, value: float | None, error: float | None, count: int, **more: Any) -> dict[str, Any]:
    plain = {"metric": name, "unit": "share", "group": "", "note": "", "lower_is_better": False}
    return {"name": name, **plain, "value": value, "standard_error": error, "count": count, **more}


def share(name: str, value: float, count: int, **more: Any) -> dict[str, Any]:
    return score(name, value, math.sqrt(value * (1 - value) / count), count, **more)


def result(model: str, suite: str, task: str, kind: str, scores: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    name = f"{suite.removeprefix('eval/').removesuffix('.yaml')}/{task}"
    return {
        "model": model,
        "suite": suite,
        "task": task,
        "kind": kind,
        "seconds": 41.3,
        "reused": False,
        "scores": scores,
        "problems": {},
        "warnings": [],
        "settings": {},
        "items": f"items/{model}/{name}.parquet",
        "record": f"store/scores/{model}/{name}",
        **more,
    }


def board(model: str, gain: float, random: np.random.Generator) -> list[dict[str, Any]]:
    """Return the results of one model on the six tasks of the leaderboard."""
    settings = {"profile": "openllm-v1", "lm_eval": "0.4.13", "shots": 5, "data": {"digest": "9f2c" * 10}}
    made = []
    for task, (metric, count, start) in SHARES.items():
        problems = {"no number of the form #### N": 311 if model == "base" else 42} if task == "gsm8k" else {}
        one = share(metric, start + gain * random.uniform(0.2, 1.4), count)
        made.append(result(model, BOARD, task, "harness", [one], settings=settings, problems=problems))
    subjects = [share("acc", random.uniform(0.3, 0.7), 246, group=f"subject_{number:02d}") for number in range(57)]
    mean = sum(one["value"] for one in subjects) / 57
    whole = [
        share("acc, mean of subjects", mean, 14042, metric="acc"),
        share("acc, by size", mean - 0.0082, 14042, metric="acc"),
    ]
    return [*made, result(model, BOARD, "mmlu", "harness", [*whole, *subjects], settings=settings, reused=True)]


def talk(model: str, gain: float, random: np.random.Generator) -> list[dict[str, Any]]:
    """Return the results of one model on MT-Bench, EQ-Bench and running text."""
    judged = {"judge": "gpt-4", "judge_how": f"replay of x.jsonl, sha256 {'5e' * 32}", "reference_set": "gpt-4"}
    judged |= {"question_set": "MT-Bench", "temperatures": {"writing": 0.7, "math": 0.0}}
    parts = [
        score(name, 5.5 + gain * 9 + random.uniform(-1.5, 1.5), 0.61, 20, metric="rating", unit="points", group=name)
        for name in CATEGORIES
    ]
    mean = sum(one["value"] for one in parts) / len(parts)
    turns = [score(f"turn {n}", mean + 0.2 - n / 7, 0.36, 80, metric="rating", unit="points") for n in (1, 2)]
    eq = score("EQ-Bench v2", 43.1 + 60 * gain, 2.41, 171, metric="eq", unit="points")
    if model == "warm":
        eq |= {"value": None, "standard_error": None, "note": "no score: only 139 of 171 questions could be read"}
    text = score("perplexity", 8.31 - 9 * gain, 0.12, 41_000, metric="nll", unit="perplexity", lower_is_better=True)
    return [
        result(
            model,
            TALK,
            "mt_bench",
            "mt_bench",
            [score("average", mean, 0.33, 160, metric="rating", unit="points"), *turns, *parts],
            settings=judged,
            problems={"no rating in the judgment": 2} if model == "warm" else {},
        ),
        result(
            model,
            TALK,
            "eq_bench",
            "eq_bench",
            [eq],
            settings={"version": "v2"},
            problems={"names do not match": 32} if model == "warm" else {},
            warnings=["19% of the answers could not be read"] if model == "warm" else [],
        ),
        result(model, TALK, "stories", "perplexity", [text], settings={"window": 4096 if gain else 2048}),
    ]


def average(model: str, name: str, of: tuple[str, ...], results: list[dict[str, Any]]) -> dict[str, Any]:
    heads = [one["scores"][0] for task in of for one in results if (one["model"], one["task"]) == (model, task)]
    error = math.sqrt(sum(one["standard_error"] ** 2 for one in heads)) / len(heads)
    value = sum(one["value"] for one in heads) / len(heads)
    known = {"model": model, "suite": BOARD, "name": name, "of": list(of), "unit": "share"}
    return {**known, "value": value, "standard_error": error, "note": "MMLU as the mean of its subjects"}


def comparison(
    model: str, against: str, relation: str, suite: str, task: str, metric: str, sides: Any, **more: Any
) -> dict[str, Any]:
    """Compare two scores as if their items were paired and alike by half; Holm's correction is made up."""
    (mine, error), (other, _) = sides
    change, spread = mine - other, error / 2
    p = math.erfc(abs(change) / spread / math.sqrt(2)) if spread else 1.0
    holm = min(1.0, 9 * p)
    lower = metric == "nll"
    shown = ("better" if (change > 0) != lower else "worse") if holm < SIGNIFICANT else "not shown"
    return {
        **{"model": model, "against": against, "relation": relation, "suite": suite, "task": task, "metric": metric},
        **{
            "difference": change,
            "standard_error": spread,
            "low": change - 1.96 * spread,
            "high": change + 1.96 * spread,
        },
        **{"p": p, "p_holm": holm, "verdict": shown, "items": 160, "clusters": 80, "note": "", **more},
    }


def comparisons(results: list[dict[str, Any]], averages: list[dict[str, Any]], models: Any) -> list[dict[str, Any]]:
    known: dict[tuple[str, str, str], tuple[str, tuple[float, float]]] = {}
    for one in results:
        head = one["scores"][0]
        if head["value"] is not None:
            sides = (head["value"], head["standard_error"])
            known[one["suite"], one["task"], one["model"]] = (head["metric"], sides)
    for one in averages:
        known[one["suite"], one["name"], one["model"]] = ("mean", (one["value"], one["standard_error"]))
    made = []
    for (suite, task, model), (metric, sides) in known.items():
        place = models.index(model)
        against = (
            {"base": models[0], "before": models[place - 1]} if place > 1 else {"base": models[0]} if place else {}
        )
        for relation, other in against.items():
            if found := known.get((suite, task, other)):
                flag = {"average": True} if metric == "mean" else {}
                made.append(comparison(model, other, relation, suite, task, metric, (sides, found[1]), **flag))
    return made


def answers(models: Any) -> list[dict[str, Any]]:
    """Return a few questions of two tasks; one answer is long, one reads from right to left."""
    made = []
    for number in range(4):
        by = {name: {"answer": f"{name} says: {ANSWER}", "values": {"strict-match": number % 2}} for name in models}
        made.append(question(BOARD, "gsm8k", f"gsm8k-{number}", by, reference="#### 9"))
    by = {name: {"answer": RIGHT_TO_LEFT, "values": {"rating": 7.0}, "problem": ""} for name in models}
    by[models[-1]] = {"answer": "", "values": {}, "problem": "no rating in the judgment"}
    by[models[0]] |= {"answer": "A long story. " * 731}
    made.append(question(TALK, "mt_bench", "81:1", by, group="writing"))
    return made


def question(suite: str, task: str, item: str, by: dict[str, Any], **more: Any) -> dict[str, Any]:
    text = "A square has sides of length 3. What is its area?"
    return {"suite": suite, "task": task, "item": item, "group": "", "question": text, "reference": "", "by": by} | more


def scores(models: tuple[str, ...] = MODELS) -> dict[str, Any]:
    """Return a whole scores document of these models, each made from the previous one."""
    random = np.random.default_rng(5)
    gains = [0.06 * place / max(1, len(models) - 1) for place in range(len(models))]
    results = [one for name, gain in zip(models, gains, strict=True) for one in board(name, gain, random)]
    results += [one for name, gain in zip(models, gains, strict=True) for one in talk(name, gain, random)]
    averages = [average(name, key, of, results) for name in models for key, of in (("H4", H4), ("H6", H6))]
    before = (None, *models)
    return {
        "format": 1,
        "created": "2026-11-21T09:14:05Z",
        "ratchet": "0.1.0",
        "suites": [BOARD, TALK],
        "models": [
            {"name": name, "weights": f"{place:02x}" * 10, "dtype": "bfloat16", "before": before[place]}
            for place, name in enumerate(models)
        ],
        "results": results,
        "averages": averages,
        "comparisons": comparisons(results, averages, list(models)),
        "answers": answers(models),
    }


def standalone(**more: Any) -> dict[str, Any]:
    """Return the report of an evaluation alone."""
    known = {"plan": "talk", "created": "2026-11-21T09:14:05Z", "ratchet": "0.1.0", "commit": "dcdfbfe0a1b2"}
    return {**known, "seconds": 312.0, "scores": scores(), **more}


def of(data: dict[str, Any], model: str, task: str) -> dict[str, Any]:
    return next(one for one in data["results"] if (one["model"], one["task"]) == (model, task))
