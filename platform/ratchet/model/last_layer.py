"""The last layer computes rows that are scored, and no others: nobody sees what it makes of the rest.

Its keys and values are those of all rows; its queries, and the rows of its feed-forward part, need not be. In a
batch of long prompts and short answers that is nearly a layer's work. What stands in the other rows of the last hidden
states is of no use, and reaches no loss and no gradient.

Legend: _T rows of a forest, _K scored rows.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ratchet.model.tree import Chain


def scored_chains(chains: Sequence[Chain], scored: Sequence[int]) -> tuple[Chain, ...]:
    """Return the chains with their `scored` rows (in rising order) as their own, and the rows before as ancestors.

    A chain without any is left out, and one that is as cheap as a whole stays whole.
    """
    found = []
    for chain in chains:
        some = scored[bisect.bisect_left(scored, chain.start) : bisect.bisect_left(scored, chain.stop)]
        if not some:
            continue
        start, stop = some[0], some[-1] + 1
        before = ((chain.start, start),) if start > chain.start else ()
        cut = Chain(start, stop, (*chain.ancestors, *before))
        found.append(cut if cut.attended < chain.attended or not before else chain)
    return tuple(found)


def is_last(module: nn.Module) -> bool:
    """Whether an attention module of transformers is its model's last."""
    layers = getattr(getattr(module, "config", None), "num_hidden_layers", None)
    return layers is not None and getattr(module, "layer_idx", None) == layers - 1


def narrow(decoder: nn.Module) -> None:
    """Let the feed-forward part of a decoder's last layer see scored rows alone, where it is a module called ``mlp``.

    More than once does no harm, and without a forest nothing changes.
    """
    stacks = [child for child in decoder.children() if isinstance(child, nn.ModuleList) and len(child)]
    layer = stacks[-1][-1] if stacks else None
    mlp = getattr(layer, "mlp", None)
    if layer is None or not isinstance(mlp, nn.Module):
        return
    known = layer._forward_pre_hooks.values()
    if any(isinstance(getattr(hook, "__self__", None), _ScoredRows) for hook in known):
        return
    rows = _ScoredRows()
    # The plan comes with each call of the layer, also where its activations are computed again.
    layer.register_forward_pre_hook(rows.of_layer, with_kwargs=True)
    mlp.register_forward_pre_hook(rows.take)
    mlp.register_forward_hook(rows.put_back)


class _ScoredRows:
    """The rows that a layer's feed-forward part sees in the present call; None is all of them."""

    def __init__(self) -> None:
        self.rows_K: Tensor | None = None
        self.count = 0

    def of_layer(self, _layer: nn.Module, _args: Any, named: dict[str, Any]) -> None:
        """Take note of the scored rows of the layer's forest."""
        self.rows_K = getattr(named.get("tree"), "scored_K", None)

    def take(self, _mlp: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Return the arguments with those rows alone."""
        if self.rows_K is None or not args or args[0].dim() != 3:
            self.rows_K = None
            return None
        self.count = args[0].shape[1]
        return args[0].index_select(1, self.rows_K), *args[1:]

    def put_back(self, _mlp: nn.Module, _args: Any, out: Any) -> Any:
        """Return the output with all rows, zero where nobody looks; of a tuple (experts give their routing too) the
        first element's.
        """
        if self.rows_K is None:
            return None
        out_1KH, *others = out if isinstance(out, tuple) else (out,)
        out_1TH = out_1KH.new_zeros(out_1KH.shape[0], self.count, *out_1KH.shape[2:])
        out_1TH = out_1TH.index_copy(1, self.rows_K, out_1KH)
        return (out_1TH, *others) if isinstance(out, tuple) else out_1TH
