"""What an evaluation lacks is named, before anything is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation_run import SETS, TEXT, asked, by_task, scores_of, suite_in
from whole_run import ratchet

pytestmark = pytest.mark.ray
MISSING_QUESTIONS = TEXT + "  faulty: {kind: eq_bench, questions: {path: none.json}}\n"
NO_JUDGE = TEXT + "  faulty: {kind: mt_bench, questions: {path: questions}, references: ours}\n"
NO_PLAN = TEXT + "  faulty: {kind: exact_match, source: sums, pattern: '(a)'}\n"
NO_TASK = TEXT + "  faulty: {kind: harness, task: arc_chalenge, metric: acc}\n"
NO_DATA = TEXT + "  faulty: {kind: harness, task: arc_challenge, metric: acc}\ndata_root: bare\n"
NO_TEMPLATE = TEXT + f"  faulty: {{kind: eq_bench, questions: {{path: {SETS}/short-feelings.json}}}}\n"


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    (folder / "bare").mkdir()
    (folder / "questions").mkdir()
    return folder


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (MISSING_QUESTIONS, ["small.yaml:3: tasks.faulty.questions.path", "no such"]),
        pytest.param(NO_JUDGE, ["small.yaml: tasks.faulty", "has no judge", "--set"], marks=pytest.mark.slow),
        pytest.param(NO_PLAN, ["small.yaml: tasks.faulty", "there is no plan", "evaluate"], marks=pytest.mark.slow),
    ],
    ids=["no questions", "no judge", "no plan"],
)
def test_what_is_not_there_is_named_before_anything_is_asked(
    text: str, says: list[str], stories: Path, faults: Path
) -> None:
    storage = suite_in(faults, text) / "out"
    found = ratchet(faults, *asked(stories))
    assert found.returncode == 2, found.stderr
    assert all(part in found.stderr[found.stderr.index("error: ") :] for part in says), found.stderr
    assert "Traceback" not in found.stderr
    assert not storage.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "status", "says"),
    [
        pytest.param(NO_TEMPLATE, 4, ["asks through a chat template", "plain"], id="no chat template"),
        pytest.param(NO_TASK, 2, ["arc_chalenge", "arc_challenge"], id="no such task"),
        pytest.param(NO_DATA, 3, ["bare", "allenai/ai2_arc"], id="no data"),
    ],
)
def test_what_a_task_lacks_ends_that_task_alone(
    text: str, status: int, says: list[str], stories: Path, tmp_path: Path
) -> None:
    (tmp_path / "bare").mkdir()
    storage = suite_in(tmp_path, text) / "out"
    arguments = asked(stories)
    if text == NO_TEMPLATE:
        arguments = [one for one in arguments if one not in {"--chat-template", "plain"}]
    found = ratchet(tmp_path, *arguments)
    assert found.returncode == status, found.stderr
    error = found.stderr[found.stderr.index("error: ") :]
    assert "tasks.faulty of tales was not asked" in error and all(part in error for part in says), error
    assert "Traceback" not in found.stderr
    results = by_task(scores_of(storage), "tales")
    assert results["text"]["scores"][0]["value"] > 1
    assert results["faulty"]["scores"][0]["value"] is None


@pytest.mark.slow
def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    suite_in(tmp_path, TEXT)
    found = ratchet(tmp_path, *asked(tmp_path / "gone"))
    assert found.returncode == 2, found.stderr
    assert f"{tmp_path}/gone" in found.stderr
    assert "Traceback" not in found.stderr
