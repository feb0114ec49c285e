"""Recurrent and convolution layers over a token forest: at a fork each branch goes on from a copy of the state.

Layers of transformers that read a row from left to right take what they carry from a cache: the last inputs of their
convolution, and a recurrent state. Over a forest such a layer's own forward runs for each group of segments
(`segments.py`), with a cache that holds the states where their parents end. Nothing is written in place, so gradients
go through the states of a fork to all that led there.

Legend: _1TH the forest's row, _SLH segments by rows of the longest; states have a first dimension of segments.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ratchet.errors import ModelError
from ratchet.model.segments import SegmentGroup
from ratchet.model.tree_plan import TreePlan
from ratchet.store.machine import out_of_memory

_ALLOWED = 1e-4
"""How much a layer may be off on a CPU, relative to its largest value; 1e-6 was seen."""
_SMALL = 1 << 20
"""Numbers of a weight whose gradient is compared too."""
_verdicts: dict[tuple[object, ...], str | None] = {}
"""What this process found of kinds of layers, by all that decides it: a trial of a wide one takes seconds."""
_CACHES = ("cache_params", "past_key_values")
"""How transformers' layers call the cache that carries their state."""


def carriers(model: nn.Module) -> list[nn.Module]:
    """Return the modules of a model that carry a state from row to row, and take it from a cache of transformers."""
    return [module for module in model.modules() if _cache_of(module) is not None]


def looks_back(model: nn.Module) -> list[nn.Module]:
    """Return the modules of a model that see rows above theirs by a convolution, and carry no state known here."""
    return [module for module in model.modules() if _convolves(module) and _cache_of(module) is None]


def _convolves(module: nn.Module) -> bool:
    return any(isinstance(child, nn.Conv1d) for child in module.children())


def _cache_of(module: nn.Module) -> str | None:
    if not _convolves(module):
        return None
    taken = inspect.signature(type(module).forward).parameters
    return next((name for name in _CACHES if name in taken), None)


def carry_states(decoder: nn.Module) -> None:
    """Let the layers of a decoder that carry a state do so along the paths of a forest.

    More than once does no harm, and without a forest nothing changes.
    """
    for stack in decoder.children():
        for layer in stack if isinstance(stack, nn.ModuleList) else ():
            for module in layer.modules():
                name = _cache_of(module)
                if name is None or isinstance(module.forward, _Branching):
                    continue
                branching = _Branching(module, name)
                module.forward = branching
                # The plan comes with each call of the layer, also where its activations are computed again.
                layer.register_forward_pre_hook(branching.of_layer, with_kwargs=True)


def states_disproof(causal: Any, plan: TreePlan, device: torch.device) -> str | None:
    """Return how a model's kinds of layers that carry a state differ over a forest from its paths one by one, or None.

    Each kind is tried in float32 with weights of its own, forward and backward: the scores of a whole model in half
    precision would hide a state that gets lost. A process tries a kind once.
    """
    config, kinds = causal.config.get_text_config(), dict[type[nn.Module], nn.Module]()
    for module in carriers(causal):
        kinds.setdefault(type(module), module)
    for module in kinds.values():
        key = _decides(module, config, plan, device)
        if key not in _verdicts:
            _verdicts[key] = _disproof_of(module, config, plan, device)
        if (found := _verdicts[key]) is not None:
            return found
    return None


def _decides(module: Any, config: Any, plan: TreePlan, device: torch.device) -> tuple[object, ...]:
    """Return all that a trial depends on: the settings, wherever the model comes from, and what is not drawn."""
    said = repr({**config.to_dict(), "_name_or_path": ""})
    held = tuple((name, *buffer.flatten().tolist()) for name, buffer in module.named_buffers(recurse=False))
    return type(module), getattr(module, "layer_idx", None), said, held, plan.whole, str(device)


def _disproof_of(module: nn.Module, config: Any, plan: TreePlan, device: torch.device) -> str | None:
    try:
        with torch.inference_mode(mode=False), torch.enable_grad():
            off = _off(module, config, plan.to(device), device)
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError, KeyError, ModelError) as error:
        if out_of_memory(f"{type(error).__name__}: {error}"):
            raise
        return f"{type(module).__name__} does not run over a forest ({str(error).strip().splitlines()[0]})"
    if not off <= (_ALLOWED if device.type == "cpu" else 50 * _ALLOWED):
        return f"{type(module).__name__}, which carries a state, is off by {off:.3g} over a forest"
    return None


def _off(kind: Any, config: Any, plan: TreePlan, device: torch.device) -> float:
    """Return the largest difference of outputs or gradients, relative to the largest of its tensor's values."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        module = type(kind)(config, kind.layer_idx).float().eval()
        for name, buffer in kind.named_buffers(recurse=False):  # factors that its model makes for it
            module.register_buffer(name, buffer.detach().clone().cpu().float(), persistent=False)
        for weight in module.parameters():
            with torch.no_grad():
                weight.uniform_(-1, 1).mul_(weight[0].numel() ** -0.5 if weight.dim() > 1 else 0.3)
            weight.requires_grad_(weight.numel() <= _SMALL)  # what reaches a projection, its inputs' gradients show
        hidden_TH = torch.randn(len(plan.end_T), config.hidden_size).to(device).requires_grad_()
    module = module.to(device)
    branching = _Branching(module, _cache_of(module) or "")
    branching.tree = plan
    found_TH = branching(hidden_TH[None])[0]
    sees_TT, rows = plan.dense, torch.arange(len(plan.end_T), device=device)
    wanted: dict[int, Tensor] = {}
    for last in reversed(rows.tolist()):
        if last not in wanted:
            path = rows[sees_TT[last]]
            wanted |= zip(path.tolist(), branching.inner(hidden_TH[path][None])[0], strict=True)
    wanted_TH = torch.stack([wanted[row] for row in rows.tolist()])
    inputs = (hidden_TH, *(weight for weight in module.parameters() if weight.requires_grad))
    grads = (torch.autograd.grad(out.square().sum(), inputs, materialize_grads=True) for out in (found_TH, wanted_TH))
    return largest_share([(found_TH, wanted_TH), *zip(*grads, strict=True)])


def largest_share(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return the largest difference of the first of two tensors from the second, by the second's largest value.

    NaN where either holds one, and infinite where only the second is zero throughout.
    """
    most_P2 = torch.tensor(
        [[float(each.detach().abs().max()) for each in (one - other, other)] for one, other in pairs]
    )
    off_P = most_P2[:, 0]
    # Python's own max drops a NaN that is not the first.
    return float(torch.where(off_P == 0, off_P, off_P / most_P2[:, 1]).max())


class _Branching:
    """The forward of a module that carries a state, over the forest of its layer's present call."""

    def __init__(self, module: nn.Module, cache: str) -> None:
        self.inner, self.cache = module.forward, cache
        self.tree: TreePlan | None = None

    def of_layer(self, _layer: nn.Module, _args: Any, named: dict[str, Any]) -> None:
        """Take note of the layer's forest."""
        self.tree = named.get("tree")
        if named.get("sight") is not None or (self.tree is not None and self.tree.kept):
            raise ModelError("its layers' states are those of one pass", fix="compute the prompt in each pass")

    def __call__(self, *args: Any, **named: Any) -> Any:
        if self.tree is None:
            return self.inner(*args, **named)
        hidden_1TH = args[0] if args else named["hidden_states"]
        rows_X, sizes, groups, back_T = self.tree.by_segments
        made, states = [], list[_States]()
        parts = hidden_1TH[0].index_select(0, rows_X).split(sizes)
        for part, group in zip(parts, groups, strict=True):
            count, length = group.rows_SL.shape
            states.append(_States.of_parents(states, group))
            out = self.inner(part.unflatten(0, (count, length)), **{self.cache: states[-1]})
            made.append(out.flatten(0, 1))
        return torch.cat(made).index_select(0, back_T)[None]


class _States:
    """What the segments of a group carry, as a cache of transformers: what they begin with, and what they end with.

    A state is known by its number in its layer. Of a convolution it is the last inputs; a path that is shorter has
    zeros before its first, as a convolution pads.
    """

    record_past = True  # so that no layer writes into a state in place

    def __init__(self, inputs: dict[int, Tensor], recurrent: dict[int, Tensor], *, begun: bool, inner: bool) -> None:
        self.conv_states, self.recurrent_states = inputs, recurrent
        self.begun, self.inner = begun, inner

    @classmethod
    def of_parents(cls, states: Sequence[_States], group: SegmentGroup) -> _States:
        """Return copies of what the parents of a group's segments end with."""
        if group.parents is None:
            return cls({}, {}, begun=False, inner=group.inner)
        first = states[group.parents[0][0]]

        def copied(kind: str) -> dict[int, Tensor]:
            return {
                number: torch.cat([getattr(states[one], kind)[number][place : place + 1] for one, place in parents])
                for number in getattr(first, kind)
            }

        parents = group.parents
        return cls(copied("conv_states"), copied("recurrent_states"), begun=True, inner=group.inner)

    @property
    def layers(self) -> _Everywhere:
        """The cache of a layer by its number: this one, whatever the number."""
        return _Everywhere(self)

    def has_previous_state(self, layer_idx: int | None = None, state_idx: int | None = None) -> bool:
        return self.begun

    def update_conv_state(
        self, inputs_SCL: Tensor, layer_idx: int, state_idx: int = 0, conv_kernel_size: int | None = None, **_: Any
    ) -> Tensor:
        """Return a convolution's inputs with those before them, and keep the last."""
        if conv_kernel_size is None:
            raise ModelError("a layer does not say how many inputs its convolution sees", fix="run it unshared")
        if self.begun:
            inputs_SCL = torch.cat([self.conv_states[state_idx].to(inputs_SCL.dtype), inputs_SCL], -1)
        if self.inner:
            wide = nn.functional.pad(inputs_SCL, (max(0, conv_kernel_size - 1 - inputs_SCL.shape[-1]), 0))
            self.conv_states[state_idx] = wide[..., wide.shape[-1] - (conv_kernel_size - 1) :]
        return inputs_SCL

    def update_recurrent_state(self, state: Tensor, layer_idx: int, state_idx: int = 0, **_: Any) -> Tensor:
        """Keep the state that a segment ends with."""
        if self.inner:
            self.recurrent_states[state_idx] = state
        return state


class _Everywhere:
    def __init__(self, states: _States) -> None:
        self.states = states

    def __getitem__(self, _number: int) -> _States:
        return self.states

    def __iter__(self) -> Iterator[_States]:
        yield self.states
