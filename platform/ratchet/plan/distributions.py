"""The values that a key of a plan takes in a sweep: one row for each kind of distribution, which knows all about it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from ratchet.plan.base import Name, Strict, one_of, wrong

Values = Annotated[tuple[Any, ...], Field(strict=False, min_length=1)]
Range = Annotated[tuple[float, float], Field(strict=False)]
Whole = Annotated[tuple[int, int], Field(strict=False)]
DistributionName = Literal["grid", "choice", "uniform", "loguniform", "randint", "permutation"]

MOST_TRIED = 50
"""Whole numbers of a range that are all tried; of more the two ends are."""
MOST_SHOWN = 24
"""Orders that a sweep's page lists: those of four names."""


class Distribution(Strict):
    """The values that a key of the plan takes: exactly one of these."""

    grid: Values | None = None
    """Each of these values in turn."""
    choice: Values | None = None
    """One of these values, drawn."""
    uniform: Range | None = None
    """A number from the first to the second."""
    loguniform: Range | None = None
    """A number above 0 from the first to the second, every order of magnitude alike."""
    randint: Whole | None = None
    """A whole number from the first to the second, both included."""
    permutation: Annotated[tuple[Name, ...], Field(strict=False, min_length=2)] | None = None
    """Every order of these names; for the `data` of a stepwise stage, whose shares stay with their sources."""

    @model_validator(mode="after")
    def _one_that_fits(self) -> Distribution:
        one_of(self, *DISTRIBUTIONS)
        if what := self.row.fault(self.given):
            raise wrong(self.kind, what)
        return self

    @property
    def kind(self) -> DistributionName:
        """Which of the kinds this is."""
        names: tuple[DistributionName, ...] = get_args(DistributionName)
        return next(key for key in names if getattr(self, key) is not None)

    @property
    def given(self) -> Sequence[Any]:
        """What the space gives for it: its values, its names, or the two ends of its range."""
        found: Sequence[Any] = getattr(self, self.kind)
        return found

    @property
    def row(self) -> DistributionKind:
        """What is known of its kind."""
        return DISTRIBUTIONS[self.kind]


@dataclasses.dataclass(frozen=True)
class NumberRange:
    """How a kind lies between two ends: in `whole` numbers, and by logarithm (`log`); `wandb` is its name there.

    A key that takes none of the types `needs` takes no such number, and `draws` says so.
    """

    whole: bool
    log: bool
    wandb: str
    needs: tuple[type, ...]
    draws: str


@dataclasses.dataclass(frozen=True)
class DistributionKind:
    """All that is known of a kind; each function takes what a space gives for it.

    `fault` says what is wrong with that, `size` how many values there are (None: without end). `value` is the value of
    a number from 0, or, where values have no end, of a fraction in [0, 1). `tried` are the values at which a plan is
    tried, `shown` those that sweep.json lists. `range` is of numbers between two ends, None where values are
    counted out; `orders` says that a value is an order of a stage's sources.
    """

    fault: Callable[[Any], str | None]
    size: Callable[[Any], int | None]
    value: Callable[[Any, Any], Any]
    tried: Callable[[Any], Sequence[Any]]
    shown: Callable[[Any], Sequence[Any]]
    range: NumberRange | None
    orders: bool


def size_of(one: Distribution) -> int | None:
    """Return how many values a key takes, or None where they have no end."""
    return one.row.size(one.given)


def value_at(one: Distribution, index: int) -> Any:
    """Return value number `index`, from 0, of a key. Raises ValueError where it has no end of values."""
    if size_of(one) is None:
        raise ValueError(f"a {one.kind} key has no end of values")
    return one.row.value(one.given, index)


def value_drawn(one: Distribution, fraction: float) -> Any:
    """Return the value that stands at a fraction in [0, 1) of a distribution."""
    size = size_of(one)
    return one.row.value(one.given, fraction if size is None else int(fraction * size))


def order_at(names: Sequence[str], index: int) -> list[str]:
    """Return order number `index`, from 0 to T! − 1, of T names; the first is the one given.

    The first name changes fastest: any T orders that begin at a multiple of T are turns of one circle, so that
    trials which start together do not all wait for the same first step.
    """
    block, turn = divmod(index, len(names))
    rest, circle = list(names[1:]), [names[0]]
    for left in range(len(rest), 0, -1):
        place, block = divmod(block, math.factorial(left - 1))
        circle.append(rest.pop(place))
    return circle[turn:] + circle[:turn]


def _twice(values: Sequence[Any]) -> str | None:
    found = [json.dumps(value, sort_keys=True) for value in values]
    twice = next((value for n, value in enumerate(found) if value in found[:n]), None)
    return None if twice is None else f"holds {twice} twice"


def _falling(ends: tuple[float, float]) -> str | None:
    low, high = ends
    return None if low < high else f"goes from {low:g} to {high:g}: the first must be the smaller one"


def _no_logarithm(ends: tuple[float, float]) -> str | None:
    return _falling(ends) or (None if ends[0] > 0 else "starts at 0 or below, where there is no logarithm")


def _between(ends: tuple[float, float], fraction: float) -> float:
    low, high = ends
    return min(max(low + fraction * (high - low), low), high)  # rounding may lead just outside


def _between_logarithms(ends: tuple[float, float], fraction: float) -> float:
    low, high = ends
    found = math.exp(math.log(low) + fraction * (math.log(high) - math.log(low)))
    return min(max(found, low), high)  # exp(log(x)) is not always x


def _whole_numbers(ends: tuple[int, int]) -> Sequence[int]:
    low, high = ends
    return range(low, high + 1) if high - low < MOST_TRIED else ends


def _orders(names: Sequence[str]) -> Sequence[list[str]]:
    count = math.factorial(len(names))
    return [order_at(names, index) for index in range(count)] if count <= MOST_SHOWN else ()


_LISTED = DistributionKind(
    fault=_twice,
    size=len,
    value=lambda values, index: values[index],
    tried=list,
    shown=tuple,
    range=None,
    orders=False,
)
DISTRIBUTIONS: Mapping[DistributionName, DistributionKind] = {
    "grid": _LISTED,
    "choice": _LISTED,
    "uniform": DistributionKind(
        fault=_falling,
        size=lambda ends: None,
        value=_between,
        tried=list,
        shown=tuple,
        range=NumberRange(
            whole=False, log=False, wandb="uniform", needs=(float,), draws="draws numbers with a fraction"
        ),
        orders=False,
    ),
    "loguniform": DistributionKind(
        fault=_no_logarithm,
        size=lambda ends: None,
        value=_between_logarithms,
        tried=list,
        shown=tuple,
        range=NumberRange(
            whole=False, log=True, wandb="log_uniform_values", needs=(float,), draws="draws numbers with a fraction"
        ),
        orders=False,
    ),
    "randint": DistributionKind(
        fault=_falling,
        size=lambda ends: ends[1] - ends[0] + 1,
        value=lambda ends, index: ends[0] + index,
        tried=_whole_numbers,
        shown=tuple,
        range=NumberRange(whole=True, log=False, wandb="int_uniform", needs=(int, float), draws="draws whole numbers"),
        orders=False,
    ),
    "permutation": DistributionKind(
        fault=_twice,
        size=lambda names: math.factorial(len(names)),
        value=order_at,
        tried=lambda names: [order_at(names, 0), order_at(names, math.factorial(len(names)) - 1)],
        shown=lambda names: tuple(_orders(names)),
        range=None,
        orders=True,
    ),
}
"""The kinds by the key of a space. A new one is its name, its field of `Distribution` and its row here."""
