"""The scale of a float16 loss: it keeps small gradients above float16's smallest number (Micikevicius et al. 2018)."""

from __future__ import annotations

from ratchet.errors import TrainingError

_START, _LEAST = 2.0**12, 1.0
_WINDOW = 1000
"""Updates without an overflow after which the scale is doubled."""


class LossScale:
    """A power of two: halved where a gradient overflows, doubled after a while without."""

    def __init__(self) -> None:
        self.value, self.good = _START, 0

    def seen(self, finite: bool) -> None:
        """Take note of an update. Raises TrainingError where even the smallest scale overflows."""
        if finite:
            self.good += 1
            if self.good % _WINDOW == 0:
                self.value *= 2
            return
        if self.value <= _LEAST:
            raise no_smaller_scale()
        self.value, self.good = self.value / 2, 0


def no_smaller_scale() -> TrainingError:
    """Return the error of a gradient that overflows at the smallest scale."""
    return TrainingError(
        "float16 gradients overflow at the smallest loss scale",
        where="model.dtype",
        fix="train in bfloat16 or float32, or lower the learning rate",
    )
