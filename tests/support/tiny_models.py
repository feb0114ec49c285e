"""Tiny models of many families, without files; and the plain way to an answer's log-probability."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import (
    BambaConfig,
    BloomConfig,
    CohereConfig,
    DiffLlamaConfig,
    FalconH1Config,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    GptOssConfig,
    GraniteConfig,
    GraniteMoeHybridConfig,
    GraniteSWAConfig,
    HrmTextConfig,
    Lfm2Config,
    LlamaConfig,
    Mamba2Config,
    MambaConfig,
    MiMoV2FlashConfig,
    MistralConfig,
    MixtralConfig,
    NemotronHConfig,
    OlmoHybridConfig,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    Qwen2Config,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3NextConfig,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from ratchet.model.scratch import make_scratch
from ratchet.pairs.pair import TokenisedPair
from ratchet.plan.model import Scratch

SMALL = {"vocab_size": 61, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
GROUPED = {**SMALL, **ENDS, "num_key_value_heads": 2}
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
CONFIGS: dict[str, Any] = {
    "llama": LlamaConfig(**SMALL, **ENDS),
    "llama-gqa-tied": LlamaConfig(**GROUPED, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**GROUPED),
    "qwen3": Qwen3Config(**GROUPED, head_dim=8),
    "mistral": MistralConfig(**GROUPED, sliding_window=64),
    "mistral-narrow": MistralConfig(**GROUPED, sliding_window=4),
    "mixtral": MixtralConfig(**GROUPED, num_local_experts=4, num_experts_per_tok=2, sliding_window=None),
    "gemma": GemmaConfig(**GROUPED, head_dim=8),
    "gemma2-capped": Gemma2Config(
        **GROUPED, head_dim=4, final_logit_softcapping=0.02, attn_logit_softcapping=0.5, sliding_window=64
    ),
    "gemma3": Gemma3TextConfig(**GROUPED, head_dim=8, sliding_window=64),
    "phi": PhiConfig(**SMALL, **ENDS),
    "phi3": Phi3Config(**GROUPED, max_position_embeddings=128, original_max_position_embeddings=128),
    "gpt-neox": GPTNeoXConfig(**SMALL, **ENDS),
    "gpt2": GPT2Config(vocab_size=61, n_embd=16, n_layer=2, n_head=4, n_positions=64, **ENDS),
    "opt": OPTConfig(
        vocab_size=61,
        hidden_size=16,
        word_embed_proj_dim=16,
        ffn_dim=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        **ENDS,
    ),
    "cohere": CohereConfig(**SMALL, **ENDS, logit_scale=0.25),
    "granite": GraniteConfig(**SMALL, **ENDS, logits_scaling=3.0),
    "diffllama": DiffLlamaConfig(**GROUPED),
    "gpt-oss": GptOssConfig(
        **GROUPED, head_dim=8, sliding_window=6, num_local_experts=4, num_experts_per_tok=2, rope_parameters=PLAIN_ROPE
    ),
    "granite-swa": GraniteSWAConfig(
        **GROUPED, sliding_window=6, layer_types=["full_attention", "sliding_attention"], layer_rope_theta=[1e4, 1e4]
    ),
    "mimo-v2": MiMoV2FlashConfig(
        **GROUPED,
        **{"head_dim": 8, "v_head_dim": 6, "sliding_window": 6, "n_routed_experts": 4, "num_experts_per_tok": 2},
        **{"layer_types": ["full_attention", "sliding_attention"], "mlp_layer_types": ["dense", "sparse"]},
        moe_intermediate_size=12,
    ),
    "hrm-text": HrmTextConfig(**SMALL | {"num_hidden_layers": 1}, **ENDS, H_cycles=2, L_cycles=2),
}
OFTEN_A_PASS = {"diffllama", "hrm-text"}
"""Families that call an attention module several times in a pass: no trunk can keep its rows."""
_DELTA = {
    **{"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8},
    **{"head_dim": 8, "layer_types": ["linear_attention", "full_attention"]},
}
_ROUTED = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
_SSM = {
    **{"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_expand": 2},
    "mamba_chunk_size": 8,
}
CARRYING: dict[str, Any] = {
    "qwen3.5": Qwen3_5TextConfig(**GROUPED | _DELTA),
    "qwen3-next": Qwen3NextConfig(**GROUPED | _DELTA | _ROUTED, shared_expert_intermediate_size=12),
    "olmo-hybrid": OlmoHybridConfig(**GROUPED | _DELTA | {"linear_num_value_heads": 2}),
    "lfm2": Lfm2Config(**GROUPED, layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False),
    "mamba2": Mamba2Config(**SMALL, **ENDS, num_heads=4, head_dim=8, state_size=8, n_groups=1, chunk_size=8),
    "nemotron-h": NemotronHConfig(
        **GROUPED | {"num_hidden_layers": 4, "layers_block_type": ["mamba", "attention", "moe", "mlp"]},
        **{"head_dim": 8, "mamba_num_heads": 4, "mamba_head_dim": 8, "ssm_state_size": 8, "n_groups": 1},
        **{"chunk_size": 8, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12},
        moe_shared_expert_intermediate_size=12,
    ),
    "falcon-h1": FalconH1Config(**GROUPED, **_SSM, mamba_d_ssm=32, head_dim=8),
    "granite4": GraniteMoeHybridConfig(
        **GROUPED, **_SSM, layer_types=["linear_attention", "full_attention"], num_local_experts=0,
        shared_intermediate_size=24,
    ),
    "bamba": BambaConfig(**GROUPED, **_SSM, attn_layer_indices=[1]),
}  # fmt: skip
"""Families with layers that carry a state from row to row, and take it from a cache of transformers."""
EAGER = {"gemma2-capped", "gpt-oss", "granite-swa", "mimo-v2"}
"""Families whose soft caps and sinks are in transformers' eager attention alone."""
UNSHARED: dict[str, Any] = {
    "bloom": BloomConfig(vocab_size=61, hidden_size=16, n_layer=2, n_head=4, **ENDS),
    "mamba": MambaConfig(vocab_size=61, hidden_size=16, state_size=4, num_hidden_layers=2, **ENDS),
}


def tiny(name: str, dtype: torch.dtype = torch.float64, **changes: Any) -> Any:
    """A model of the family; in float64 its norms too, which transformers computes in float32."""
    torch.manual_seed(3)
    config = copy.deepcopy((CONFIGS | CARRYING | UNSHARED)[name])  # transformers writes into what it is given
    for key in ("attention_dropout", "hidden_dropout", "embd_pdrop", "resid_pdrop", "attn_pdrop", "dropout"):
        if hasattr(config, key):
            setattr(config, key, 0.0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, **changes)
    for weight in model.parameters():  # norms and biases too, so that nothing is trained from 0 or 1
        nn.init.normal_(weight, std=0.3)
    return exact_norms(model) if dtype == torch.float64 else model


def exact_norms(model: Any) -> Any:
    """The model, with norms of its own precision."""
    for module in list(model.modules()):
        for child, part in module.named_children():
            if type(part).__name__.endswith("RMSNorm") or type(part).__name__ == "CohereLayerNorm":
                setattr(module, child, ExactNorm(part))
    return model


class ExactNorm(nn.Module):
    """The norm of another module by its definition, in the precision of what comes in."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.weight = getattr(norm, "weight", None)
        self.eps = float(getattr(norm, "variance_epsilon", getattr(norm, "eps", 1e-6)))
        self.shift = 1.0 if any(part in type(norm).__name__ for part in ("Gemma", "Qwen3_5", "Qwen3Next")) else 0.0
        self.centred = "LayerNorm" in type(norm).__name__

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.centred:
            x = x - x.mean(-1, keepdim=True)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        return x if self.weight is None else x * (self.weight + self.shift)


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int32)


def make_pairs(count: int, seed: int = 0, *, demonstrations: bool = False) -> list[TokenisedPair]:
    """Pairs of prompts of 1 to 11 tokens and answers of 1 to 14."""
    random = np.random.default_rng(seed)
    draw = lambda low, high: random.integers(3, 61, random.integers(low, high)).astype(np.int32)  # noqa: E731
    return [
        TokenisedPair(f"{i:032x}", draw(1, 12), draw(1, 15), draw(0, 1) if demonstrations else draw(1, 15))
        for i in range(count)
    ]


def family_of_pairs(seed: int = 0) -> list[TokenisedPair]:
    """What a forest can hold: strangers, near twins, one chosen with several rejected, one answer a prefix
    of the other, equal sides, and single tokens.
    """
    random = np.random.default_rng(seed)
    draw = lambda n: random.integers(3, 61, n).astype(np.int32)  # noqa: E731
    prompt, chosen = draw(10), draw(9)
    twin = chosen.copy()
    twin[4] = (twin[4] - 3 + 1) % 58 + 3
    sides = [
        (draw(7), draw(5), draw(6)),
        (prompt, chosen, twin),
        (prompt, chosen, draw(4)),
        (prompt, chosen, draw(1)),
        (prompt[:9], chosen[:3], chosen[:7]),
        (draw(12), draw(3), chosen),
        (prompt, chosen, chosen),
        (draw(1), draw(1), draw(1)),
    ]
    return [TokenisedPair(f"{i:032x}", *side) for i, side in enumerate(sides)]


def plain(model: Any, prompt: np.ndarray, answer: np.ndarray) -> torch.Tensor:
    """One sequence, full logits: the sum of the answer's log-probabilities."""
    tokens = torch.tensor(np.concatenate([prompt, answer]).astype(np.int64))[None]
    logps = model(input_ids=tokens, use_cache=False).logits[0].log_softmax(-1)
    at = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
    return torch.stack([logps[t, tokens[0, t + 1]] for t in at]).sum()


def write_stories(folder: Path) -> None:
    """Write a model of the published story model's shape: random weights, and a tokenizer of the repository's prose.

    As there, a text begins with the token that begins texts, and there is no chat template.
    """
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    prose = (Path(__file__).parents[2] / "eval/sets/lighthouse.txt").read_text().split("\n\n")
    spec = Scratch(
        tokenizer_from=("prose",), vocab_size=512, hidden_size=64, layers=5, heads=8, key_value_heads=4,
        intermediate_size=172, max_positions=512,
    )  # fmt: skip
    make_scratch(spec, prose, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    begin = tokenizer.bos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A $B", special_tokens=[(begin, tokenizer.bos_token_id)]
    )
    tokenizer.chat_template = None
    tokenizer.save_pretrained(str(folder))
    (folder / "chat_template.jinja").unlink(missing_ok=True)
