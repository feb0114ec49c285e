"""One step in this process: the same bits as one uninterrupted worker, whatever stops it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raised import raises
from ratchet.documents.events import events_of
from ratchet.model.folder import digest_model
from ratchet.plan.training import Checkpoint
from ratchet.train import here
from ratchet.train.budget import known_budget
from ratchet.train.communicate import Alone
from ratchet.train.engine import TorchEngine
from ratchet.train.here import train_here
from train_bench import CPU, spec_of, timeless, train_whole

pytestmark = pytest.mark.heavy


def _ended(folder: Path, inputs: dict[str, Any], **changes: Any) -> str:
    """Train to the end and return the digest of the published model."""
    (folder / "step").mkdir(exist_ok=True)
    train_here(spec_of(folder / "step", **inputs, **changes))
    return digest_model(folder / "step/model")


def test_it_makes_what_a_worker_makes(tmp_path: Path, inputs: dict[str, Any]) -> None:
    (tmp_path / "worker").mkdir()
    spec = spec_of(tmp_path / "worker", **inputs)
    made = train_whole(spec, Alone(), CPU, TorchEngine)
    assert _ended(tmp_path, inputs) == digest_model(tmp_path / "worker/model")
    assert timeless(tmp_path / "step") == timeless(tmp_path / "worker")
    assert made["steps"] == 12


def test_a_stop_is_heeded_after_the_update_and_the_next_call_goes_on(tmp_path: Path, inputs: dict[str, Any]) -> None:
    (tmp_path / "whole").mkdir()
    whole = _ended(tmp_path / "whole", inputs)
    (tmp_path / "step").mkdir()
    spec, said = spec_of(tmp_path / "step", **inputs), list[str]()
    asked = iter([None, None, None, "asked to stop by SIGTERM"])
    with raises("stopped.at-checkpoint"):
        train_here(spec, stop=lambda: next(asked), say=said.append)
    assert [path.name for path in (tmp_path / "step/checkpoints").glob("step-*")] == ["step-000004"]
    result = train_here(spec, say=said.append)
    assert result.resumed_from == 4
    assert digest_model(tmp_path / "step/model") == whole
    assert timeless(tmp_path / "step") == timeless(tmp_path / "whole/step")
    assert any("went on after step 4" in line for line in said) and all(line.startswith("align") for line in said)


def test_an_automatic_budget_is_halved_and_the_step_goes_on(
    tmp_path: Path, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory runs out in the first update: found passes were too large for it, as others took what was free."""
    lines: list[str] = []
    spec = spec_of(tmp_path, **inputs | {"token_budget": None}, max_steps=2)

    class Narrow(TorchEngine):
        def step(self, learning_rate: float, norm: float | None) -> Any:
            if (known := known_budget(spec)) is not None and known > 2048:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().step(learning_rate, norm)

    monkeypatch.setattr(here, "TorchEngine", Narrow)
    result = train_here(spec, say=lines.append)
    assert result.steps == 2 and result.token_budget == 2048
    codes = [event.code for event in result.events]
    assert codes == ["group-began", "budget-found", "worker-failed", "budget-halved", "group-began"]
    assert any("once more with half as many tokens in a pass: 2,048" in line for line in lines)


def test_want_of_memory_is_the_plans_affair_and_other_faults_are_the_debuggers(
    tmp_path: Path, inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(tmp_path, **inputs, checkpoint=Checkpoint(every=1))
    faults = [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("shapes do not match")]

    class Broken(TorchEngine):
        def finish_gradient(self) -> Any:
            raise faults[0]

    monkeypatch.setattr(here, "TorchEngine", Broken)
    with raises("training.out-of-memory") as found:
        train_here(spec)
    assert found.value.__cause__ is faults[0] and "token_budget" in found.value.fix
    del faults[0]
    with pytest.raises(RuntimeError, match="shapes do not match"):
        train_here(spec)
    failed = [event.what for event in events_of(tmp_path) if event.code == "worker-failed"]
    assert any("shapes do not match" in what for what in failed)
