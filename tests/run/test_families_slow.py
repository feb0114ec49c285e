"""Whole runs from folders as the hub has them: Gemma 3, Qwen 3.5 with its tower, gpt-oss in MXFP4, Qwen3-MoE."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from family_folders import SPARE, write_family
from ratchet.model.load import load_model
from stored_weights import in_mxfp4
from whole_run import ratchet

pytestmark = pytest.mark.slow
PLAN = """\
name: tiny
model: {path: start, dtype: bfloat16}
data: {sums: {path: pairs.jsonl, held_out: 0.2}}
stages:
  align: {kind: dpo, data: [sums], batch: 8, weight_decay: 0.1, learning_rate: 1e-2, warmup: 0.0%s}
%scluster: {token_budget: 512, storage: out}
"""
BLEND = "  blend: {kind: merge, of: [base, align], weights: [0.5, 0.5]}\n"
RUNS = {
    "gemma3": ("gemma3", "", set[str]()),
    "gemma3-lora": ("gemma3", ", lora: {rank: 2}", set[str]()),
    "qwen3_5": ("qwen3_5", "", set(SPARE)),
    "qwen3_5-lora": ("qwen3_5", ", lora: {rank: 2}", set(SPARE)),
    "gpt_oss": ("gpt_oss", "", set[str]()),
    "gpt_oss-lora": ("gpt_oss", ", lora: {rank: 2, targets: [experts.gate_up_proj, experts.down_proj]}", set[str]()),
    "qwen3_moe-lora": ("qwen3_moe", ", lora: {rank: 2}", set[str]()),
    "phimoe": ("phimoe", ", router_loss: model", set[str]()),
    "phimoe-lora": ("phimoe", ", lora: {rank: 2}", set[str]()),
}
"""A family, what the stage says, and what of its folder is kept beside its tower."""


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("run", RUNS)
def test_a_whole_run_trains_texts_and_publishes_all(tmp_path: Path, run: str) -> None:
    family, adapters, spare = RUNS[run]
    write_family(tmp_path / "start", family, torch.bfloat16)
    meant = in_mxfp4(tmp_path / "start") if family == "gpt_oss" else weights_of(tmp_path / "start")
    rows = [{"prompt": f"What is {i} + 3?", "chosen": f"It is {i + 3}.", "rejected": f"{i}"} for i in range(40)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    (tmp_path / "plan.yaml").write_text(PLAN % (adapters, "" if family == "gpt_oss" else BLEND))
    done = ratchet(tmp_path, "run", "plan.yaml", "--here")
    assert done.returncode == 0, done.stderr
    published = tmp_path / "out/runs/tiny/steps/align/model"
    found = weights_of(published)
    assert found.keys() == meant.keys()
    kept = {name for name in meant if "vision" in name or "visual" in name or "projector" in name} | spare
    assert all(torch.equal(found[name], meant[name]) and found[name].dtype == meant[name].dtype for name in kept)
    changed = {name for name in meant if not torch.equal(found[name], meant[name].to(found[name].dtype))}
    assert changed and not changed & kept
    assert ("experts" in " ".join(changed)) == (family in {"gpt_oss", "qwen3_moe"} or run == "phimoe")
    report = json.loads((tmp_path / "out/runs/tiny/report.json").read_text())
    fates = {part["name"]: part["fate"] for part in report["base"]["parts"]}
    assert fates["text"] == "trained" and set(fates.values()) == {"trained", *(["kept"] if kept else [])}
    assert report["base"]["storage"] == ("MXFP4" if family == "gpt_oss" else None)
    step = next(one for one in report["steps"] if one["name"] == "align")
    assert (step["reach"] is not None) == ("lora" in adapters)
    if family != "gpt_oss":  # a start model in MXFP4 is averaged with none
        blended = load_model(tmp_path / "out/runs/tiny/steps/blend/model", "bfloat16")
        assert type(blended) is type(load_model(published, "bfloat16"))
