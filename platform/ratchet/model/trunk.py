"""A long prompt's keys and values, kept for the passes of its answers, and the gradients that these bring back.

A prompt whose answers do not fit one pass is computed once, by passes of its own, without a graph. Its answers'
passes see the kept rows as those of an ancestor, and each adds its gradients of them. A last pass over the prompt
computes its graph, puts these gradients in, and so ends its chain rule: schedule-level reuse (arXiv 2606.01143).
The prompt is computed twice instead of keeping its graph: no two graphs then live at a time, which memory and
ZeRO-3's count of gradients both rest on.

Legend: _BHTD batch (1 here), heads, rows, head size.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ratchet.errors import ModelError


class Trunk:
    """Keys and values of a prompt's rows, by attention module, and the sums of their gradients.

    Sums are float32, or float64 for a float64 model: as many passes add to them as the answers need.
    """

    def __init__(self) -> None:
        self._kept: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        self._sums: dict[nn.Module, tuple[Tensor, Tensor]] = {}
        self.draws: dict[int, list[Tensor]] = {}

    def rows(self, module: nn.Module, stop: int) -> tuple[Tensor, Tensor]:
        """Return the kept keys and values of rows 0 to `stop` of a layer, (1, H, stop, D) each."""
        key, value = self._kept[module]
        return key[:, :, :stop], value[:, :, :stop]

    def begin(self, before: int) -> None:
        """Make ready for a pass that keeps rows after the first `before`: what was kept of them before is forgotten.

        The same rows are kept several times where a worker waits for others, or a step is computed twice.
        """
        first = {module: self.rows(module, before) for module in self._kept}
        self._kept = first if before else {}
        self._sums.clear()

    def put(self, module: nn.Module, before: int, key: Tensor, value: Tensor) -> None:
        """Keep a layer's rows that follow the `before` rows kept so far.

        Raises ModelError where it has others: the module ran before in this pass, or did not run in an earlier one.
        """
        known = self._kept[module][0].shape[2] if module in self._kept else 0
        if known != before:
            raise ModelError(
                f"an attention module has {known} kept rows in a pass that follows {before}: "
                "it runs several times in a pass, or not in each",
                fix="compute the prompt in each pass of its answers",
            )
        # Copies: a layer may make queries, keys and values in one tensor, which a view would keep whole.
        own = key.detach().clone(), value.detach().clone()
        if before:
            own = torch.cat([self._kept[module][0], own[0]], 2), torch.cat([self._kept[module][1], own[1]], 2)
        self._kept[module] = own

    def add(self, module: nn.Module, d_key: Tensor, d_value: Tensor) -> None:
        """Add gradients of a layer's first rows."""
        if module not in self._sums:
            wide = torch.promote_types(d_key.dtype, torch.float32)
            key, value = (torch.zeros_like(rows, dtype=wide) for rows in self._kept[module])
            self._sums[module] = key, value
        for total, part in zip(self._sums[module], (d_key, d_value), strict=True):
            total[:, :, : part.shape[2]] += part

    def gradient(self, module: nn.Module, start: int, stop: int) -> tuple[Tensor, Tensor] | None:
        """Return the sums of some rows' gradients; None where no pass brought any."""
        sums = self._sums.get(module)
        return None if sums is None else (sums[0][:, :, start:stop], sums[1][:, :, start:stop])

    def clear(self) -> None:
        """Forget everything."""
        for held in (self._kept, self._sums, self.draws):
            held.clear()


@dataclasses.dataclass(frozen=True)
class Sight:
    """What a pass has to do with a trunk: it sees the first `before` kept rows; with `own` its rows are the next."""

    trunk: Trunk
    before: int
    own: bool

    def joined(self, module: nn.Module, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return a layer's keys and values with the kept rows before them.

        Rows of the trunk itself are kept where gradients are off; where they are on, they take the gradients that
        other passes brought.
        """
        if self.own and not torch.is_grad_enabled():
            self.trunk.put(module, self.before, key, value)
            return self.trunk.rows(module, self.before + key.shape[2])
        joined: tuple[Tensor, Tensor] = _Joined.apply(key, value, self, module)  # type: ignore[no-untyped-call]
        return joined

    def returned(self) -> None:
        """Forget the trunk once its first rows have had their gradients: these are the last."""
        if not self.before:
            self.trunk.clear()

    def begin(self) -> None:
        """Begin a forward pass: each module may keep its rows once in it."""
        if self.own and not torch.is_grad_enabled():
            self.trunk.begin(self.before)

    @contextlib.contextmanager
    def drawing(self, device: torch.device) -> Iterator[None]:
        """Draw random numbers (dropout) over the trunk's rows with gradients as without them."""
        draws = self.trunk.draws
        if not torch.is_grad_enabled():
            draws[self.before] = _random_states(device)
        if self.before not in draws or not torch.is_grad_enabled():
            yield
            return
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            _set_random_states(device, draws[self.before])
            yield


class _Joined(torch.autograd.Function):
    """Kept rows before a pass's own. Their gradients go to the trunk's sums, and the own rows' come from there."""

    @staticmethod
    def forward(ctx: Any, key: Tensor, value: Tensor, sight: Sight, module: nn.Module) -> tuple[Tensor, Tensor]:
        ctx.sight, ctx.module = sight, module
        if not sight.before:
            return key.view_as(key), value.view_as(value)
        kept_key, kept_value = sight.trunk.rows(module, sight.before)
        return torch.cat([kept_key, key], 2), torch.cat([kept_value, value], 2)

    @staticmethod
    def backward(ctx: Any, d_key: Tensor, d_value: Tensor) -> tuple[Tensor | None, ...]:
        sight, before, module = ctx.sight, ctx.sight.before, ctx.module
        if before:
            sight.trunk.add(module, d_key[:, :, :before], d_value[:, :, :before])
        own = [d_key[:, :, before:], d_value[:, :, before:]]
        if sight.own:
            found = sight.trunk.gradient(module, before, d_key.shape[2])
            if found is not None:
                own = [(part + more).to(part.dtype) for part, more in zip(own, found, strict=True)]
        return own[0], own[1], None, None


def _random_states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _set_random_states(device: torch.device, states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
