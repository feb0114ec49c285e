"""The matrix of families: what Ratchet does with each family of transformers, and the table that says so."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from family_configs import VOCABULARY, apart, class_name, families, tiny_config, write_tiny
from family_matrix import measure
from family_rows import CELLS, Row
from family_table import PAGE, page_of, read_rows
from raised import raises
from ratchet.model.forward import PairScorer
from ratchet.model.load import load_model

SEEMING = ("bigbird_pegasus", "blenderbot-small", "recurrent_gemma")
"""Families that float32 refuses to share by their scores, and whose scores are within what bfloat16 rounds."""
HIDDEN = {"doge": "off by 0.03 of some 100 nats, which is less than bfloat16 rounds"}
WIDE = {
    "deepseek_v4": "its own code hands what float32 norms give to weights in bfloat16",
    "reformer": "its own code gives a layer norm two precisions",
}
"""Families whose class in transformers does not run in bfloat16 on a CPU."""
FEW = ("bloom", "deepseek_v3", "falcon_h1", "gemma3", "gpt_oss", "llama", "mistral3", "qwen3_moe", "qwen3_vl_moe")
GOOD = Row("a", "A", *["yes"] * (len(CELLS) - 1), evaluates="yes, contexts shared", reach=40)


def test_every_family_of_transformers_has_a_row_or_a_reason() -> None:
    """A new version of transformers with a new family is a red test until `make families` was run."""
    rows = read_rows()
    assert sorted(rows) == families() and not rows.keys() & apart().keys()
    assert len(rows) > 200 and all(rows[name].kind == class_name(name) for name in rows)


def test_the_page_is_the_data() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page_of(page) == page, "run `make families FAMILIES=llama`"
    assert page_of(page.replace("`llama`", "`lama`")) == page


def test_the_families_that_people_bring_work_from_end_to_end() -> None:
    rows = read_rows()
    for name in (*FEW, "gemma3_text", "glm4_moe", "glm_moe_dsa", "granitemoehybrid", "llama4", "nemotron_h", "qwen3_5"):
        assert all(rows[name].works(cell) for cell in CELLS if cell != "shares"), name


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"shares": "yes, to 64 tokens"}, []),
        (
            {"shares": "no: a row is read on"},
            ["shares was 'yes', is 'no: a row is read on'"],
        ),
        ({"trains": "fails: IndexError: 3"}, ["trains was 'yes', is 'fails: IndexError: 3'"]),
        ({"reach": 39}, []),
        ({"reach": 12}, ["adapters reached 40 %, and now 12 %"]),
        ({"evaluates": "yes, in a forest"}, []),
    ],
)
def test_a_family_that_gets_worse_is_found(changes: dict[str, object], said: list[str]) -> None:
    assert dataclasses.replace(GOOD, **changes).worse(GOOD) == said  # type: ignore[arg-type]


def test_a_family_that_gets_better_is_not_worse() -> None:
    before = dataclasses.replace(GOOD, shares="no: its own code", lora="fails: a", reach=None, evaluates="yes, padded")
    assert GOOD.worse(before) == [] and len(GOOD.changes(before)) == 4
    padded, forest = (dataclasses.replace(GOOD, evaluates=f"yes, {way}") for way in ("padded", "in a forest"))
    assert padded.worse(forest) == ["evaluates in a forest no more"] and forest.worse(padded) == []
    assert dataclasses.replace(GOOD, lora="fails: a").worse(dataclasses.replace(GOOD, lora="no: b")) != []


def test_a_configuration_is_small_in_all_its_parts() -> None:
    config = tiny_config("mistral3")
    assert config.text_config.vocab_size == VOCABULARY and config.vision_config.num_hidden_layers == 1
    with torch.device("meta"):
        from transformers import Mistral3ForConditionalGeneration

        assert sum(one.numel() for one in Mistral3ForConditionalGeneration(config).parameters()) < 500_000


@pytest.mark.heavy
@pytest.mark.parametrize("family", FEW)
def test_a_family_is_no_worse_than_its_row(family: str) -> None:
    assert measure(family).worse(read_rows()[family]) == []


@pytest.mark.slow
@pytest.mark.parametrize("family", [name for name in families() if name not in FEW])
def test_every_family_is_no_worse_than_its_row(family: str) -> None:
    assert measure(family).worse(read_rows()[family]) == []


def shares_in_bfloat16(family: str, folder: Path) -> bool:
    write_tiny(family, folder / "start")
    return PairScorer(load_model(folder / "start", "bfloat16")).packing.why_padded is None


@pytest.mark.parametrize("family", SEEMING)
def test_what_float32_refuses_by_its_scores_bfloat16_refuses_by_its_make_up(family: str, tmp_path: Path) -> None:
    assert not read_rows()[family].works("shares") and not shares_in_bfloat16(family, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", [name for name in families() if name not in HIDDEN | WIDE])
def test_no_family_shares_in_bfloat16_that_does_not_in_float32(family: str, tmp_path: Path) -> None:
    row = read_rows()[family]
    if row.works("loads") and "model" not in row.shares:
        assert row.works("shares") or not shares_in_bfloat16(family, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(WIDE))
def test_what_does_not_run_in_bfloat16_is_refused_by_name(family: str, tmp_path: Path) -> None:
    with raises("model.unscorable", "in bfloat16", "float32"):
        shares_in_bfloat16(family, tmp_path)
