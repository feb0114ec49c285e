"""What `scaling` measures: each function does one thing on rows of one number, in a process of its own.

A function returns figures; `seconds` of wall time and `pairs` are among them, and `alone` adds memory.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.shapes import Draw, near_twins, pair_of
from benchmarks.side import Task
from benchmarks.worker import measured, status_bytes
from ratchet.pairs.pair import TokenisedPair

Figures = dict[str, Any]
_WORDS = ("the", "answer", "is", "not", "what", "seven", "follows", "from", "river", "stone", "because", "more")
_BATCH = 256


def alone(function: Callable[..., Figures], *arguments: Any, warm: Sequence[Any] = ()) -> Figures:
    """Return the figures of `function` from a new process, in which it has run once with the arguments `warm`.

    `peak_bytes` is the largest memory above what was there before, files that it has mapped included;
    `held_bytes` is what it holds of its own at the end. Raises what it raises.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_watched, (function, arguments, warm))


def here(function: Callable[..., Figures], *arguments: Any, warm: Sequence[Any] = ()) -> Figures:
    """Return what `alone` does, but from this process: quick, with figures of memory that mean nothing."""
    return _watched(function, arguments, warm)


def _watched(function: Callable[..., Figures], arguments: Sequence[Any], warm: Sequence[Any]) -> Figures:
    import torch

    torch.set_num_threads(1)
    if warm:
        function(*warm)  # so that loading libraries is no part of what is measured
    before, own = status_bytes("VmRSS"), status_bytes("RssAnon")
    figures, cost = measured(lambda: function(*arguments))
    kept = figures.pop("kept", None)  # alive until its memory is counted
    figures |= {"peak_bytes": cost["peak_bytes"] - before, "held_bytes": status_bytes("RssAnon") - own}
    del kept
    return figures


def write_rows(path: Path, count: int) -> None:
    """Write `count` rows of text with a prompt and two answers, one JSON object a line."""
    import json

    with path.open("w") as file:
        for i in range(count):
            draw = Draw(1, i)
            words = [_WORDS[draw.below(len(_WORDS))] for _ in range(90)]
            texts = (f"{i} " + " ".join(words[:30]), " ".join(words[30:60]), " ".join(words[60:]))
            file.write(json.dumps(dict(zip(("prompt", "chosen", "rejected"), texts, strict=True))) + "\n")


def write_tokens(path: Path, pairs: Sequence[TokenisedPair]) -> None:
    """Write a token file as a run does."""
    from ratchet.pairs.table import SCHEMA

    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        for start in range(0, len(pairs), _BATCH):
            part = pairs[start : start + _BATCH]
            ids = [pair.pair_id for pair in part]
            sides = [[getattr(pair, side) for pair in part] for side in ("prompt", "chosen", "rejected")]
            writer.write_batch(
                pa.record_batch([ids, ids, *sides, [0.0] * len(part), [None] * len(part)], schema=SCHEMA)
            )


def write_scores(folder: Path, pairs: Sequence[TokenisedPair]) -> None:
    """Write made-up log-probabilities of `pairs` as a run does."""
    import numpy as np

    from ratchet.reference.store import Logps, blocks, write_block

    folder.mkdir(parents=True, exist_ok=True)
    for number, start, end in blocks(len(pairs)):
        part = pairs[start:end]
        tokens = [np.array([len(pair.chosen) for pair in part], np.int32)] * 2
        numbers = np.linspace(-90.0, -80.0, len(part))
        write_block(folder, number, [pair.pair_id for pair in part], Logps(numbers, numbers, *tokens))


def reading(rows: Path, folder: Path) -> Figures:
    """Read and check rows of text, and write the pairs folder."""
    from ratchet.pairs.assemble import assemble
    from ratchet.pairs.source import read_source
    from ratchet.plan.data import Source

    source = Source(path=str(rows))
    folder.mkdir(parents=True)
    began = time.perf_counter()
    counts = assemble(read_source(source), folder, source)
    return {"seconds": time.perf_counter() - began, "pairs": counts.read}


def looking(rows: Path) -> Figures:
    """Look at rows of text as `ratchet data` does, without a tokenizer."""
    from ratchet.look.whole import look_at_files
    from ratchet.pairs.tokens import Policy
    from ratchet.plan.data import Source

    began = time.perf_counter()
    report = look_at_files({"rows": Source(path=str(rows))}, None, Policy(1024, "drop"))
    return {"seconds": time.perf_counter() - began, "pairs": report.sources[0].read}


def tokenising(pairs: Path, model: Path, root: Path) -> Figures:
    """Tokenise a pairs folder in this process."""
    from ratchet.pairs.token_flow import prepare_tokens
    from ratchet.store.layout import Layout
    from ratchet.store.record import read_record

    began = time.perf_counter()
    _, folder = prepare_tokens(
        pairs, "0" * 20, model, Layout(root), max_length=1024, overlong="drop", chat_template=None, small_rows=1 << 40
    )
    seconds = time.perf_counter() - began
    record = read_record(folder)
    assert record is not None
    return {"seconds": seconds, "pairs": record.counts["read"]}


def opening(files: Sequence[Path]) -> Figures:
    """Open a table of token files."""
    from ratchet.pairs.table import open_table

    began = time.perf_counter()
    table = open_table(files, [1.0] * len(files), 0)
    return {"seconds": time.perf_counter() - began, "pairs": len(table), "kept": table}


def worker_data(files: Sequence[Path], scores: Sequence[Path]) -> Figures:
    """Open what a training worker holds, its reference joined, and read an epoch in training order."""
    from ratchet.plan.cluster import Cluster
    from ratchet.plan.stages import Dpo
    from ratchet.train.batches import Course, global_batches
    from ratchet.train.data import open_data
    from ratchet.train.spec import TrainSpec

    paths = tuple(str(file) for file in files)
    spec = TrainSpec(
        "dpo",
        Dpo(kind="dpo", data=("pairs",)),
        "",
        "",
        paths,
        (1.0,) * len(paths),
        Cluster(),
        references=tuple(str(folder) for folder in scores),
    )
    began = time.perf_counter()
    data, _ = open_data(spec)
    tokens = 0
    for batch in global_batches(Course(len(data.table), batch=32, epochs=1, seed=0)):
        tokens += sum(len(data.table[int(row)].chosen) for row in batch.rows)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "pairs": len(data.table), "chosen_tokens": tokens, "kept": data}


@dataclasses.dataclass(frozen=True)
class EvenTask(Task):
    """Pairs whose prompt has 64 tokens and whose answers have `answer` each and share nothing."""

    answer: int = 0

    def draw(self) -> list[TokenisedPair]:
        """Return the pairs."""
        draws = [Draw(self.seed, i) for i in range(self.pairs)]
        sides = [(draw.ids(64, self.vocab), *(draw.answer(self.answer, self.vocab) for _ in "ab")) for draw in draws]
        return [pair_of(*three) for three in sides]


def training(task: Task, repeats: int) -> Figures:
    """Make `repeats` steps over all pairs of a task, after one that is not counted."""
    from benchmarks.flops import counted
    from benchmarks.ratchet_side import RatchetSide

    side, rows = RatchetSide(task), range(task.pairs)
    side.score(rows)
    side.step(rows)
    clocks = [measured(lambda: side.step(rows))[1]["wall"] for _ in range(repeats)]
    _, flops = counted(lambda: side.gradients(rows))
    return {"seconds": min(clocks), "pairs": task.pairs, "tokens": side.tokens(rows), "flops": flops}


def trials(task: Task, count: int, root: Path) -> Figures:
    """Train `count` trials that differ in β alone; each takes what the store has of its reference."""
    import numpy as np

    from benchmarks.ratchet_side import RatchetSide
    from ratchet.reference.models import ScoredPairs
    from ratchet.reference.rate import score_rows
    from ratchet.reference.store import missing_blocks, write_block
    from ratchet.store.layout import Layout
    from ratchet.store.made import made_folder

    scoring = stepping = 0.0
    scored = 0
    for _ in range(count):
        side = RatchetSide(task)
        scores = ScoredPairs("0", "train", None, weights="0", dtype="float32", quantise=None, engine="trainer")
        folder = made_folder(Layout(root), scores)
        folder.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        for number, start, end in missing_blocks(folder, task.pairs):
            rows: Any = np.arange(start, end)
            found = score_rows(side.scorer, side.table, rows, side.budget, "cpu")  # type: ignore[arg-type]
            write_block(folder, number, [side.table.pair_id(row) for row in range(start, end)], found)
            scored += end - start
        scoring += time.perf_counter() - began
        side.logps_N2[:] = 0.0
        stepping += measured(lambda side=side: side.step(range(task.pairs)))[1]["wall"]
    return {
        "seconds": scoring + stepping,
        "pairs": task.pairs * count,
        "scored_pairs": scored,
        "scoring_seconds": scoring,
        "training_seconds": stepping,
    }


def make_tokens(folder: Path, count: int, files: int) -> tuple[list[Path], list[Path]]:
    """Write `count` pairs as `files` token files with their scores; return the paths of both."""
    pairs = near_twins(count, 32_000)
    tokens, scores = [], []
    for k in range(files):
        part = pairs[k::files]
        tokens.append(folder / f"tokens-{count}-{files}-{k}.arrow")
        scores.append(folder / f"scores-{count}-{files}-{k}")
        write_tokens(tokens[-1], part)
        write_scores(scores[-1], part)
    return tokens, scores
