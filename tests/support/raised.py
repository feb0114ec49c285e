"""What code raises, by the code of the error: its sentence may be improved without a red test."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from ratchet.errors import RatchetError


@contextlib.contextmanager
def raises(code: str, *named: str) -> Iterator[pytest.ExceptionInfo[RatchetError]]:
    """Expect an error of just this code, which is that of its class where it has no finer one.

    It must name what is `named`: a step, a key or a file, in whatever sentence.
    """
    with pytest.raises(RatchetError) as caught:
        yield caught
    assert caught.value.code == code, caught.value
    assert [name for name in named if name not in str(caught.value)] == [], caught.value
