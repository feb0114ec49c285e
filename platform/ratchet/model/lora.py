"""The door to peft: low-rank adapters in place of full training (Hu et al. 2021)."""

from __future__ import annotations

import inspect
import json
import re
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from ratchet.documents.passport import Reach
from ratchet.errors import ModelError
from ratchet.model.load import skeleton
from ratchet.model.parts import held_modules, unread_modules
from ratchet.plan.training import Lora

_STACKED = 3
"""Dimensions of a parameter that holds the matrices of several experts."""


def add_lora(model: Any, lora: Lora, seed: int = 0) -> Any:
    """Return `model` with adapters on it; only these train. B starts at 0, so the outputs are unchanged.

    The adapters' start is drawn from `seed`, and no random state outside is read or changed.
    Raises ModelError where no module has one of the target names.
    """
    modules, parameters = _targets(model, lora)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=modules,
        target_parameters=parameters or None,
        exclude_modules=_left_out(model),
        bias="none",
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # It says so of experts too, whose pattern belongs to a parameter, and does match.
        warnings.filterwarnings("ignore", message="The following (rank|alpha)_pattern keys did not match")
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")  # of GPT-2; it mends that itself
        torch.manual_seed(seed)
        try:
            return peft.get_peft_model(model, config)
        except ValueError as error:
            raise ModelError(
                f"no adapter fits: {error}",
                where="lora.targets",
                fix="name modules of the model, or use all-linear",
                code="model.adapter",
            ) from error


def _targets(model: Any, lora: Lora) -> tuple[str | list[str], list[str]]:
    """Return the modules that get an adapter, and the parameters of several matrices (experts) that are named."""
    if isinstance(lora.targets, str):
        return lora.targets, []
    stacked = [name for name, weight in model.named_parameters() if weight.ndim == _STACKED]
    parameters = [one for one in lora.targets if any(f".{name}".endswith(f".{one}") for name in stacked)]
    return [one for one in lora.targets if one not in parameters], parameters


def _left_out(model: Any) -> str | None:
    """Return a pattern of the modules that get no adapter: nothing would change them, or they are bypassed."""
    apart = "|".join(re.escape(name) for name in unread_modules(model))
    patterns = [rf"(?:{apart})(?:\..*)?"] if apart else []
    patterns += [re.escape(name) for name in (*held_modules(model), *bypassed_modules(model))]
    return "|".join(patterns) or None


def bypassed_modules(model: Any) -> list[str]:
    """Return the linear modules that no adapter fits.

    The weight of some is read by the module around them, past a call that an adapter would see. Fused kernels of
    Mamba's layers and some routers do so. It is looked for in the source of that module's class. A weight of which only
    a part or an attribute is read does not count. Others give something else than a product, such as a router's choice.
    And the weight of some stands in several layers, as in Zamba's shared blocks. Each layer would have an adapter of
    its own, and these cannot be merged into one weight.
    """
    found = []
    linear = {id(part): part for part in model.modules() if isinstance(part, torch.nn.Linear)}
    times = Counter(id(part.weight) for part in linear.values())
    read = {kind: _weights_read(kind) for kind in {type(module) for module in model.modules()}}
    for name, module in model.named_modules():
        for child, part in module.named_children():
            if not isinstance(part, torch.nn.Linear):
                continue
            if child in read[type(module)] or times[id(part.weight)] > 1 or not _multiplies(part):
                found.append(f"{name}.{child}")
    return found


def _multiplies(part: torch.nn.Linear) -> bool:
    """Whether a call of a linear module gives one product for each row, also where a model's own code defines it."""
    own = type(part).__module__.startswith(("transformers.models.", "transformers_modules."))
    if not own or type(part).forward is torch.nn.Linear.forward:
        return True
    try:
        with torch.no_grad():
            out = part(part.weight.new_zeros(2, part.in_features))
    except (RuntimeError, ValueError, IndexError, TypeError):  # it wants rows of another shape
        return False
    return isinstance(out, Tensor) and out.shape == (2, part.out_features)


def _weights_read(kind: type) -> frozenset[str]:
    try:
        source = inspect.getsource(kind)
    except (OSError, TypeError):  # made while the program runs
        return frozenset()
    return frozenset(re.findall(r"self\.(\w+)\.weight\b(?!\[)(?!\.(?!type\(|to\(|float\())", source))


def default_reach(folder: Path) -> Reach:
    """Return what adapters with a stage's default targets reach of a folder's model; no weights are loaded.

    Raises ModelError.
    """
    return reach_of(add_lora(skeleton(folder, "bfloat16"), Lora()))


def reach_of(model: Any) -> Reach:
    """Return what the adapters of a model are on."""
    causal = model.get_base_model()
    adapted = {id(adapted_weight(layer)) for _, layer in _named_adapted(model)}
    apart = tuple(f"{name}." for name in unread_modules(causal))
    weights = {n: w for n, w in causal.named_parameters() if "lora_" not in n and not n.startswith(apart)}
    missed = [n for n in _stacks_of_experts(causal) if n in weights and id(weights[n]) not in adapted]
    names = [re.sub(r"\.base_layer$", "", name).rpartition(".")[2] for name, _ in _named_adapted(model)]
    return Reach(
        parameters=sum(weight.numel() for weight in weights.values() if id(weight) in adapted),
        of=sum(weight.numel() for weight in weights.values()),
        modules=dict(sorted(Counter(names).items())),
        bypassed=tuple(sorted({name.rpartition(".")[2] for name in bypassed_modules(causal)})),
        experts=sum(weights[name].numel() for name in missed),
    )


def _stacks_of_experts(causal: Any) -> list[str]:
    """Return the parameters that hold a matrix of each expert of a layer."""
    return [
        f"{name}.{one}"
        for name, module in causal.named_modules()
        for one, weight in module.named_parameters(recurse=False)
        if weight.ndim == _STACKED and (name.endswith(".experts") or "Experts" in type(module).__name__)
    ]


def merge_lora(
    model: Any, read: Callable[[str], Tensor | None] = lambda name: None, kept: dict[str, Tensor] | None = None
) -> Any:
    """Return the plain model with its adapters added to the weights, each sum made in float32.

    `read` gives the float32 master of a weight by its name in the plain model, where there is one: the sum is over
    that. Sums go into `kept` before they are rounded, if it is given. Raises ModelError for quantised weights: put the
    adapters on the unquantised model and merge there.
    """
    for name, layer in _named_adapted(model):
        weight, plain = adapted_weight(layer), _plain_name(name, layer)
        if not weight.is_floating_point():
            raise ModelError("quantised weights cannot take an adapter", fix="merge into the unquantised model")
        dtype, master = weight.dtype, read(plain)
        start = weight.data if master is None else master.to(weight.device)
        weight.data = start.to(torch.promote_types(dtype, torch.float32))
        layer.merge()
        if kept is not None:
            kept[plain] = weight.data
        weight.data = weight.data.to(dtype)
    return model.unload()


def _plain_name(name: str, layer: Any) -> str:
    """Return the name that an adapted weight has in the plain model."""
    module = name.removeprefix("base_model.model.").replace(".base_layer", "")
    return f"{module}.{getattr(layer, 'parameter_name', 'weight')}"


def try_merge(model: Any) -> None:
    """Merge one adapter of each kind of module, and take it out again: what cannot be merged fails before training.
    Raises ModelError.
    """
    kinds = {
        (type(layer), type(layer.get_base_layer()), getattr(layer, "parameter_name", None)): (name, layer)
        for name, layer in _named_adapted(model)
    }
    for name, layer in kinds.values():
        kind = type(layer.get_base_layer()).__name__
        try:
            weight = adapted_weight(layer)
            before = weight.data
            weight.data = before.to(torch.promote_types(before.dtype, torch.float32), copy=True)
            layer.merge()
            layer.merged_adapters.clear()
            # Adapters start at 0, so a merge leaves the weights as they are, to the bit.
            unchanged = torch.equal(weight.data.to(before.dtype), before)
            weight.data = before
        except (AttributeError, TypeError, ValueError, RuntimeError, NotImplementedError) as error:
            raise _unmerged(name, kind, str(error).strip().splitlines()[0]) from error
        if not unchanged:
            raise _unmerged(name, kind, "an adapter that is 0 changes its weight")


def adapted_weight(layer: Any) -> torch.nn.Parameter:
    """Return the weight that an adapter is added to: its module's own, or the one parameter that it adapts."""
    weight = getattr(layer.get_base_layer(), getattr(layer, "parameter_name", "weight"))
    assert isinstance(weight, torch.nn.Parameter)  # noqa: S101  peft adapts nothing else
    return weight


def _named_adapted(model: Any) -> list[tuple[str, Any]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]


def _unmerged(name: str, kind: str, why: str) -> ModelError:
    return ModelError(
        f"an adapter of {name} ({kind}) cannot be merged into the model: {why}",
        where="lora.targets",
        fix="name the modules that get adapters, such as [q_proj, k_proj, v_proj, o_proj], and leave this one out",
        code="model.adapter",
    )


def save_adapter(model: Any, folder: Path) -> None:
    """Write the adapters alone, in peft's layout, the same bytes for the same adapters."""
    model.save_pretrained(str(folder))
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    for key, value in model.peft_config["default"].to_dict().items():
        if isinstance(value, set):  # peft writes it in the order of its hashes, which each process draws
            settings[key] = sorted(value)
    path.write_text(json.dumps(settings, indent=2, sort_keys=True), encoding="utf-8")
