"""What adapters are on: experts by name, nothing that a fused kernel reads past, and the share of it all said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BambaConfig,
    FalconConfig,
    FalconH1Config,
    GptOssConfig,
    JetMoeConfig,
    Llama4TextConfig,
    LongcatFlashConfig,
    Mamba2Config,
    NemotronHConfig,
    PhimoeConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from family_configs import write_tiny
from raised import raises
from ratchet.documents.events import events_of
from ratchet.documents.passport import reach_in_words
from ratchet.model.load import load_model
from ratchet.model.lora import add_lora, bypassed_modules, merge_lora, reach_of, try_merge
from ratchet.plan.training import Lora
from ratchet.train.communicate import Alone
from ratchet.train.engine import TorchEngine
from tiny_models import ENDS, GROUPED, SMALL, tiny
from train_bench import CPU, spec_of, train_whole, write_inputs

MOE = {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8}
HYBRIDS: dict[str, Any] = {
    "mamba2": Mamba2Config(
        vocab_size=61, hidden_size=16, num_hidden_layers=2, state_size=8, num_heads=4, head_dim=8, n_groups=1, **ENDS
    ),
    "falcon-h1": FalconH1Config(**GROUPED, head_dim=8, mamba_d_ssm=32, mamba_n_groups=1, **MAMBA),
    "nemotron-h": NemotronHConfig(
        **GROUPED | {"num_hidden_layers": 3},
        head_dim=8,
        layers_block_type=["mamba", "moe", "attention"],
        mamba_num_heads=4,
        mamba_head_dim=8,
        ssm_state_size=8,
        n_groups=1,
        n_routed_experts=2,
        num_experts_per_tok=1,
        moe_intermediate_size=16,
        moe_shared_expert_intermediate_size=16,
    ),
    "bamba": BambaConfig(**GROUPED, attn_layer_indices=[1], **MAMBA),
}
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 4}
ROUTED: dict[str, tuple[Any, tuple[str, ...]]] = {
    "phimoe": (PhimoeConfig(**GROUPED, num_local_experts=4, num_experts_per_tok=2, sliding_window=None), ("router",)),
    "llama4": (
        Llama4TextConfig(
            **GROUPED,
            head_dim=8,
            num_local_experts=2,
            intermediate_size_mlp=24,
            attention_chunk_size=64,
            moe_layers=[1],
        ),
        ("router",),
    ),
    "longcat": (
        LongcatFlashConfig(
            **SMALL,
            **ENDS,
            **LATENT,
            head_dim=4,
            num_layers=1,
            ffn_hidden_size=24,
            expert_ffn_hidden_size=16,
            n_routed_experts=4,
            zero_expert_num=1,
            moe_topk=2,
        ),
        ("classifier",),
    ),
    "falcon": (FalconConfig(**SMALL, **ENDS), ()),
}
"""Families with linear modules of their own, and those on which no adapter fits."""
GPT_OSS = GptOssConfig(**GROUPED, head_dim=8, num_local_experts=2, num_experts_per_tok=1, sliding_window=64)


def folder_of(tmp_path: Path, config: Any) -> Path:
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "start")
    return tmp_path / "start"


def shaken(model: Any) -> Any:
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.2)
    return model


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.arange(3, 13)[None], use_cache=False).logits
    return found


@pytest.mark.heavy
@pytest.mark.parametrize("family", HYBRIDS)
def test_hybrids_take_default_adapters_and_merge(tmp_path: Path, family: str) -> None:
    """Where kernels for GPUs read the weight of out_proj by themselves, an adapter there would do nothing."""
    folder = folder_of(tmp_path, HYBRIDS[family])
    model = shaken(add_lora(load_model(folder, "float32"), Lora(rank=2)))
    found = reach_of(model)
    assert found.bypassed == ("out_proj",) and "out_proj" not in found.modules and found.modules["in_proj"]
    adapted = logits(model)
    assert (adapted - logits(load_model(folder, "float32"))).abs().max() > 1e-3
    torch.testing.assert_close(logits(merge_lora(model)), adapted, rtol=0, atol=2e-5)


@pytest.mark.heavy
@pytest.mark.parametrize("family", sorted(ROUTED))
def test_default_adapters_leave_out_what_gives_no_product_and_merge(tmp_path: Path, family: str) -> None:
    """Routers that are linear by their class give a choice, and one that is read past its call would learn nothing."""
    config, out = ROUTED[family]
    folder = folder_of(tmp_path, config)
    model = add_lora(load_model(folder, "float32"), Lora(rank=2))
    assert reach_of(model).bypassed == out and not {*out} & {*reach_of(model).modules}
    adapted = logits(shaken(model))
    model(input_ids=torch.arange(3, 13)[None], use_cache=False).logits.sum().backward()
    idle = [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
    assert not idle
    torch.testing.assert_close(logits(merge_lora(model)), adapted, rtol=0, atol=2e-5)


@pytest.mark.heavy
@pytest.mark.parametrize("family", ["zamba", "zamba2"])
def test_a_weight_that_several_layers_share_gets_no_adapter(tmp_path: Path, family: str) -> None:
    """Each layer would have one of its own, and the merged weight is one."""
    write_tiny(family, tmp_path)
    model = shaken(add_lora(load_model(tmp_path, "float32"), Lora(rank=2)))
    assert {"q_proj", "down_proj"} <= {*reach_of(model).bypassed} and reach_of(model).modules["in_proj"]
    adapted = logits(model)
    assert (adapted - logits(load_model(tmp_path, "float32"))).abs().max() > 1e-3
    torch.testing.assert_close(logits(merge_lora(model)), adapted, rtol=0, atol=2e-4)


def test_experts_of_any_name_are_known_and_their_biases_are_none(tmp_path: Path) -> None:
    jet = JetMoeConfig(
        vocab_size=61, hidden_size=16, num_hidden_layers=1, kv_channels=4, intermediate_size=24, num_local_experts=2
    )
    model = load_model(folder_of(tmp_path, jet), "float32")
    stacks = sum(weight.numel() for weight in model.parameters() if weight.ndim == 3)
    assert reach_of(add_lora(model, Lora(rank=2))).experts == stacks
    named = Lora(rank=2, targets=("experts.gate_up_proj", "experts.down_proj"))
    assert reach_of(add_lora(load_model(folder_of(tmp_path / "oss", GPT_OSS), "float32"), named)).experts == 0


@pytest.mark.parametrize("family", ["bloom", "gpt2", "llama", "mixtral"])
def test_layers_that_are_called_are_not_taken_for_bypassed(family: str) -> None:
    assert bypassed_modules(tiny(family, torch.float32)) == []


@pytest.mark.heavy
@pytest.mark.parametrize("config", [Qwen2MoeConfig(**MOE, shared_expert_intermediate_size=16), GPT_OSS])
def test_experts_that_default_targets_leave_out_are_said_and_can_be_named(tmp_path: Path, config: Any) -> None:
    folder = folder_of(tmp_path, config)
    whole = load_model(folder, "float32")
    experts = sum(weight.numel() for name, weight in whole.named_parameters() if weight.ndim == 3)
    of = sum(weight.numel() for weight in whole.parameters())
    found = reach_of(add_lora(whole, Lora(rank=2)))
    assert (found.experts, found.of) == (experts, of) and "no expert" in reach_in_words(found)
    named = ("q_proj", "experts.gate_up_proj", "experts.down_proj")
    model = shaken(add_lora(load_model(folder, "float32"), Lora(rank=2, targets=named)))
    found, plain = reach_of(model), load_model(folder, "float32")
    wanted = sum(
        weight.numel() for name, weight in plain.named_parameters() if name.endswith((*named, "q_proj.weight"))
    )
    assert found.parameters == wanted and found.modules["experts"] == 4
    adapted = logits(model)
    assert (adapted - logits(plain)).abs().max() > 1e-3
    torch.testing.assert_close(logits(merge_lora(model)), adapted, rtol=0, atol=2e-5)


def test_a_target_that_the_model_has_not_is_an_error(tmp_path: Path) -> None:
    with raises("model.adapter"):
        add_lora(load_model(folder_of(tmp_path, GPT_OSS), "float32"), Lora(targets=("experts.up_proj",)))


@pytest.mark.heavy
def test_a_step_of_adapters_on_experts_is_published_with_what_it_reached(tmp_path: Path) -> None:
    config = Qwen3MoeConfig(**MOE | {"vocab_size": 64}, head_dim=8)
    inputs = {**write_inputs(tmp_path), "model": str(folder_of(tmp_path, config))}
    spec = spec_of(tmp_path / "run", starts_at_reference=False, epochs=1, lora=Lora(rank=2), **inputs)
    found = train_whole(spec, Alone(), CPU, TorchEngine)["published"]
    assert found["reach"]["experts"] == 0 and found["reach"]["modules"]["experts"] == 4
    share = 100 * found["reach"]["parameters"] / found["reach"]["of"]
    assert f"on {share:.3g} % of the parameters" in (tmp_path / "run/model/README.md").read_text()
    (said,) = [event.what for event in events_of(tmp_path / "run") if event.code == "adapters-reach"]
    assert said.startswith(f"adapters reach {share:.3g} % of the parameters")
    start, end = (load_model(one, "float32") for one in (folder_of(tmp_path / "again", config), tmp_path / "run/model"))
    changed = [n for (n, a), b in zip(start.named_parameters(), end.parameters(), strict=True) if not torch.equal(a, b)]
    assert any("experts" in name for name in changed)
    try_merge(add_lora(end, Lora(rank=2)))
