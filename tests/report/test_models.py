"""Where a run's models lie and how they are loaded: on the page, on the terminal and in model cards."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import transformers

from ratchet.documents.report import read_report
from ratchet.model.folder import card_usage, load_line
from ratchet.model.scratch import make_scratch
from ratchet.report.tables.training import model_lines
from report_example import short
from report_page import Page, markdown_of, page_of
from token_pairs import SPEC, TEXTS


@pytest.mark.heavy
def test_the_final_models_are_named_with_their_folder_and_the_line_that_loads_them() -> None:
    data = short()
    for step in data["steps"]:
        step["folder"] = f"/runs/a plan/steps/{step['name']}/model"
    report = read_report(data)
    names = report.final_models
    assert names and len(names) < len(report.steps)
    told = list(model_lines(report))
    assert len(told) == 2 * len(names)
    text, plain = Page(page_of(report)).text, markdown_of(report).replace("\\", "")
    for name in names:
        folder = f"/runs/a plan/steps/{name}/model"
        line = f'transformers.pipeline("text-generation", model="{folder}")'
        assert f"{name:<20} model: {folder}" in told and f"{'':<20} {line}" in told
        assert line in text and line in plain


@pytest.mark.heavy
def test_a_run_without_folders_has_no_such_section() -> None:
    assert list(model_lines(read_report(short()))) == []
    assert "how to load them" not in page_of(read_report(short()))


@pytest.mark.heavy
def test_the_line_of_a_card_loads_a_model_that_answers(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    make_scratch(SPEC, TEXTS, folder)
    code = re.search(r"```python\n(.*?)```", card_usage(), re.DOTALL)
    assert code is not None
    said: list[str] = []
    made = code[1].replace("path/to/this/folder", str(folder)).replace("max_new_tokens=128", "max_new_tokens=3")
    exec(made, {"print": said.append})  # noqa: S102  it is our own
    assert len(said) == 1 and isinstance(said[0], str)
    assert eval(load_line(str(folder)), {"transformers": transformers}).model.dtype == torch.float32  # noqa: S307
    assert load_line("a", trust_remote_code=True).endswith('model="a", trust_remote_code=True)')
