"""Model folders rewritten as the hub stores large models: FP8 in blocks, and MXFP4."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def in_fp8(folder: Path) -> dict[str, torch.Tensor]:
    """Rewrite a folder as FP8 in blocks of 8 by 8; return the weights it stands for, in float64 arithmetic."""
    weights, stored = load_file(folder / "model.safetensors"), {}
    meant = dict(weights)
    for name, weight in weights.items():
        stored[name] = weight
        if weight.ndim == 2 and "proj" in name:
            rows, columns = (size // 8 for size in weight.shape)
            blocks = weight.double().reshape(rows, 8, columns, 8)
            scale = blocks.abs().amax((1, 3), keepdim=True) / 448
            held = (blocks / scale).float().to(torch.float8_e4m3fn)
            stored[name] = held.reshape(weight.shape)
            stored[name.replace(".weight", ".weight_scale_inv")] = scale.reshape(rows, columns).float()
            meant[name] = (held.double() * scale.float().double()).reshape(weight.shape)
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    edit(
        folder / "config.json",
        quantization_config={"quant_method": "fp8", "weight_block_size": [8, 8], "activation_scheme": "dynamic"},
    )
    return meant


def in_mxfp4(folder: Path) -> dict[str, torch.Tensor]:
    """Rewrite experts as blocks of 32 four-bit numbers with a power of 2 each; return the weights they stand for."""
    weights, random = load_file(folder / "model.safetensors"), np.random.default_rng(0)
    table = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
    stored, meant = dict(weights), dict(weights)
    for name, weight in weights.items():
        if name.endswith(("gate_up_proj", "down_proj")):
            experts, inner, outer = weight.shape
            blocks = random.integers(0, 256, (experts, outer, inner // 32, 16), dtype=np.uint8)
            scales = random.integers(120, 125, (experts, outer, inner // 32), dtype=np.uint8)
            nibbles = np.stack([blocks & 15, blocks >> 4], -1).reshape(experts, outer, inner // 32, 32)
            values = table[nibbles] * 2.0 ** (scales.astype(int) - 127)[..., None]
            meant[name] = torch.from_numpy(values.reshape(experts, outer, inner).transpose(0, 2, 1).copy())
            del stored[name]
            stored |= {f"{name}_blocks": torch.from_numpy(blocks), f"{name}_scales": torch.from_numpy(scales)}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    edit(folder / "config.json", quantization_config={"quant_method": "mxfp4"})
    return meant
