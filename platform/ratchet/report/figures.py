"""Numbers as a report prints them."""

from __future__ import annotations

import math

from ratchet.reference.share import interval_of

NONE = "–"
NO_ERROR = "no error"


def number(value: float | None, decimals: int = 2) -> str:
    """Return a number with thousands separated and a true minus sign; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return NONE
    text = f"{value:,.{decimals}f}"
    # What rounds to 0 loses its sign: −0.00 would read as a fall.
    return ("−" + text[1:] if text.startswith("-") else text) if float(text.replace(",", "")) else text.lstrip("-")


def count(value: int | None) -> str:
    """Return a whole number with thousands separated."""
    return NONE if value is None else f"{value:,}"


def with_error(value: float | None, error: float | None, decimals: int = 2) -> str:
    """Return `value ± error`, both to the digit that the error is known to (two of its digits).

    An error of 0 is shown with `decimals`; a value without an error says so. `number` is for what has none by nature.
    """
    if value is None or not math.isfinite(value):
        return NONE
    if error is None or not math.isfinite(error):
        return f"{number(value, decimals)} ({NO_ERROR})"
    decimals = decimals_of(error) if error else decimals
    return f"{number(value, decimals)} ± {number(error, decimals)}"


def decimals_of(error: float) -> int:
    """Return how many decimals show two digits of an error."""
    # Six at most: an error of nearly 0 would ask for any number.
    return min(6, max(0, 1 - math.floor(math.log10(error))))


def difference(value: float | None, error: float | None, decimals: int = 2) -> str:
    """Return a difference as `with_error` does, with its sign."""
    return _signed(value, with_error(value, error, decimals))


def _signed(value: float | None, text: str) -> str:
    return f"+{text}" if value is not None and value > 0 and text != NONE else text


def signed(value: float, decimals: int) -> str:
    """Return a number with its sign."""
    return _signed(value, number(value, decimals))


def interval(low: float | None, high: float | None, error: float | None) -> str:
    """Return `low to high`, signed, to the digit that the error is known to; nothing where an end is missing."""
    if low is None or high is None:
        return ""
    decimals = decimals_of(error) if error else 2
    return f"{_signed(low, number(low, decimals))} to {_signed(high, number(high, decimals))}"


def probability(p: float | None) -> str:
    """Return a p value to three decimals, or that it is below what they show."""
    if p is None:
        return NONE
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def percent(share: float | None, decimals: int = 1) -> str:
    """Return a share from 0 to 1 that was counted, not sampled, in per cent, without the sign."""
    return NONE if share is None else number(100 * share, decimals)


SHARE_NOTE = "In brackets: the exact 95 % interval of a share (Clopper and Pearson 1934)."


def percent_with_error(share: float | None, error: float | None, decimals: int = 1) -> str:
    """Return a share from 0 to 1 in per cent as `with_error` does."""
    return NONE if share is None else with_error(100 * share, None if error is None else 100 * error, decimals)


def with_ends(value: float | None, error: float | None, ends: tuple[float | None, float | None], decimals: int) -> str:
    """Return a value with the ends of its 95 % interval where it has some, as shares do, else with its error."""
    low, high = ends
    if value is None or low is None or high is None:
        return with_error(value, error, decimals)
    # To two digits of the interval's width, as an error is shown to two of its own.
    decimals = max(2, decimals_of(high - low)) if high > low else decimals
    return f"{number(value, decimals)} ({number(low, decimals)} to {number(high, decimals)})"


def share(value: float | None, count: int) -> str:
    """Return a share from 0 to 1 of `count` things in per cent, with the ends of its exact 95 % interval."""
    ends = interval_of(value, count)
    if value is None or ends is None:
        return NONE
    decimals = max(1, decimals_of(100 * (ends[1] - ends[0])))
    low, high = (number(100 * end, decimals) for end in ends)
    return f"{number(100 * value, decimals)} ({low} to {high})"


def loss(value: float | None) -> str:
    """Return a first loss to six digits, enough to see that it is ln 2."""
    return number(value, 6)


def small(value: float | None) -> str:
    """Return a tolerance or learning rate in the shortest form that keeps three digits."""
    return NONE if value is None else f"{value:.3g}".replace("e-0", "e-").replace("-", "−")


def cut(text: str, most: int = 16) -> str:
    """Return at most `most` characters of a text, the last an ellipsis where it is cut."""
    return text if len(text) <= most else text[: most - 1] + "…"


def on_one_line(text: str, most: int) -> str:
    """Return a text on one line, cut."""
    # What a model writes must not move the cursor of a terminal.
    return cut(" ".join("".join(sign if sign.isprintable() else " " for sign in text).split()), most)


def many(count: int, name: str) -> str:
    """Return a count with what is counted, in the plural where it is not one."""
    return f"{count:,} {name}{'' if count == 1 else 's'}"
