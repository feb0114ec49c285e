"""The six sides of the benchmark compute one loss and one gradient, and what they are said to compute is counted."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from benchmarks import rows, train
from benchmarks.flops import counted, training_flops
from benchmarks.models import build
from benchmarks.rows import Group
from benchmarks.shapes import DRAWN, MORE, Draw, fits, like
from benchmarks.side import BETA, Side, Task
from benchmarks.team import Team, allocator, gradient_difference
from benchmarks.worker import COMPARED, SIDES
from ratchet.pairs.pair import TokenisedPair
from ratchet.pipeline.session import worker_environment
from ratchet.plan.cluster import Cluster
from ratchet.plan.data import Source

VOCAB = 300
NAMES = [*COMPARED, "padded rows", "recomputed activations"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # TRL warns of settings that it changes itself


def side_of(name: str, task: Task) -> Side:
    if name.startswith("TRL"):
        pytest.importorskip("trl", reason="trl is not installed: pip install -e '.[bench]'")
    return SIDES[name](task)


def truth(task: Task, shift_N2: np.ndarray) -> tuple[float, Mapping[str, torch.Tensor]]:
    """Return loss and gradients in float64, each sequence alone in a pass of its own, by transformers and torch."""
    model = build(task.sizes, "float32").double()

    def logp(prompt: np.ndarray, answer: np.ndarray) -> torch.Tensor:
        ids = torch.from_numpy(np.concatenate([prompt, answer])).long()
        logits = model(input_ids=ids[None]).logits[0].log_softmax(-1)
        places = torch.arange(len(prompt) - 1, len(ids) - 1)
        return logits[places, ids[places + 1]].sum()

    losses = []
    for pair, shift in zip(task.draw(), torch.from_numpy(shift_N2), strict=True):
        both = torch.stack([logp(pair.prompt, pair.chosen), logp(pair.prompt, pair.rejected)])
        gain = both - both.detach() - shift
        losses.append(-F.logsigmoid(BETA * (gain[0] - gain[1])))
    loss = torch.stack(losses).mean()
    loss.backward()
    return float(loss), {name: weight.grad for name, weight in model.named_parameters()}  # type: ignore[misc]


@pytest.mark.heavy
@pytest.mark.parametrize("shape", ["near twins", "ARC, one against three", "AlpacaEval"])
def test_all_sides_give_the_loss_and_the_gradients_of_plain_float64(shape: str) -> None:
    if shape != "near twins":
        task = Task(shape, "tiny", VOCAB, "float32", pairs=4, micro=2, threads=1)
    else:
        task = Task(shape, "tiny", VOCAB, "float32", pairs=6, micro=3, threads=1)
    shift_N2 = np.linspace(-2.0, 3.0, 2 * task.pairs).reshape(-1, 2)  # away from a loss of ln 2 with equal weights
    loss, right = truth(task, shift_N2)
    assert abs(loss - np.log(2)) > 1e-3
    every = range(task.pairs)
    for name in [name for name in NAMES if not name.startswith("TRL") or _has_trl()]:
        side = side_of(name, task)
        side.score(every)
        side.logps_N2 += shift_N2
        found, gradients = side.gradients(every)
        assert gradients.keys() == right.keys()
        assert found == pytest.approx(loss, rel=2e-5), name
        for parameter, gradient in right.items():
            off = float((gradients[parameter] - gradient).abs().max() / gradient.abs().max())
            assert off < 1e-4, (name, parameter)
        first, second = side.step(every), side.step(every)
        assert first == pytest.approx(loss, rel=2e-5) and second < first, name


def _has_trl() -> bool:
    try:
        import trl  # noqa: F401
    except ImportError:
        return False
    return True


@pytest.mark.heavy
@pytest.mark.parametrize("name", [name for name in COMPARED if "loop" in name or "TRL" in name])
def test_what_torch_counts_while_a_side_runs_is_what_paper_says(name: str) -> None:
    # Not the tiny model: torch has no flash kernel on a CPU for groups of heads, and computes whole squares.
    task = Task("near twins", "30m", VOCAB, "float32", pairs=2, micro=1, threads=1)
    side: Any = side_of(name, task)
    side.score(range(2))
    _, found = counted(lambda: side.gradients(range(2)))
    assert found == pytest.approx(training_flops(task.sizes, side.training_work(range(2))).executed, rel=1e-3)


def test_a_gradient_that_differs_is_seen(tmp_path: Path) -> None:
    right = {"a": torch.tensor([1.0, -4.0]), "b": torch.tensor([2.0])}
    other = {"a": torch.tensor([1.5, -4.0]), "b": torch.tensor([2.0])}
    paths = [tmp_path / "other.pt", tmp_path / "right.pt"]
    for path, gradients in zip(paths, (other, right), strict=True):
        torch.save({"loss": 0.5, "gradients": gradients}, path)
    found = gradient_difference(*paths)
    assert (found["largest"], found["parameter"], found["loss_difference"]) == (0.125, "a", 0.0)
    assert found["relative"] == pytest.approx(0.5 / math.sqrt(1 + 16 + 4))
    assert gradient_difference(paths[1], paths[1])["relative"] == 0.0
    torch.save({"loss": 0.5, "gradients": {**other, "b": torch.tensor([float("nan")])}}, paths[0])
    assert gradient_difference(*paths)["parameter"] == "b"


def test_each_allocator_setting_is_what_ships_or_none() -> None:
    ships = {key: value for key, value in worker_environment(Cluster()).items() if key.startswith("MALLOC_")}
    assert ships.keys() == {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"}
    assert allocator("TRL default", "keep") == allocator("Ratchet", "keep") == allocator("Ratchet", "shipped") == ships
    assert allocator("careful loop", "shipped") == allocator("Ratchet", "return") == {}


def test_lengths_are_counted_with_what_answers_have_in_common() -> None:
    ids = lambda *some: np.array(some, np.int32)  # noqa: E731
    chosen = ids(5, 6, 7, 8, 3)
    pairs = [
        TokenisedPair("a", ids(9, 9), chosen, ids(5, 6, 20, 21, 8, 3)),
        TokenisedPair("b", ids(9, 9), chosen, ids(30, 3)),
        TokenisedPair("c", ids(9), chosen, ids(5, 6, 7, 3)),
    ]
    groups = rows.groups_of(pairs)
    assert groups == [Group(2, 5, ((6, 2, 2), (2, 0, 1))), Group(1, 5, ((4, 3, 1),))]
    made = [like(group, Draw(0, 0), VOCAB) for group in groups]
    assert [rows.groups_of(some)[0] for some in made] == groups


def test_drawn_shapes_have_the_lengths_of_their_rows() -> None:
    sets = rows.read_lengths()
    assert sets.keys() == DRAWN.keys() | MORE.keys()
    for name in sets:
        groups = [group for group in sets[name] if fits(group)]
        assert len(groups) >= 0.95 * len(sets[name]) >= 150
        made = DRAWN.get(name, MORE.get(name))(1500, 32_000, 0)  # type: ignore[misc]
        for of in ("prompt", "chosen"):
            wanted = np.repeat([getattr(group, of) for group in groups], [len(group.rejected) for group in groups])
            assert np.mean([len(getattr(pair, of)) for pair in made]) == pytest.approx(wanted.mean(), rel=0.1), of


def test_rows_of_a_user_become_the_pairs_that_sides_train_on(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    texts = [{"prompt": f"Say {n}.", "chosen": f"It is {n}, as asked.", "rejected": "No."} for n in range(12)]
    file.write_text("".join(json.dumps(text) + "\n" for text in texts))
    tokens = rows.tokenise_rows(Source(path=str(file), held_out=0.0), None, 300, 64, tmp_path / "made")
    pairs = Task("mine", "tiny", 300, "float32", pairs=12, rows=str(tokens)).draw()
    assert len({pair.pair_id for pair in pairs}) == 12
    assert len({len(pair.rejected) for pair in pairs}) == 1 < len({len(pair.prompt) for pair in pairs})
    assert [pair.pair_id for pair in pairs] == [pair.pair_id for pair in rows.rows_of(tokens, 12, 0)]
    with pytest.raises(ValueError, match="13 pairs are asked for, and the rows give 12"):
        rows.rows_of(tokens, 13, 0)


@pytest.mark.heavy
def test_a_side_that_cannot_run_is_named_and_the_others_go_on(tmp_path: Path, monkeypatch: Any) -> None:
    broken = tmp_path / "trl"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('no TRL here')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Team(["TRL best", "careful loop"], None, "keep", threads=1, device="cpu") as team:
        team.begin(Task("near twins", "tiny", VOCAB, "float32", pairs=2, micro=2, threads=1))
        found = team.take_turns("score", [(0, 2)])
    assert found.keys() == {"careful loop"} and found["careful loop"][0]["cpu"] > 0
    assert team.lost == {"TRL best": "ImportError: no TRL here"}


@pytest.mark.heavy
def test_the_whole_benchmark_runs_on_rows_of_a_user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.jsonl"
    texts = [{"prompt": f"Say {n}.", "chosen": f"It is {n}, as asked.", "rejected": "No."} for n in range(20)]
    file.write_text("".join(json.dumps(text) + "\n" for text in texts))
    sides = ["--side", "careful loop", "Ratchet", "--malloc", "keep", "--threads", "1"]
    train.main(["--quick", "--rows", str(file), *sides, "--out", str(tmp_path / "figures.json")])
    (cell,) = json.loads((tmp_path / "figures.json").read_text())["cells"]
    assert cell["lost"] == {} and list(cell["sides"]) == ["careful loop", "Ratchet"]
    for figures in cell["sides"].values():
        assert figures["gradient"]["relative"] < 1e-4 and len(figures["training"]) == 2
    careful, ours = cell["sides"].values()
    assert careful["tokens"] > ours["tokens"] and careful["flops"] > ours["flops"] > 0
    assert "20 pairs of at most" in capsys.readouterr().out
