"""What a run says of a source once its tokens are made."""

from __future__ import annotations

from typing import Any

import pytest

from ratchet.pipeline.prepare import said_tokens
from ratchet.store.record import Record


@pytest.mark.parametrize(("overlong", "cut"), [("drop", {}), ("trim_prompt", {"prompts cut": 7})])
def test_the_length_policy_and_what_it_did_are_said(overlong: str, cut: dict[str, Any]) -> None:
    counts = {"train": 90, "tokens_train": 4000, "trimmed": 7, "skipped": {"too long": 4, "answer too long": 2}}
    record = Record("tokens", "f", {"max_length": 128, "overlong": overlong}, counts, "now", 1.0)
    said = said_tokens(record)
    policy = {"max_length": 128, "overlong": overlong}
    assert said == {"pairs": 90, "tokens": 4000, "left out": 6, **cut, **policy}
    assert [*said][-2:] == ["max_length", "overlong"]
