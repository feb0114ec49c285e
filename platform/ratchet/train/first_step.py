"""The first step proves the pipeline: where the policy starts as its reference, nothing may differ.

Every log-ratio h is then 0 and, for DPO and DPOP, the loss is ln 2. A wrong template, a truncated
side, active dropout, a stale or misaligned reference row, or two engines that disagree show here,
before the first update. What rounding may do is measured on the model itself, on the same pairs in
two layouts. Legend: _B pairs.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import statistics
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ratchet.errors import TrainingError
from ratchet.losses.preference import PairLogps, bound_loss, loss_of
from ratchet.model import noise
from ratchet.model.forward import by_side
from ratchet.model.load import DTYPES
from ratchet.model.noise import Noise
from ratchet.train.engine import TrainingEngine
from ratchet.train.objective import Work, pass_over_prompt
from ratchet.train.spec import TrainSpec

_LOG = logging.getLogger(__name__)
_PASSES, _PAIRS = 4, 4
"""Forward passes of the first batch, on each worker, and the pairs of each that are scored in two layouts: enough to
meet the few answers that rounding moves most, where it leaves most of them as they are."""
_MIDDLE = 2.0
"""How many times the measured rounding the middle one of many answers may be off: rounding alone keeps it below 1."""
_FEW = 4.0
"""The middle one of n answers may be off 1 + 4 / √n times as much: few answers say little, of rounding too."""
_TURNED = 0.1
"""Share of the answers of a model with experts that may be off further, by choices of experts that rounding turned."""


_NONE = Noise()


@dataclasses.dataclass(frozen=True)
class Side:
    """One answer of the first batch: its log-ratio and its reference's log-probability (nats), and its tokens."""

    pair_id: str
    h: float
    nats: float
    tokens: int


@dataclasses.dataclass(frozen=True)
class Figures:
    """One worker's part of the first global batch; `routes` says that the model has experts."""

    sides: tuple[Side, ...] = ()
    noise: Noise = _NONE
    routes: bool = False


@dataclasses.dataclass(frozen=True)
class FirstStep:
    """What the check saw: loss and what it should be (None where the kind has no fixed value).

    `middle` is the middle answer's |h| and `largest_h` the largest, `h_tolerance` the most that any may have;
    `noise` is in nats by the root of an answer's tokens, and `off` counts the answers beyond their tolerance.
    """

    loss: float
    expected: float | None
    loss_tolerance: float
    middle: float
    largest_h: float
    h_tolerance: float
    noise: float
    off: int
    answers: int
    pairs: int


def loss_bound(spec: TrainSpec, allowed_B: Tensor) -> Tensor:
    """Return how far each pair's loss may then be from that of log-ratios of 0, shape (B,).

    The loss itself says it, with both log-ratios as far off as they may be, either way. That is enough, as every loss
    is convex in them: between two such corners it is no further off than at the worse one.
    """
    zero_B, one_B = torch.zeros_like(allowed_B), torch.ones_like(allowed_B)
    loss = bound_loss(spec.stage.kind, spec.stage.model_dump())

    def loss_at(w: int, r: int) -> Tensor:
        return loss(PairLogps(w * allowed_B, r * allowed_B, zero_B, zero_B, one_B, one_B))

    return (torch.stack([loss_at(w, r) for w in (-1, 1) for r in (-1, 1)]) - loss_at(0, 0)).abs().amax(0)


@torch.no_grad()
def measured(engine: TrainingEngine, works: Sequence[Work]) -> Figures:
    """Return what rounding does to the first pairs of some of this worker's passes, without dropout.

    Every worker makes the same number of forward passes: where a pass has fewer pairs they come again.
    """
    engine.train(False)
    parts = []
    scored = [k for k, work in enumerate(works) if work.role == "score"]
    # Where prompts stay across passes, only the first that scores is so on every worker.
    scored = scored[:_PASSES] if len(scored) == len(works) else scored[:1]
    for work in works[: scored[-1] + 1]:
        here = work.to(engine.device)
        if work.role != "score":
            pass_over_prompt(engine, here, last=False)
            continue
        scores = by_side(here.batch, engine(here.batch))
        for k in range(_PASSES * _PAIRS // len(scored)):
            one = k % len(work.pairs)
            parts.append(noise.measure_noise(engine, work.pairs[one : one + 1], scores.at(one), engine.device))
    engine.train(True)
    return Figures(noise=noise.combine_noise(parts), routes=engine.routes)


def figures(ids: Sequence[str], logps: PairLogps) -> Figures:
    """Return the answers of one forward pass."""
    halves = (
        (logps.chosen_ratio_B, logps.reference_chosen_B, logps.chosen_tokens_B),
        (logps.rejected_ratio_B, logps.reference_rejected_B, logps.rejected_tokens_B),
    )
    return Figures(
        tuple(
            Side(*row)
            for half in halves
            for row in zip(ids, *(column.detach().tolist() for column in half), strict=True)
        )
    )


def combine(parts: Iterable[Figures]) -> Figures:
    """Return the figures of several parts together."""
    found = list(parts)
    sides = tuple(side for part in found for side in part.sides)
    return Figures(sides, noise.combine_noise(part.noise for part in found), any(part.routes for part in found))


def check(spec: TrainSpec, seen: Figures, loss: float, pairs: int) -> FirstStep:
    """Return what was seen, or raise TrainingError with the figures and the likely causes."""
    expected = loss_of(spec.stage.kind).start
    allowed = _allowed(spec, seen)
    # `not ≤` and never `>`: what is not a number is off too.
    off = [(side, most) for side, most in zip(seen.sides, allowed.tolist(), strict=True) if not abs(side.h) <= most]
    turned = seen.routes and len(off) <= max(1, _TURNED * len(seen.sides))
    first = FirstStep(
        loss=loss,
        expected=expected,
        loss_tolerance=_loss_tolerance(spec, seen, allowed, pairs),
        # The middle one: a few stale rows do not move it, and a stale reference moves it like all others.
        middle=statistics.median([abs(side.h) for side in seen.sides] or [0.0]),
        largest_h=max((abs(side.h) for side in seen.sides), default=0.0),
        h_tolerance=float(allowed.max()) if len(allowed) else 0.0,
        noise=seen.noise.a_token(DTYPES[spec.dtype]),
        off=len(off),
        answers=len(seen.sides),
        pairs=pairs,
    )
    wrong_loss = expected is not None and not abs(loss - expected) <= first.loss_tolerance
    many = not _middle(spec, seen) <= _MIDDLE * (1 + _FEW / math.sqrt(max(1, len(seen.sides))))
    if not (wrong_loss or many or (off and not turned)):
        return first
    lines = [f"the policy starts as its reference, but the first batch of {pairs} pairs says otherwise"]
    if expected is not None:
        name = "ln 2 = " if expected == math.log(2) else ""
        lines.append(f"loss {loss:.6f}, expected {name}{expected:.6f} ± {first.loss_tolerance:.2g}")
    lines.append(
        f"{len(off)} of {len(seen.sides)} answers are off by more than rounding does here, "
        f"the middle one by {_middle(spec, seen):.2g} times what it does"
    )
    if seen.routes:
        lines.append(
            f"the model routes tokens to experts, and rounding may turn a choice: {_TURNED:.0%} of the answers may "
            "be off by that"
        )
    lines += [
        f"pair {side.pair_id}: log-ratio off by {side.h:.4g} nats, allowed {most:.2g}"
        for side, most in sorted(off, key=lambda row: -abs(row[0].h))[:3]
    ]
    raise TrainingError(
        "; ".join(lines), where=f"step {spec.step}", fix=_causes(seen, len(off), many=many), code="training.first-step"
    )


def warn_of_turned(name: str, first: FirstStep) -> None:
    """Say so where answers of a model with experts are off, and few enough for rounding to have turned its choices."""
    if first.off:
        _LOG.warning(
            "%s: %d of %d answers of the first batch are off their reference's scores by up to %.2g nats, "
            "where rounding explains %.2g: it turned choices of experts. Train in float32 where that is too much",
            name,
            first.off,
            first.answers,
            first.largest_h,
            first.h_tolerance,
        )


def _columns(seen: Figures) -> tuple[Tensor, Tensor, Tensor]:
    """The answers' |h|, tokens and log-probabilities, float64."""
    rows = [(abs(side.h), float(side.tokens), side.nats) for side in seen.sides]
    h, tokens, nats = torch.tensor(rows, dtype=torch.float64).reshape(-1, 3).unbind(1)
    return h, tokens, nats


def _allowed(spec: TrainSpec, seen: Figures) -> Tensor:
    _, tokens, nats = _columns(seen)
    return seen.noise.allowed(DTYPES[spec.dtype], tokens, nats) + spec.reference_noise


def _middle(spec: TrainSpec, seen: Figures) -> float:
    """How many times what rounding does the middle answer is off: a stale reference moves all of them a little."""
    h, tokens, nats = _columns(seen)
    usual = seen.noise.without_jumps() if seen.routes else seen.noise  # a turned choice would hide what moves them all
    one = usual.allowed(DTYPES[spec.dtype], tokens, nats) / noise.SPREAD + spec.reference_noise
    times: list[float] = (h / one).tolist()
    return statistics.median(times or [0.0])


def _loss_tolerance(spec: TrainSpec, seen: Figures, allowed: Tensor, pairs: int) -> float:
    """How far the loss may be off: as far as each answer may, and off a known start never more than the stage says."""
    bound = float(loss_bound(spec, allowed).sum()) / max(1, pairs)
    if loss_of(spec.stage.kind).start is None:
        return bound
    asked = float(spec.stage.first_loss)  # type: ignore[attr-defined]
    return asked if seen.routes else min(asked, bound)


def _causes(seen: Figures, off: int, *, many: bool) -> str:
    if not (off or many):
        return (
            "rounding alone moves this loss so far, and training would begin with that: "
            "use float32, or a loss that magnifies log-ratios less (penalty, beta), "
            "or allow it by the stage's first_loss"
        )
    if seen.routes and not many:
        return (
            "rounding turned too many choices of experts, or these pairs' reference rows are stale: "
            "score the reference again, or use float32"
        )
    if not many and off < 0.2 * len(seen.sides):
        return "a few pairs are off: their reference rows are stale or belong to other pairs; score the reference again"
    return (
        "most pairs are off: the reference was scored with other weights, tokens or precision, "
        "or dropout is active; score the reference again with this model"
    )
