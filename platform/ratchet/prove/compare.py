"""The trainer's numbers beside the plain ones, each with the difference that its precision allows.

No tolerance is guessed. The plain trainer runs twice on the same pairs: in float64, and in the plan's precision with
float32 for the optimiser's weights, the reference scored through another attention kernel than the policy. How far
the second strays from the first is what the precision does on this model and these pairs, and the trainer may stray
about as far:

    learning rate   to the last digits of float64
    loss            twice the difference of the plain runs, and four standard errors of a loss whose log-probabilities
                    are rounded as those of the plain runs so far, the reference's among them
    gradient norm   twice the length of the difference of their gradients
    weights         twice the distance between them and a thousandth of the way they went, where the gradient is large
                    enough to tell

AdamW's first updates follow the sign of a gradient, which rounding turns where the gradient is small. So a weight
counts while its gradient, in each update so far, is more than six times what rounding does to those of its tensor
and its row.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ratchet.prove.case import ProvedStep, Trace, Weights
from ratchet.prove.models import references, trainers
from ratchet.prove.oracle import Pair, PlainUpdate

_ROOM = 2.0
"""The trainer adds up in another order than the plain run in its precision, and may err as much once more."""
_ERRORS = 4.0
"""Standard errors of a mean that are allowed."""
_STANDS_OUT = 6.0
"""A gradient that is larger than so many times its rounding keeps its sign."""
_FLOAT32 = 1e-5
"""Relative rounding of sums in float32, where both plain runs happen to agree."""
_MOVED = 1e-3
"""AdamW divides a gradient by its own size, so where that is near epsilon its relative rounding is the update's."""
_EXACT = 1e-12
_ADDITIONS = 1e-4
"""Rounding of float32 sums; sums in bfloat16 are off by a thousandth and more."""
_HEAD = ("step", "update", "number", "trainer", "plain float64", "difference", "allowed", "")
GROUPS: Mapping[str, Callable[[Tensor], bool]] = {
    "matrices": lambda weight: weight.ndim > 1,
    "norms and biases": lambda weight: weight.ndim < 2,
}


@dataclasses.dataclass(frozen=True)
class Number:
    """A number of the trainer beside the plain one; `update` 0 is before the first. `note` says more of it."""

    step: str
    update: int
    name: str
    trainer: float
    plain: float
    difference: float
    allowed: float
    note: str = ""

    @property
    def ok(self) -> bool:
        return self.difference <= self.allowed  # false for what is not finite


def compare_traces(
    case: ProvedStep, pairs: Mapping[str, Pair], ids: Sequence[Sequence[str]], traces: Sequence[Trace]
) -> list[list[Number]]:
    """Return the numbers of each trace of a case beside the plain ones, in the order in which they came about.

    `ids` name the pairs of each update; all traces must have trained on these.
    """
    exact_reference, rounded_reference = references(case, pairs.values())
    exact, rounded = trainers(case, traces[0].weights(0))
    start = {name: weight.clone() for name, weight in exact.weights.items()}
    found = [list(_begin(case, trace, start)) for trace in traces]
    telling: dict[str, Tensor] = {}
    rounding = [
        true - rough for a, b in exact_reference.items() for true, rough in zip(b, rounded_reference[a], strict=True)
    ]
    for k, update in enumerate(ids, 1):
        batch = [pairs[one] for one in update]
        true, rough = exact.update(batch, exact_reference), rounded.update(batch, rounded_reference)
        rounding += (true.logps_S - rough.logps_S).tolist()
        deviation = _root(one * one for one in rounding) / math.sqrt(len(rounding))
        sources = 1 if case.reference is None else 2  # the reference's numbers are rounded too
        spread = _ERRORS * deviation * math.sqrt(sources * _square(true.slopes_S))
        for name, gradient in true.gradient.items():
            tells = gradient.abs() > _STANDS_OUT * _noise(rough.gradient[name].double() - gradient)
            telling[name] = telling[name] & tells if name in telling else tells
        for held, trace in zip(found, traces, strict=True):
            held.extend(_scalars(case, k, trace, true, rough, spread))
            held.extend(_weights(case, k, trace.weights(k), true, rough, start, telling))
    for held, trace in zip(found, traces, strict=True):
        held.extend(_sums(case, trace))
    return found


def _sums(case: ProvedStep, trace: Trace) -> Iterator[Number]:
    """Compare how far the probe of `recording` made a gradient grow, where it is to be added up in float32."""
    if case.float32_sums:
        made, right = trace.additions.found, trace.additions.right
        off = abs(made - right)
        yield Number(case.name, len(trace.rows), "sum of gradients", made, right, off, _ADDITIONS * right)


def _begin(case: ProvedStep, trace: Trace, start: Mapping[str, Tensor]) -> Iterator[Number]:
    """Compare what is trained, and with which weights it begins: to the bit."""
    held = trace.weights(0)
    differ = sorted(held.names ^ start.keys())
    counts = len(held.names), len(start), len(differ)
    yield Number(case.name, 0, "trained tensors", *counts, 0.0, note=", ".join(differ[:3]))
    if differ:
        return
    for group, belongs in GROUPS.items():
        names = [name for name, weight in start.items() if belongs(weight)]
        if names:
            off = {name: _square(held[name].double() - start[name]) for name in names}
            sizes = (
                _root(_square(held[name].double()) for name in names),
                _root(_square(start[name]) for name in names),
            )
            yield Number(case.name, 0, group, *sizes, _root(off.values()), 0.0, note=_worst(off))


def _scalars(
    case: ProvedStep, k: int, trace: Trace, true: PlainUpdate, rough: PlainUpdate, spread: float
) -> Iterator[Number]:
    said = trace.metrics[k - 1]
    place = (k - 1) % -(-case.rows // case.batch)
    due, rows = min(case.batch, case.rows - place * case.batch), len(set(trace.rows[k - 1]))
    yield Number(case.name, k, "pairs", rows, due, abs(rows - due), 0.0)
    rate = said["learning_rate"]
    off = abs(rate - true.learning_rate)
    yield Number(case.name, k, "learning rate", rate, true.learning_rate, off, _EXACT * true.learning_rate)
    allowed = _ROOM * abs(rough.loss - true.loss) + spread + _FLOAT32 * abs(true.loss)
    yield Number(case.name, k, "loss", said["loss"], true.loss, abs(said["loss"] - true.loss), allowed)
    length = _root(_square(rough.gradient[name].double() - grad) for name, grad in true.gradient.items())
    norm = said.get("grad_norm", math.nan)
    allowed = _ROOM * length + _FLOAT32 * true.norm
    yield Number(case.name, k, "gradient norm", norm, true.norm, abs(norm - true.norm), allowed)


def _weights(
    case: ProvedStep,
    k: int,
    held: Weights,
    true: PlainUpdate,
    rough: PlainUpdate,
    start: Mapping[str, Tensor],
    telling: Mapping[str, Tensor],
) -> Iterator[Number]:
    """Compare how far the weights have moved from the start, and in which direction, beyond rounding."""
    if held.names != start.keys():
        return
    for group, belongs in GROUPS.items():
        names = [name for name, weight in start.items() if belongs(weight)]
        if not names:
            continue
        trainer, plain, off, rounding = 0.0, 0.0, {}, {}
        for name in names:
            tells, begun, right = telling[name], start[name], true.weights[name]
            theirs = held[name].double()
            trainer += _square((theirs - begun)[tells])
            plain += _square((right - begun)[tells])
            off[name] = _square((theirs - right)[tells])
            rounding[name] = _square((rough.weights[name].double() - right)[tells])
        count, share = sum(start[name].numel() for name in names), sum(int(telling[name].sum()) for name in names)
        allowed = _ROOM * _root(rounding.values()) + _MOVED * math.sqrt(plain)
        note = f"{share / count:.0%} tell"
        if not _root(off.values()) <= allowed:
            note += f", most off: {_worst({name: off[name] - _ROOM**2 * rounding[name] for name in names})}"
        yield Number(case.name, k, group, math.sqrt(trainer), math.sqrt(plain), _root(off.values()), allowed, note)


def _noise(rounding: Tensor) -> Tensor:
    """Return how far rounding takes a gradient, of the shape of the tensor or broadcast to it: root mean squares, the
    larger of the whole tensor's and of the row's.
    """
    # The row's too, for some rows have hardly any gradient.
    squares = rounding.square()
    return torch.maximum(squares.mean(), squares.mean(-1, keepdim=True)).sqrt()


def _square(values: Tensor) -> float:
    return float(torch.square(values).sum())


def _root(squares: Iterable[float]) -> float:
    return math.sqrt(sum(squares))


def _worst(off: Mapping[str, float]) -> str:
    name = max(off, key=lambda one: off[one])
    return name if off[name] > 0 else ""


def numbers_table(numbers: Sequence[Number]) -> list[str]:
    """Return aligned lines, one for each number, with what is odd about it at the end."""
    rows = [_HEAD, *(_row(number) for number in numbers)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    text = {0, 2, 7}
    return [
        "  ".join(
            cell.ljust(width) if column in text else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _row(number: Number) -> tuple[str, ...]:
    verdict = "ok" if number.ok else "OUTSIDE"
    return (
        number.step,
        str(number.update),
        number.name,
        f"{number.trainer:.8g}",
        f"{number.plain:.8g}",
        f"{number.difference:.2g}",
        f"{number.allowed:.2g}",
        f"{verdict}  {number.note}".rstrip(),
    )
