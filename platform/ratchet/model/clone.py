"""A small model of a folder's kind: its classes, every kind of its layers, few of them, and random weights."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ratchet.errors import ModelError
from ratchet.model.carried import in_saved_form
from ratchet.model.companions import copy_companions
from ratchet.model.load import load_model, skeleton
from ratchet.model.noise import EXPERTS

MOST = 1_500_000_000
"""Parameters of the largest clone that is made: with more of them a rehearsal is not quick."""
_FEWEST_LAYERS, _VOCABULARY, _EXPERTS, _WIDTH = 2, 1024, 8, 256
_DRAWN = 1_000_003
"""Random numbers that are drawn; no matrix has rows of so many, so that hardly two of them are alike."""
_TOP = ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "top_k_experts", "moe_topk", "moe_k")
_GROUPS = ("n_group", "n_groups", "num_expert_groups")
_WIDTHS = re.compile(r"intermediate_size|^ffn_dim$|^n_inner$|ffn_hidden_size$")
_DEPTHS = ("num_hidden_layers", "depth", "encoder_layers")
_OF_LAYER = ("layer_type", "attention_type", "is_sliding", "is_kv_shared_layer")
"""Attributes of a module that say which kind of layer it is, where its class does not."""

Fields = dict[str, Any]
Change = Callable[[Fields, Fields], None]
"""A change of a model's settings; it gets all of them, and those of its text model, which may be a part of these."""
_BROKEN = (
    ImportError,
    AttributeError,
    TypeError,
    ValueError,
    RuntimeError,
    KeyError,
    IndexError,
    AssertionError,
    ArithmeticError,
)
"""What classes raise whose settings do not go together."""


@dataclasses.dataclass(frozen=True)
class Clone:
    """What a clone has: `layers` of the `of` that its model has, and its parameters."""

    layers: int
    of: int
    parameters: int


@torch.random.fork_rng(devices=[])
def write_clone(source: Path, out: Path, dtype: str, *, trust_remote_code: bool = False) -> Clone | None:
    """Write a small model of the kind of `source` into `out`, as a whole folder; None where none can be made.

    It has the first layers, as many as it takes to have each kind at least once. Vocabulary, experts and the width
    between projections are smaller too, where the model's class takes that. No weight of `source` is read, and no
    random state outside is read or changed.
    """
    out.mkdir(parents=True, exist_ok=True)
    copy_companions(source, out, with_config=False)
    try:
        whole = skeleton(source, dtype, trust_remote_code)
        layers, depth, kinds = layers_needed(whole), _depth(whole.config), kinds_of(whole)
    except (ModelError, *_BROKEN):  # the model itself is refused when it is loaded, and by name
        return None
    for changes in ((_fewer_ids, _narrower, _shallower_towers), (_narrower,), ()):
        try:
            fields = _settings(whole.config, layers, changes)
            (out / "config.json").write_text(json.dumps(fields), encoding="utf-8")
            made = skeleton(out, dtype, trust_remote_code)
            if kinds_of(made) != kinds or _count(made) > MOST:
                continue
            _write_weights(made, out)
            _pass_through(load_model(out, dtype, trust_remote_code=trust_remote_code))
            return Clone(layers, depth, _count(made))
        except (ModelError, *_BROKEN):  # a width that follows from another one, a count that must divide another
            continue
    return None


def kinds_of(model: nn.Module) -> frozenset[tuple[object, ...]]:
    """Return the kinds of a model's modules: names without numbers, classes, and weights with their dimensions."""
    return frozenset((re.sub(r"\.\d+(?=\.|$)", ".#", name), *_signature(part)) for name, part in model.named_modules())


def layers_needed(model: Any) -> int:
    """Return how many of a model's first layers have a layer of each kind among them; at least two, if it has two."""
    text, needed = model.config.get_text_config(), _FEWEST_LAYERS
    depth = _depth(model.config)
    rows: list[list[object]] = [
        [frozenset((name, *_signature(part)) for name, part in layer.named_modules()) for layer in stack]
        for stack in model.modules()
        if isinstance(stack, nn.ModuleList) and len(stack) == depth
    ]
    rows += [list(value) for value in vars(text).values() if isinstance(value, list | tuple) and len(value) == depth]
    for row in rows:
        kinds = [str(one) if isinstance(one, list | dict) else one for one in row]
        numbers = all(isinstance(kind, int) for kind in kinds)
        if not numbers or len(set(kinds)) <= max(2, depth // 4):  # else they are numbers of layers, or the like
            needed = max(needed, *(kinds.index(kind) + 1 for kind in set(kinds)))
    return min(needed, depth)


def _signature(module: nn.Module) -> tuple[object, ...]:
    own = tuple(sorted((name, weight.ndim) for name, weight in module.named_parameters(recurse=False)))
    kept = tuple(name for name in sorted(module.state_dict(keep_vars=True)) if "." not in name)
    said = tuple(str(getattr(module, key, None)) for key in _OF_LAYER)
    return type(module).__name__, own, kept, said


def _depth(config: Any) -> int:
    return int(config.get_text_config().num_hidden_layers)


def _count(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def _settings(config: Any, layers: int, changes: tuple[Change, ...]) -> Fields:
    """Return the settings of a model of `layers` layers, with further changes."""
    fields: Fields = json.loads(config.to_json_string(use_diff=False))
    fields.pop("quantization_config", None)
    text, here = config.get_text_config(), fields
    for key in _way(config, text) or ():
        here = here[key]
    depth = _depth(config)
    for key, value in here.items():
        a_layer = isinstance(value, list) or (isinstance(value, str) and key.endswith("pattern"))
        if a_layer and len(value) == depth:
            here[key] = value[:layers]
        elif isinstance(value, dict) and value and all(one.isdecimal() for one in value):
            here[key] = {one: inner for one, inner in value.items() if int(one) < layers}
        elif isinstance(value, list) and value and re.search(r"layers|_idxs$|_indices$", key):
            here[key] = [one for one in value if not isinstance(one, int) or one < layers]
    if (named := text.attribute_map.get("num_hidden_layers", "num_hidden_layers")) in here:
        here[named] = layers
    elif isinstance(blocks := here.get("num_layers"), int):  # of several layers each
        here["num_layers"] = -(-layers * blocks // depth)
    for change in changes:
        change(fields, here)
    return fields


def _way(config: Any, text: Any) -> tuple[str, ...] | None:
    """Return the keys that lead from a model's settings to those of its text model."""
    if config is text:
        return ()
    for key in config.sub_configs:
        part = getattr(config, key, None)
        if part is not None and (rest := _way(part, text)) is not None:
            return (key, *rest)
    return None


def _fewer_ids(fields: Fields, text: Fields) -> None:
    """Take fewer token ids, and let those that settings name be among them."""
    most = max((value for key, value in text.items() if key == "vocab_size" and isinstance(value, int)), default=0)
    if most <= _VOCABULARY:
        return
    for part in _parts(fields):
        for key, value in part.items():
            if key.startswith("vocab_size") and isinstance(value, int):
                part[key] = min(value, _VOCABULARY)
            elif key.endswith(("_token_id", "_token_index")):
                part[key] = [min(one, _VOCABULARY - 1) for one in value] if isinstance(value, list) else (
                    min(value, _VOCABULARY - 1) if isinstance(value, int) else value
                )  # fmt: skip


def _narrower(fields: Fields, text: Fields) -> None:
    """Take fewer experts, as many as a token may ask and their groups need, and narrower layers between projections."""
    asked = max([_EXPERTS, *(value for key in _TOP if isinstance(value := text.get(key), int))])
    groups = max([1, *(value for key in _GROUPS if isinstance(value := text.get(key), int))])
    for key, value in text.items():
        if key in EXPERTS and isinstance(value, int):
            text[key] = min(value, -(-max(asked, 2 * groups) // groups) * groups)
        elif _WIDTHS.search(key) and value:
            text[key] = [min(one, _WIDTH) for one in value] if isinstance(value, list) else min(value, _WIDTH)


def _shallower_towers(fields: Fields, text: Fields) -> None:
    """Take two layers of parts that see or hear."""
    for part in _parts(fields):
        if part is not text and part is not fields:
            depth = part.get("num_hidden_layers")
            cut = {key: value[:_FEWEST_LAYERS] for key, value in part.items() if isinstance(value, list)}
            part |= {key: value for key, value in cut.items() if key == "layer_types" and len(part[key]) == depth}
            part |= {key: min(value, _FEWEST_LAYERS) for key in _DEPTHS if isinstance(value := part.get(key), int)}


def _parts(fields: Any) -> list[Fields]:
    inner = [part for value in fields.values() if isinstance(value, Mapping) for part in _parts(value)]
    return [fields, *inner]


def _write_weights(hollow: Any, out: Path) -> None:
    """Write random weights of a model that has none; none of them is 0 or 1, as its class may fill in what is lost."""
    draw = torch.randn(_DRAWN, generator=torch.Generator().manual_seed(0)) * 0.02
    named = hollow.state_dict(keep_vars=True)
    drawn = {id(tensor): _filled(tensor, draw) for tensor in named.values()}
    # Not by the class's own way to save: that is what a rehearsal tries.
    made = in_saved_form(hollow, {name: drawn[id(tensor)] for name, tensor in named.items()})
    whole = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in made.items()}
    save_file(whole, out / "model.safetensors", metadata={"format": "pt"})


def _filled(hollow: Tensor, draw: Tensor) -> Tensor:
    """Return random numbers of a tensor's shape: those of `draw`, over and over, since drawing takes long."""
    made = torch.zeros(hollow.shape, dtype=hollow.dtype)
    if made.is_floating_point():
        for piece in torch.split(made.view(-1), _DRAWN):
            # Vectors scale: around 0 they would leave nothing of what they are multiplied with.
            piece.copy_(draw[: len(piece)] + (0.5 if hollow.ndim < 2 else 0.0))
    return made


@torch.no_grad()
def _pass_through(model: Any) -> None:
    model(input_ids=torch.arange(5, 12)[None] % model.config.get_text_config().vocab_size, use_cache=False)
