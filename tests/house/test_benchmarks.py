"""The benchmarks measure what they say: the shapes, equal work on both sides, and the counting."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import evaluate, scaling
from benchmarks.flops import Work, layer_parameters, scoring_flops, total, training_flops
from benchmarks.growth import EvenTask, make_tokens, opening, worker_data
from benchmarks.models import Sizes, build, sizes
from benchmarks.plot import draw
from benchmarks.shapes import END, FIRST_ID, MAX_LENGTH, PLAIN, SHAPES, long_answers, near_twins, one_right_three_wrong
from benchmarks.side import tensor_bytes
from benchmarks.tables import HEADERS, brief, markdown, median_ratio, share_of_peak
from benchmarks.train import parse, tasks

VOCAB = 300


def common(left: np.ndarray, right: np.ndarray) -> int:
    """Return the length of the longest common beginning."""
    shorter = min(len(left), len(right))
    differs = np.flatnonzero(left[:shorter] != right[:shorter])
    return int(differs[0]) if len(differs) else shorter


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("vocab", [VOCAB, 128_000])
def test_every_shape_is_sound_and_comes_again(shape: str, vocab: int) -> None:
    pairs, again = (SHAPES[shape](40, vocab, 7) for _ in range(2))
    assert [pair.pair_id for pair in pairs] == [pair.pair_id for pair in again]
    assert len({pair.pair_id for pair in pairs}) == len(pairs) == 40
    assert {pair.pair_id for pair in pairs}.isdisjoint(pair.pair_id for pair in SHAPES[shape](40, vocab, 8))
    assert [pair.pair_id for pair in SHAPES[shape](20, vocab, 7)] == [pair.pair_id for pair in pairs[:20]]
    for pair in pairs:
        for answer in (pair.chosen, pair.rejected):
            assert answer.dtype == np.int32 and answer[-1] == END
            ids = np.concatenate([pair.prompt, answer[:-1]])
            assert ids.min() >= FIRST_ID and ids.max() < vocab
            assert len(ids) < MAX_LENGTH
        assert pair.chosen.tolist() != pair.rejected.tolist()


def test_shapes_do_not_change_from_one_version_to_the_next() -> None:
    first = [PLAIN[shape](1, 32_000, 0)[0].pair_id[:8] for shape in PLAIN]
    assert first == ["456237d6", "c7e6bac4", "d830e453"]


def test_long_answers_differ_early_and_have_a_long_tail() -> None:
    pairs = long_answers(2000, 32_000)
    assert max(common(pair.chosen, pair.rejected) for pair in pairs) <= 3
    prompts, answers = (
        np.array([len(pair.prompt) for pair in pairs]),
        np.array([len(answer) for pair in pairs for answer in (pair.chosen, pair.rejected)]),
    )
    assert 155 <= prompts.mean() <= 185 and 235 <= answers.mean() <= 265
    assert np.median(prompts) < 0.75 * prompts.mean()
    assert max(len(p.prompt) + max(len(p.chosen), len(p.rejected)) for p in pairs) > 0.95 * MAX_LENGTH


def test_near_twins_differ_by_one_edit_in_the_middle() -> None:
    pairs = near_twins(500, VOCAB)
    for pair in pairs:
        assert len(pair.chosen) == len(pair.rejected)
        before = common(pair.chosen, pair.rejected)
        after = common(pair.chosen[::-1], pair.rejected[::-1])
        assert 1 <= len(pair.chosen) - before - after <= 4
        assert before >= len(pair.chosen) // 4 and after >= len(pair.chosen) // 4
    assert 58 <= np.mean([len(pair.prompt) for pair in pairs]) <= 62
    assert 116 <= np.mean([len(pair.chosen) for pair in pairs]) <= 124


def test_three_wrong_answers_follow_one_another() -> None:
    pairs = one_right_three_wrong(30, VOCAB)
    groups = [pairs[start : start + 3] for start in range(0, 30, 3)]
    for group in groups:
        assert len({pair.prompt.tobytes() for pair in group}) == len({pair.chosen.tobytes() for pair in group}) == 1
        assert len({pair.rejected.tobytes() for pair in group}) == 3
    assert len({group[0].prompt.tobytes() for group in groups}) == 10
    assert 580 <= np.mean([len(group[0].prompt) for group in groups]) <= 620


HAND = Sizes(hidden=6, layers=2, heads=4, key_value_heads=2, head_dim=3, intermediate=5, vocab=11)


def test_flops_against_a_count_by_hand() -> None:
    # Query and output 6·12 each, key and value 6·6 each, three projections of 6·5: 306 weights a layer.
    assert layer_parameters(HAND) == 2 * (72 + 72 + 36 + 36 + 90)
    work = Work(tokens=10, head_rows=3, attended=20, attended_computed=32, layers_again=True, head_again=3)
    # Layers 2·612·10; scores and weighted values 2·2·(4·3)·20 in each of two layers; head 2·6·11·3.
    scoring = scoring_flops(HAND, work)
    assert (scoring.layers, scoring.attention, scoring.head) == (12_240, 1_920, 396)
    assert scoring.model == 14_556 and scoring.executed == 14_556 + 2 * 48 * 12
    training = training_flops(HAND, work)
    assert training.model == 3 * 14_556
    assert training.masked == 3 * 2 * 48 * 12
    assert (
        training.recomputed == 12_240 - 2 * 2 * 30 * 10 + 1_920 + 2 * 48 * 12 + 396
    )  # but for each layer's last product
    assert training.executed == training.model + training.masked + training.recomputed
    plain = training_flops(HAND, Work(10, 3, 20, 20))
    assert plain.executed == plain.model == training.model
    assert total([work, work]).tokens == 20 and total([work, work]).layers_again


def test_flops_are_those_that_torch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    of = sizes("tiny", VOCAB)
    model = build(of, "float32")
    model.config._attn_implementation = "eager"  # as plain products: the whole square is computed
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.ones(2, 9, dtype=torch.int64), use_cache=False)
    work = Work(tokens=18, head_rows=18, attended=2 * 45, attended_computed=2 * 81)
    assert counter.get_total_flops() == scoring_flops(of, work).executed


def made_up_cell() -> dict[str, object]:
    """Return a cell in which TRL's default takes 4, 6, 5 times and a careful loop twice as long as Ratchet."""

    def side(*seconds: float) -> dict[str, object]:
        cost = [{"wall": s, "cpu": 2 * s} for s in seconds]
        return {
            "training": cost,
            "scoring": cost,
            "tokens": 800,
            "flops": 16 * 10**9,
            "memory_bytes": 2 * 10**9,
            "gradient": {"relative": 0.042, "largest": 0.1, "parameter": "a", "loss": 0.69},
        }

    task = next(tasks(parse(["--quick"]))).to_dict() | {"pairs": 4}
    sides = {"careful loop": side(2.0, 2.0, 2.0), "TRL default": side(4.0, 6.0, 5.0), "Ratchet": side(1.0, 1.0, 1.0)}
    lost = {"TRL best": "it is not installed"}
    return {"task": task, "batch": 8, "malloc": "keep", "sides": sides, "lost": lost, "matmul_peak": 96e9}


def test_the_table_and_the_picture_show_the_figures(tmp_path: Path) -> None:
    cell = json.loads(json.dumps(made_up_cell()))
    lines = markdown([cell]).splitlines()
    cells = [[value.strip() for value in line.strip("|").split("|")] for line in lines[:5]]
    assert tuple(cells[0]) == HEADERS and {len(row) for row in cells} == {len(HEADERS)}
    careful, default, ours = (dict(zip(HEADERS, row, strict=True)) for row in cells[2:5])
    assert [row["side"] for row in (careful, default, ours)] == ["careful loop", "TRL default", "Ratchet"]
    assert [row["× Ratchet's step"] for row in (careful, default)] == ["2.00 (2.00)", "5.00 (5.00)"]
    assert (ours["tokens/pair"], ours["GFLOP/pair"], ours["step, CPU s"]) == ("200", "2.0", "2.00")
    assert (ours["memory, GB"], ours["of peak"], ours["gradient off"]) == ("2.00", "17%", "4.2e-02")
    assert lines[-1] == "TRL best cannot run: it is not installed"
    assert share_of_peak(cell, cell["sides"]["Ratchet"]) == pytest.approx(16 / 96)
    said = brief(cell)
    assert "Ratchet 8.00 pairs/s; 2.00 (2.00)× careful loop, 5.00 (5.00)× TRL default; TRL best cannot run" in said
    assert median_ratio(cell["sides"]["TRL default"], cell["sides"]["Ratchet"], "training", "cpu") == 5.0
    picture = tmp_path / "ratios.svg"
    draw({"cells": [cell], "machine": "a machine", "date": "2026-01-01"}, picture)
    assert "5.0×" in picture.read_text() or picture.stat().st_size > 5000


def test_options_refuse_a_batch_that_trl_would_average_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--batch", "12", "--micro", "8"])
    assert "whole micro-batches" in capsys.readouterr().err
    quick = parse(["--quick"])
    assert (quick.model, quick.batch % quick.micro, len(list(tasks(quick)))) == ("tiny", 0, 3)
    assert len(list(tasks(parse([])))) == 12


def test_scaling_reads_what_it_writes(tmp_path: Path) -> None:
    tokens, scores = make_tokens(tmp_path, 600, 2)
    assert opening(tokens)["pairs"] == 600
    figures = worker_data(tokens, scores)
    assert figures["pairs"] == 600
    assert figures["chosen_tokens"] == sum(len(pair.chosen) for pair in near_twins(600, 32_000))
    task = EvenTask("even", "tiny", VOCAB, "float32", pairs=3, answer=9)
    assert [(len(p.prompt), len(p.chosen), len(p.rejected)) for p in task.draw()] == [(64, 9, 9)] * 3


def test_scaling_prints_four_tables() -> None:
    memory = {"peak_bytes": 2_500_000, "held_bytes": 1_000_000}
    row = {"seconds": 0.5, "pairs": 1000, **memory}
    results = {
        "rows": [{"what": "reading", **row}],
        "sources": [{"sources": 4, **row}],
        "answers": [{"answer_tokens": 64, "tokens": 100_000, "flops": 10**9, **row}],
        "trials": [{"trials": 2, "scored_pairs": 64, "scoring_seconds": 1.0, "training_seconds": 2.0, **row}],
    }
    text = scaling.markdown(results)
    assert text.count("\n| ---") == 4
    assert "| reading | 1,000 | 500.0 | 2.5 | 1.0 |" in text
    assert "| 64 | 0.50 | 100 | 5.0 | 2.0 |" in text


@pytest.mark.slow
def test_scaling_runs_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scaling.main(["--quick", "--rows", "64", "--out", str(tmp_path / "figures.json")])
    found = json.loads((tmp_path / "figures.json").read_text())
    assert [row["pairs"] for row in found["rows"]] == [64] * 4
    assert [row["trials"] for row in found["trials"]] == [1, 2]
    assert [row["scored_pairs"] for row in found["trials"]] == [64, 64]  # the second trial finds the first's
    assert found["machine"] in capsys.readouterr().out


def test_bytes_of_a_tensor_count_once() -> None:
    one, two = torch.zeros(3), torch.zeros(5, dtype=torch.bfloat16)
    assert tensor_bytes([one, two, one]) == 22


@pytest.mark.filterwarnings("ignore")  # lm-eval's class warns of what it is given
def test_choices_are_as_likely_by_both_sides(capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--model",
        "tiny",
        "--vocab",
        "300",
        "--documents",
        "3",
        "--rounds",
        "1",
        "--dtype",
        "float32",
        "--shape",
    ]
    evaluate.main([*options, "5 shots, one token", "no shots, 15 tokens"])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if "shots," in line]
    assert [float(row[-1].rstrip(" |")) < 1e-3 for row in rows] == [True, True]
