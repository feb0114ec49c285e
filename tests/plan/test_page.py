"""The reference page is the schema."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from ratchet.plan import reference_page
from ratchet.plan.load import load_plan
from ratchet.plan.outline import members
from ratchet.plan.schema import Plan
from ratchet.plan.space import Space
from ratchet.plan.suite import Suite
from tests.conftest import ROOT


def schema_parts(part: type[BaseModel]) -> set[type[BaseModel]]:
    found = {part}
    for field in part.model_fields.values():
        waiting = [field.annotation]
        while waiting:
            for member in members(waiting.pop()):
                if inspect.isclass(member) and issubclass(member, BaseModel):
                    found |= schema_parts(member)
                else:
                    waiting += [inner for inner in getattr(member, "__args__", ()) if not isinstance(inner, str | int)]
    return found


PARTS = sorted(schema_parts(Plan) | schema_parts(Suite) | schema_parts(Space), key=lambda part: part.__name__)


def test_the_page_is_up_to_date() -> None:
    path = ROOT / "docs/plan.md"
    assert path.read_text() == reference_page.page(), "run: python -m ratchet.plan.reference_page docs/plan.md"


def test_every_part_of_the_schema_has_a_section() -> None:
    assert {part.__name__ for part in PARTS} <= {part.__name__ for _, part in reference_page.SECTIONS}


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_every_key_has_a_sentence(part: type[BaseModel]) -> None:
    missing = [name for name, field in part.model_fields.items() if not (field.description or "").strip()]
    assert missing == []
    assert inspect.getdoc(part)


def test_links_have_their_headings() -> None:
    page = reference_page.page()
    headings = {
        re.sub(r"[^\w-]", "", line[3:].lower().replace(" ", "-")) for line in page.split("\n") if line.startswith("## ")
    }
    links = set(re.findall(r"\]\(#([^)]*)\)", page))
    assert links
    assert links <= headings


def test_the_example_is_a_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(reference_page.EXAMPLE)
    assert list(load_plan(Path("x.yaml")).stages) == ["warm", "align", "blend"]


def test_writes_to_a_path_or_to_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference_page.main([str(tmp_path / "plan.md")])
    reference_page.main([])
    assert (tmp_path / "plan.md").read_text() == capsys.readouterr().out == reference_page.page()
