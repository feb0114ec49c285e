"""The benchmark of families compares sides that compute the same."""

from __future__ import annotations

import pytest

from benchmarks import families
from benchmarks.shapes import near_twins


@pytest.mark.heavy
@pytest.mark.parametrize("family", families.FAMILIES)
def test_both_sides_have_one_gradient_and_sharing_computes_less(
    family: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(families, "SHAPES", {"near twins": lambda _count, vocab, seed: near_twins(1, vocab, seed)})
    families.main(["--family", family, "--shape", "near twins", "--rounds", "1"])
    _, name, _, tokens, _, _, off, _ = capsys.readouterr().out.splitlines()[-1].split("|")
    padded, shared = map(int, tokens.split(","))
    assert name.strip() == family and shared < 0.8 * padded and float(off) < 2e-5
