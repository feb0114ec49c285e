"""Whether a model comes back from a folder as it was: tensors to the bit, adapters as what they are merged to."""

from __future__ import annotations

import math
import operator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ratchet.errors import ModelError
from ratchet.model import noise
from ratchet.model.carried import as_saved, carried_tensors
from ratchet.model.export import save_model
from ratchet.model.folder import stored_tensors
from ratchet.model.forward import PairScorer, score
from ratchet.model.load import load_model
from ratchet.pairs.pair import TokenisedPair
from ratchet.train.gathered import add_adapters
from ratchet.train.spec import TrainSpec

_SLACK = 1e-5
"""Nats a token that two orders of sums may differ by in float32."""


def compare_saved(spec: TrainSpec) -> None:
    """Save the start model as it was loaded. Raises ModelError naming a tensor that does not come back."""
    source, out = Path(spec.model), Path(spec.folder) / "saved"
    model = load_model(source, spec.dtype, trust_remote_code=spec.trust_remote_code)
    save_model(model, source, out, "")
    compare_published(spec, out)


def compare_published(spec: TrainSpec, out: Path) -> int:
    """Return how many tensors a published folder has. Raises ModelError naming one that is not as the start's."""
    source = Path(spec.model)
    before, after = (
        load_model(folder, spec.dtype, trust_remote_code=spec.trust_remote_code) for folder in (source, out)
    )
    carried, left_out = carried_tensors(before, source)
    own = {name: tensor for name, tensor in before.state_dict().items() if name not in left_out}
    written = stored_tensors(out)
    if absent := sorted({*as_saved(before, own), *carried} - {*written}):
        raise _unlike(f"publishing lost {len(absent)} tensors: {', '.join(absent[:5])}")
    _compare(before, after, "is published otherwise than it was loaded")
    return len(written)


@torch.no_grad()
def compare_changed(spec: TrainSpec) -> None:
    """Raise ModelError naming a tensor that a saved folder does not give back once training has changed it.

    Some classes set weights as they load, such as a padding token's row to 0: what was 0 before shows nothing of it.
    """
    source, out = Path(spec.model), Path(spec.folder) / "changed"
    model = load_model(source, spec.dtype, trust_remote_code=spec.trust_remote_code)
    draw = torch.Generator().manual_seed(2)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.add_((torch.randn(weight.shape, generator=draw) * 0.02).to(weight.dtype))
    save_model(model, source, out, "")
    after = load_model(out, spec.dtype, trust_remote_code=spec.trust_remote_code)
    _compare(model, after, "is another once it was changed, saved and loaded")


def _compare(before: Any, after: Any, how: str) -> None:
    found = after.state_dict()
    for name, tensor in before.state_dict().items():
        if not _same(tensor, found[name]):
            off = (tensor.double() - found[name].double()).abs().max()
            raise _unlike(f"{name} {how}, by {float(off):.3g}")


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one.nan_to_num(), other.nan_to_num())


def _unlike(what: str) -> ModelError:
    return ModelError(
        what,
        fix="give a model folder that transformers itself can load and save, such as one in bfloat16 or float32",
        code="model.unpublishable",
    )


@torch.no_grad()
def compare_merged(spec: TrainSpec, pairs: list[TokenisedPair]) -> None:
    """Raise ModelError, naming the modules, where adapters score otherwise than once they are merged, in float32."""
    off, allowed = _merge_moves(spec, pairs, None)
    if off <= allowed:
        return
    names = _adapted_names(spec)
    wrong = [name for name in names if operator.gt(*_merge_moves(spec, pairs, name))]
    raise ModelError(
        f"adapters score {off:.3g} nats otherwise than once they are merged (rounding explains {allowed:.2g}): "
        f"{', '.join(wrong or names)}",
        where="lora.targets",
        fix="name the modules that get adapters, such as [q_proj, k_proj, v_proj, o_proj], and leave these out",
        code="model.adapter",
    )


def _merge_moves(spec: TrainSpec, pairs: list[TokenisedPair], only: str | None) -> tuple[float, float]:
    """Return by how many nats a merge moves a score, and what rounding explains; `only` adapters of that name do any.

    Where rounding may turn a choice of experts, it is the middle answer that counts.
    """
    from ratchet.model.lora import merge_lora

    model = _with_adapters(spec)
    draw = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_" in name and only in (None, _module_of(name)):
            weight.copy_(torch.randn(weight.shape, generator=draw) * 0.05)
    scorer = PairScorer(model).eval()
    apart = score(scorer, pairs, "cpu")
    rounding = noise.measure_noise(scorer, pairs, apart, "cpu")
    merged = score(PairScorer(merge_lora(model)).eval(), pairs, "cpu")
    offs: list[float] = []
    allowed: list[float] = []
    for side in ("chosen", "rejected"):
        ours_B, theirs_B, tokens_B = (
            getattr(apart, f"{side}_B"),
            getattr(merged, f"{side}_B"),
            getattr(apart, f"{side}_tokens_B"),
        )
        offs += (ours_B - theirs_B).abs().nan_to_num(math.inf).tolist()
        allowed += (rounding.allowed(torch.float32, tokens_B, ours_B) + _SLACK * tokens_B).tolist()
    times = [off / most for off, most in zip(offs, allowed, strict=True)]
    at = times.index(sorted(times)[len(times) // 2] if noise.routes(model.config) else max(times))
    return offs[at], allowed[at]


def _with_adapters(spec: TrainSpec) -> Any:
    assert spec.stage.lora is not None  # noqa: S101  the caller looked
    plain = load_model(Path(spec.model), "float32", trust_remote_code=spec.trust_remote_code)
    return add_adapters(plain, spec.stage.lora, spec.stage.seed)


def _adapted_names(spec: TrainSpec) -> list[str]:
    return sorted({_module_of(name) for name, _ in _with_adapters(spec).named_parameters() if "lora_" in name})


def _module_of(name: str) -> str:
    """Return the last part of the name of the module that an adapter's weight is of."""
    return name.partition(".lora_")[0].removesuffix(".base_layer").rpartition(".")[2]
