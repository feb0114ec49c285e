"""Every loss in every precision, at every ZeRO stage, on one and two workers: each number as a plain one says.

The processes are begun once, three in all, and train one combination after the other.
"""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import pytest

from prove_bench import PRECISIONS, STAGES, Inputs, train_together, write_inputs, zero
from ratchet.plan.cluster import DeepSpeed
from ratchet.prove.compare import numbers_table

pytestmark = pytest.mark.prove

ZEROS = get_args(DeepSpeed.model_fields["zero"].annotation)
"""0 is plain torch, the others are DeepSpeed's."""
WORKERS = (1, 2)
WAYS = list(itertools.product(ZEROS, WORKERS))


def folder(root: Path, name: str, dtype: str, stage: int, workers: int) -> Path:
    return root / f"{name}-{dtype}-{stage}-{workers}".replace(" ", "_")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    inputs = write_inputs(tmp_path_factory.mktemp("table"))

    def train(workers: int) -> None:
        specs = [
            inputs.spec(name, dtype, folder(inputs.root, name, dtype, stage, workers), workers=workers, **zero(stage))
            for name, dtype, stage in itertools.product(STAGES, PRECISIONS, ZEROS)
        ]
        train_together(specs, workers, inputs.root)

    with ThreadPoolExecutor() as together:
        list(together.map(train, WORKERS))
    return inputs


@pytest.mark.parametrize(("name", "dtype"), list(itertools.product(STAGES, PRECISIONS)))
def test_every_way_to_train_makes_the_plain_updates(trained: Inputs, name: str, dtype: str) -> None:
    assert len(WAYS) == 8
    wrong = []
    for way, numbers in zip(
        WAYS, trained.prove(name, dtype, [folder(trained.root, name, dtype, *way) for way in WAYS]), strict=True
    ):
        if outside := [number for number in numbers if not number.ok]:
            wrong += [f"ZeRO {way[0]} on {way[1]} workers", *numbers_table(outside)]
    assert not wrong, "\n".join(wrong)
