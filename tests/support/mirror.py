"""An offline mirror of the six leaderboard tasks' data, laid out as on the hub, made of the real rows.

Nobody's train split of HellaSwag and Winogrande is among them: their last 100 and 167 rows are held out as the pool
that examples are drawn from. What is scored over this mirror is therefore no leaderboard score.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

Rows = Sequence[Mapping[str, Any]]
HELLASWAG_SHOTS, WINOGRANDE_SHOTS = 100, 167


def make_mirror(shared: Path, root: Path, rows: int | None = None) -> Path:
    """Write `openai/gsm8k`, `allenai/ai2_arc`, … below `root`, and return it.

    `rows` cuts what is asked of each data set or subject, not what examples are drawn from.
    """
    for name, configs in {
        "openai/gsm8k": {"main": _gsm8k(shared / "gsm8k")},
        "allenai/ai2_arc": {"ARC-Challenge": _arc(shared / "arc_challenge")},
        "Rowan/hellaswag": {"default": _hellaswag(shared / "hellaswag")},
        "cais/mmlu": _mmlu(shared / "mmlu"),
        "truthfulqa/truthful_qa": {"multiple_choice": _truthfulqa(shared / "truthfulqa")},
        "allenai/winogrande": {"winogrande_xl": _winogrande(shared / "winogrande")},
    }.items():
        asked = "validation" if name in {"Rowan/hellaswag", "truthfulqa/truthful_qa", "allenai/winogrande"} else "test"
        for splits in configs.values():
            splits[asked] = splits[asked][:rows]
        write_hub_folder(root / name, configs)
    return root


def make_up_mirror(root: Path) -> Path:
    """Write made-up rows of the tasks with one subject below `root`, for where the real ones are not, and return it."""
    sums = range(40)
    said = [f"Tom has {n} pens and buys {n + 1} more." for n in sums]
    ends = [[f"He has {n + more} pens." for more in range(4)] for n in sums]
    picked = [{"text": texts, "label": list("ABCD")} for texts in ends]
    names = {"option1": "Tom", "option2": "Ann"}
    told = {"choices": ["He has pens.", "He has none."], "labels": [1, 0]}
    tables: dict[str, tuple[str, tuple[str, ...], Rows]] = {
        "openai/gsm8k": ("main", ("train", "test"), [
            {"question": said[n], "answer": f"{n} + {n + 1} = {2 * n + 1}\n#### {2 * n + 1}"} for n in sums
        ]),
        "allenai/ai2_arc": ("ARC-Challenge", ("train", "validation", "test"), [
            {"id": str(n), "question": said[n], "choices": picked[n], "answerKey": "ABCD"[n % 4]} for n in sums
        ]),
        "Rowan/hellaswag": ("default", ("train", "validation"), [
            {"ind": n, "activity_label": "Pens", "ctx_a": said[n], "ctx_b": "", "ctx": said[n], "endings": ends[n],
             "label": str(n % 4)} for n in sums
        ]),
        "truthfulqa/truthful_qa": ("multiple_choice", ("validation",), [
            {"question": said[n], "mc1_targets": told, "mc2_targets": told} for n in sums
        ]),
        "allenai/winogrande": ("winogrande_xl", ("train", "validation"), [
            {"sentence": f"Tom gave Ann {n} pens because _ had asked.", **names, "answer": "2"} for n in sums
        ]),
    }  # fmt: skip
    for name, (config, splits, rows) in tables.items():
        write_hub_folder(root / name, {config: dict.fromkeys(splits, rows)})
    return root


def write_hub_folder(folder: Path, configs: Mapping[str, Mapping[str, Rows]]) -> None:
    """Write one data set as the hub lays it out: a README that lists configs, and Parquet files."""
    lines = ["---", "configs:"]
    for config, splits in configs.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        for split, rows in splits.items():
            path = folder / config / f"{split}-00000-of-00001.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pyarrow.parquet.write_table(pa.Table.from_pylist(list(rows)), path)
            lines += [f"  - split: {split}", f"    path: {config}/{split}-*"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _arrow(folder: Path) -> list[dict[str, Any]]:
    with pa.memory_map(str(folder / "data-00000-of-00001.arrow")) as source:
        return pa.ipc.open_stream(source).read_all().to_pylist()


def _gsm8k(folder: Path) -> dict[str, Rows]:
    return {split: _lines(folder / f"{split}.jsonl") for split in ("train", "test")}


def _arc(folder: Path) -> dict[str, Rows]:
    return {
        "train": _lines(folder / "train.jsonl"),
        "validation": _arrow(folder / "validation"),
        "test": _lines(folder / "test.jsonl"),
    }


def _hellaswag(folder: Path) -> dict[str, Rows]:
    rows = [{**row, "label": str(row["label"])} for row in _lines(folder / "validation_1000_hfcolumns.jsonl")]
    return {"train": rows[-HELLASWAG_SHOTS:], "validation": rows[:-HELLASWAG_SHOTS]}


def _winogrande(folder: Path) -> dict[str, Rows]:
    rows = _arrow(folder / "validation")
    return {"train": rows[-WINOGRANDE_SHOTS:], "validation": rows[:-WINOGRANDE_SHOTS]}


def _truthfulqa(folder: Path) -> dict[str, Rows]:
    def targets(of: Mapping[str, int]) -> dict[str, list[Any]]:
        return {"choices": list(of), "labels": list(of.values())}

    return {
        "validation": [
            {
                "question": row["question"],
                "mc1_targets": targets(row["mc1_targets"]),
                "mc2_targets": targets(row["mc2_targets"]),
            }
            for row in json.loads((folder / "mc_task.json").read_text(encoding="utf-8"))
        ]
    }


def _mmlu(folder: Path) -> dict[str, dict[str, Rows]]:
    def rows(split: str, subject: str) -> Rows:
        with (folder / split / f"{subject}_{split}.csv").open(encoding="utf-8", newline="") as file:
            return [
                {
                    "question": row["question"],
                    "subject": subject,
                    "choices": [row[f"choice{n}"] for n in range(4)],
                    "answer": int(row["answer"]),
                }
                for row in csv.DictReader(file)
            ]

    subjects = sorted(path.name.removesuffix("_test.csv") for path in (folder / "test").glob("*_test.csv"))
    return {subject: {split: rows(split, subject) for split in ("test", "dev")} for subject in subjects}
