"""A small store of every kind of part, made by the code that makes real ones, without a model or a Ray."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ratchet.documents.scores import Score
from ratchet.documents.sweep import Value
from ratchet.documents.trial import TrialEnd
from ratchet.evaluate.harness.data import Copies
from ratchet.evaluate.harness.requests import DocumentRequests, digest_doc, kept_rows
from ratchet.evaluate.results import Item, TaskResult, write_result
from ratchet.pairs.tokens import TOKENISED, TokenWriter
from ratchet.pipeline.step_folder import write_step_record
from ratchet.reference.store import Logps, finished_files, write_block
from ratchet.serving.journal import Journal, UnitJournal
from ratchet.serving.requests import Answer, CompletionRequest
from ratchet.store.codec import to_values
from ratchet.store.files import write_sealed
from ratchet.store.fingerprint import digest_file
from ratchet.store.layout import Layout
from ratchet.store.record import Record, write_record
from ratchet.track.jsonl import metrics_line
from tests.pairs.test_tokens_flow import some_pairs, write_pairs

DOCS = [{"text": f"question {number}"} for number in range(5)]
IDS = [f"{row:032x}" for row in range(300)]


def record(kind: str, name: str) -> Record:
    return Record(
        kind, name, {"kind": kind, "split": "train", "rows": "all"}, {"pairs": 3}, "2026-01-01T00:00:00Z", 1.5
    )


def scores() -> Logps:
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 9, (2, len(IDS))).astype(np.int32)
    return Logps(-rng.exponential(20, len(IDS)), -rng.exponential(20, len(IDS)), counts[0], counts[1])


def write_logps(folder: Path) -> None:
    whole = scores()
    for number, start, end in ((0, 0, 256), (1, 256, 300)):
        write_block(folder, number, IDS[start:end], whole.at(np.arange(start, end)))
    write_record(folder, record("logps", folder.name), finished_files(folder))


def result() -> TaskResult:
    items = tuple(Item(f"i{n}", f"i{n}", {"acc": float(n % 2)}, "g", "q", f"answer {n}") for n in range(9))
    return TaskResult("t", "harness", (Score("acc", "acc", 0.5, 0.1, 9),), items, {"a": 1})


def requests() -> list[DocumentRequests]:
    return [
        DocumentRequests(n, digest_doc(doc), 1, [["loglikelihood", [doc["text"], " yes"]]], redrawn=False)
        for n, doc in enumerate(DOCS)
    ]


def write_step(folder: Path) -> None:
    write_sealed(folder / "identity.json", {"kind": "dpo", "options": {"beta": 0.1}})
    write_sealed(folder / "reference.json", {"engine": "trainer"})
    (folder / "model").mkdir()
    (folder / "model/model.safetensors").write_bytes(bytes(range(256)) * 4)
    (folder / "metrics.jsonl").write_text("".join(metrics_line(step, {"loss": 1 / step}) for step in range(1, 9)))
    masters = folder / "masters/masters.safetensors"
    masters.parent.mkdir()
    masters.write_bytes(bytes(range(256)) * 4)
    left = {"masters": {"sha256": digest_file(masters), "bytes": 1024}}
    write_step_record(folder, dataclasses.replace(record("step", "align"), facts={"training": {"published": left}}))


def tokenised(rows: int) -> pa.Table:
    rng = np.random.default_rng(1)
    ids = lambda low: [rng.integers(0, 300, int(n)).tolist() for n in rng.integers(low, 12, rows)]  # noqa: E731
    columns: dict[str, Any] = {
        "pair_id": IDS[:rows], "prompt_id": IDS[:rows], "dialogue": [None] * rows,
        "prompt": ids(3), "chosen": ids(2), "rejected": ids(2),
        "edit_distance": [0.5] * rows, "file": ["f"] * rows, "row": list(range(rows)), "reason": [None] * rows,
        "detail": [None] * rows, "trimmed": [False] * rows, "moved": [False] * rows,
    }  # fmt: skip
    columns["length"] = [len(a) + max(len(b), len(c)) for a, b, c in
                         zip(columns["prompt"], columns["chosen"], columns["rejected"], strict=True)]  # fmt: skip
    return pa.table(columns, schema=TOKENISED)


def write_store(root: Path) -> Layout:
    """Write a store below `root` and return its layout."""
    layout = Layout(root)
    for folder in (
        layout.pairs("p"),
        layout.logps("l"),
        layout.tokens("t"),
        layout.made("models", "m"),
        layout.made("scores", "r"),
        layout.made("rehearsals", "h"),
    ):
        folder.parent.mkdir(parents=True, exist_ok=True)
    write_record(write_pairs(layout.pairs("p"), some_pairs(40), some_pairs(9, start=90)), record("pairs", "p"))
    layout.tokens("t").mkdir()
    with TokenWriter(layout.tokens("t")) as writer:
        writer.write("train", tokenised(60))
    write_record(layout.tokens("t"), record("tokens", "t"))
    write_logps(layout.logps("l"))
    layout.made("models", "m").mkdir()
    (layout.made("models", "m") / "model.safetensors").write_bytes(bytes(range(256)) * 4)
    write_record(layout.made("models", "m"), record("model", "m"))
    layout.made("rehearsals", "h").mkdir()
    write_record(layout.made("rehearsals", "h"), record("rehearsals", "h"))
    layout.made("scores", "r").mkdir()
    write_result(layout.made("scores", "r"), result())
    write_record(layout.made("scores", "r"), record("scores", "r"))
    with UnitJournal(layout.answers("a")) as units:
        for number in range(6):
            units.append(f"u{number}", [Answer(f"text {number}", "stop", 3, 2)])
    with Journal(layout.judgments("j")) as judged:
        for number in range(6):
            judged.append("judge", CompletionRequest((number,)), Answer(f"[[{number}]]", "stop"))
    kept_rows(layout.store / "requests/task-k.requests", "k", DOCS, requests)
    with Copies(layout.store / "datasets") as copies:
        copies.of("d", "c").mkdir(parents=True)
        (layout.store / "datasets/d/test.arrow").write_bytes(bytes(range(256)) * 4)
    write_step(layout.made_step("s"))
    write_step(layout.step("plan", "align"))
    write_sealed(layout.order("plan", "align"), {"chunks": ["a", "b"], "difficulties": [], "rows": [[1, 2], [3]]})
    write_sealed(layout.answered("k"), {"says": {"report": "report.html"}})
    end = TrialEnd(1, "t1", 1, {"a.b": 0.1}, "p1", None, "finished", metrics={"m": Value(0.5)})
    write_sealed(layout.trials("s").run("t1") / "trial.json", to_values(end))
    return layout
