"""How many tokens a pass may take, work prepared ahead, and a step that waits for the device once."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ratchet.documents.events import Event, events_of, write_event
from ratchet.model import memory
from ratchet.model.batch import Packing, collate
from ratchet.store import machine
from ratchet.store.files import read_sealed
from ratchet.train import budget
from ratchet.train.budget import why_unshared
from ratchet.train.communicate import Alone
from train_bench import CPU, Pairs, changed, engine_and_data


@given(
    per_token=st.integers(1, 10**6),
    squared=st.integers(0, 10**3),
    fixed=st.integers(0, 10**9),
    free=st.integers(0, 10**10),
)
def test_the_budget_fits_and_was_expected_to(per_token: int, squared: int, fixed: int, free: int) -> None:
    tried: list[int] = []

    def peak_at(tokens: int) -> int:
        tried.append(tokens)
        return fixed + per_token * tokens + squared * tokens**2

    found = memory.largest_budget(peak_at, free, CPU)
    most = memory.MOST["cpu"]
    assert memory.FIRST <= found <= most
    assert all(2 * peak_at(tokens // 2) <= free for tokens in tried[1:])
    assert found == memory.FIRST or peak_at(found) <= free
    if peak_at(most) <= free / 2:
        assert found == most


def test_a_budget_that_fitted_is_kept_where_twice_it_does_not() -> None:
    """20 GB at 32,768 tokens and 75 at 65,536: the square outgrew what doubling expected."""
    gpu = torch.device("cuda")
    assert memory.largest_budget(lambda tokens: 100_000 * tokens + 16 * tokens**2, 64 * 10**9, gpu) == 32_768
    out_above = lambda tokens: 1000 * tokens if tokens <= 20_000 else sys.maxsize  # noqa: E731
    assert memory.largest_budget(out_above, 64 * 10**9, gpu) == 16_384


@pytest.mark.parametrize(
    ("seconds", "wanted", "tries"),
    [
        ({512: 4.0, 1024: 5.0, 2048: 10.0}, 1024, [512, 1024, 2048]),  # 128, 205 and 205 tokens a second
        ({512: 4.0, 1024: 7.9, 2048: 10.0}, 512, [512, 1024]),
        ({512: 0.4, 1024: 1.2, 2048: 1.3, 4096: 2.4}, 4096, [512, 1024, 2048, 4096]),  # 0.4 s says nothing
    ],
)
def test_passes_that_are_no_quicker_are_not_made_larger(
    seconds: dict[int, float], wanted: int, tries: list[int]
) -> None:
    tried: list[int] = []

    def peak_at(tokens: int) -> int:
        tried.append(tokens)
        return tokens

    assert memory.largest_budget(peak_at, 10**9, CPU, seconds.__getitem__) == wanted
    assert tried == tries


def test_ray_s_share_of_a_machine_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray ends processes where 95 % of the memory are used."""
    monkeypatch.setattr(machine, "memory", lambda: machine.Memory(total=100 << 30, available=12 << 30))
    assert memory.available(CPU) == 7 << 30


def test_files_that_a_container_has_read_are_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    for name, text in {
        "max": "400000000\n",
        "current": "390000000\n",
        "stat": "anon 1\ninactive_file 90000000\n",
    }.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert machine.memory() == machine.Memory(400_000_000, 100_000_000)


def test_a_budget_that_was_found_is_halved_once(tmp_path: Path) -> None:
    spec, engine, data = engine_and_data(tmp_path, token_budget=None)
    find = lambda: budget.choose(spec, engine, data, Alone(), pytest.fail)  # noqa: E731
    assert not budget.goes_on(spec, "before it was found")
    found = find()
    assert budget.goes_on(spec, "memory ran out") and find() == found // 2 == budget.known_budget(spec)
    # The worker that fails may know it first; then the driver lets the step begin again, until it has.
    assert not budget.halve(spec, "again") and budget.goes_on(spec, "again")
    write_event(tmp_path, Event(code="group-began", what="1 worker began"))
    assert not budget.goes_on(spec, "again") and find() == found // 2
    told = [event.what for event in events_of(tmp_path) if event.code.startswith("budget")]
    assert f"token_budget {found:,}" in told[0] and "GiB" in told[0]
    assert told[1:] == [f"memory ran out; once more with half as many tokens in a pass: {found // 2:,}"]


def test_a_budget_of_the_plan_is_not_halved(tmp_path: Path) -> None:
    spec, *_ = engine_and_data(tmp_path, token_budget=200)
    assert not budget.goes_on(spec, "memory ran out") and budget.known_budget(spec) == 200


@pytest.mark.parametrize("free", [0, 10**9])
def test_a_pass_that_takes_nothing_measurable_is_no_proof_for_larger_ones(free: int) -> None:
    tried: list[int] = []

    def peak_at(tokens: int) -> int:
        tried.append(tokens)
        return 0 if tokens < 2048 else 10**10

    assert memory.largest_budget(peak_at, free, CPU) == 1024
    assert tried == [512, 1024, 2048]
    assert memory.largest_budget(lambda tokens: 0, free, CPU) == memory.MOST["cpu"]


def test_what_was_found_is_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spec, engine, data = engine_and_data(tmp_path, token_budget=None)
    calls: list[int] = []
    find = lambda: budget.choose(spec, engine, data, Alone(), lambda: calls.append(1))  # noqa: E731
    found = find()
    assert read_sealed(tmp_path / "budget.json") == {
        "token_budget": found,
        "recompute": False,
        "asked": {"token_budget": None, "gradient_checkpointing": False, "sharing": "auto", "workers": 1},
    }
    assert not engine.gradient.any()  # trying adds nothing
    monkeypatch.setattr(memory, "available", lambda device: 0)
    assert find() == found and not calls
    spec = changed(spec, token_budget=128, gradient_checkpointing=None)  # lowered after it ran out of memory
    assert find() == 128
    (tmp_path / "budget.json").write_text('{"token')  # cut short
    assert find() == 128
    written = (tmp_path / "budget.json").read_text()
    (tmp_path / "budget.json").write_text(written.replace("128", "129"))
    assert find() == 128 and "are found again" in caplog.text


def test_activations_are_recomputed_where_a_first_pass_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, engine, data = engine_and_data(tmp_path, token_budget=200, gradient_checkpointing=None)
    calls: list[int] = []
    monkeypatch.setattr(memory, "available", lambda device: -1)
    for times in (1, 2):  # found, then read
        assert budget.choose(spec, engine, data, Alone(), lambda: calls.append(1)) == 200
        assert len(calls) == times


@pytest.mark.parametrize("fits", [True, False])
def test_the_budget_is_found_with_activations_recomputed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fits: bool
) -> None:
    """Before, a pass takes 100 bytes (or is out of memory), and 50 are free; after, it takes 10."""
    spec, engine, data = engine_and_data(tmp_path, token_budget=None, gradient_checkpointing=None)
    calls: list[int] = []

    def try_pass(*args: object) -> None:
        if not (fits or calls):
            raise torch.OutOfMemoryError

    monkeypatch.setattr(memory, "reset_peak", lambda device: 0)
    monkeypatch.setattr(memory, "peak", lambda device: 10 if calls else 100)
    monkeypatch.setattr(budget, "_free", lambda spec, engine, communicator: 50)
    monkeypatch.setattr(budget, "_try_pass", try_pass)
    assert budget.choose(spec, engine, data, Alone(), lambda: calls.append(1)) == memory.MOST["cpu"]
    assert calls == [1]


def test_what_a_step_needs_besides_is_no_memory_of_a_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AdamW's moments; a gradient's memory is held from the start."""
    spec, engine, data = engine_and_data(tmp_path)
    weights = sum(weight.numel() for weight in engine.trained)
    monkeypatch.setattr(memory, "available", lambda device: 20 * weights)
    free = budget._free(spec, engine, Alone())
    engine.backward(engine(collate([data.table[0]], engine.packing)).sum(), last=True)
    engine.step(1e-3, float(engine.finish_gradient()))
    moments = [value for held in engine.optimizer.state.values() for name, value in held.items() if name != "step"]
    assert 4 * sum(value.numel() for value in moments) == 8 * weights
    assert free == int(memory.SHARE * (20 - 8) * weights)


def test_a_plan_that_says_everything_needs_no_trial(tmp_path: Path) -> None:
    spec, engine, data = engine_and_data(tmp_path, token_budget=200, gradient_checkpointing=False)
    assert budget.choose(spec, engine, data, Alone(), pytest.fail) == 200
    assert not (tmp_path / "budget.json").exists()


def test_peak_memory_sees_what_came_and_went() -> None:
    before = memory.reset_peak(CPU)
    block = np.ones(50_000_000, np.uint8)
    del block
    assert 45_000_000 < memory.peak(CPU) - before < 80_000_000
    assert memory.reset_peak(CPU) < before + 20_000_000 and memory.available(CPU) > 0


def test_pairs_beyond_a_window_are_counted() -> None:
    table = Pairs(22)
    longest = table.lengths_N3[:, 0] + table.lengths_N3[:, 1:].max(1)
    beyond = int((longest > 12).sum())
    assert 0 < beyond < 22
    said = why_unshared(Packing(longest=12), table)
    assert said == f"{beyond} of 22 pairs are longer than the 12 tokens that attention reaches alike"
    assert why_unshared(Packing(longest=int(longest.max())), table) is None and why_unshared(Packing(), table) is None
    assert why_unshared(Packing(why_padded="own code"), table) == "own code"
    again = "a prompt whose answers need several passes is computed in each, as its layers run twice"
    assert why_unshared(Packing(why_repeated="its layers run twice"), table) == again
    assert why_unshared(Packing(longest=12, why_repeated="its layers run twice"), table) == f"{said}; {again}"
