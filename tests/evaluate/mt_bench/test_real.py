"""MT-Bench on recorded runs: prompts byte for byte, published averages, and blended files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from ratchet.evaluate.engines.pool import Candidate
from ratchet.evaluate.judges.guard import Guard
from ratchet.evaluate.judges.judge import NO_RATING, read_verdict
from ratchet.evaluate.judges.kinds import replay_judge
from ratchet.evaluate.mt_bench.files import TalkQuestions, read_answers, read_set
from ratchet.evaluate.mt_bench.run import prompt_for, run_mt_bench
from ratchet.plan.judge import ReplayJudge
from ratchet.plan.task_parts import Files
from ratchet.plan.tasks import MtBench
from ratchet.serving.requests import Answer, Request
from recorded_judgments import read_as_fastchat, read_judgments, talk_scores
from tests.evaluate.mt_bench.test_run import Words

FIVE = "mt_bench/recorded/don-tpanic"
SOLAR = "evalverse_recorded/SOLAR-10.7B-Instruct-v1.0/mt_bench"
LLAMA3 = "mt_bench/recorded/dreaming-panda"


@pytest.fixture(scope="module")
def asked(shared: Path) -> TalkQuestions:
    return read_set(Files(path=str(shared / "mt_bench")), "gpt-4")


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_published_set_is_known_by_its_content(shared: Path, asked: TalkQuestions, tmp_path: Path) -> None:
    assert asked.name == "MT-Bench" and asked.is_mt_bench
    assert asked.settings["questions_sha256"].startswith("119565ad")
    assert asked.settings["reference_set"] == "gpt-4 (FastChat's)"
    assert [len([q for q in asked.questions if q.reference]), len(asked.questions)] == [30, 80]
    for name in ("judge_prompts.jsonl", "reference_answer"):
        (tmp_path / name).symlink_to(shared / "mt_bench" / name)
    lines = (shared / "mt_bench/question.jsonl").read_text().splitlines()
    copy = tmp_path / "question.jsonl"
    copy.write_text("\r\n".join(reversed(lines)))  # other bytes, the same questions
    assert read_set(Files(path=str(tmp_path)), "gpt-4").is_mt_bench
    copy.write_text("\n".join(lines).replace("Hawaii", "Norway", 1))
    changed = read_set(Files(path=str(tmp_path)), "gpt-4")
    assert not changed.is_mt_bench and changed.name.endswith("(80 questions; not MT-Bench)")


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("folder", "name", "count"),
    [(FIVE, "gpt-4_single", 800), (SOLAR, "gpt-4_single", 160), (LLAMA3, "gpt-4_single-origin", 330)],
)
def test_the_judges_prompts_are_rebuilt_byte_for_byte(
    shared: Path, asked: TalkQuestions, folder: str, name: str, count: int
) -> None:
    guard = Guard([prompt.template for prompt in asked.prompts.values()])
    questions = {question.question_id: question for question in asked.questions}
    recorded = rows(shared / folder / f"model_judgment/{name}.jsonl")
    answers = {
        model: read_answers(shared / folder / f"model_answer/{model}.jsonl")
        for model in sorted({row["model"] for row in recorded})
    }
    assert len(recorded) == count
    for row in recorded:
        said = answers[row["model"]][row["question_id"]][: row["turn"]]
        shown = [guard.defuse(text) for text in said]  # of all these, none holds what is taken apart
        assert prompt_for(asked, questions[row["question_id"]], shown) == (row["judge"][1], row["user_prompt"])
        assert (read_as_fastchat(row["judgment"]) or -1) == (read_verdict(row["judgment"]).rating or -1) == row["score"]


def test_averages_are_the_published_ones(shared: Path, asked: TalkQuestions) -> None:
    categories = {question.question_id: question.category for question in asked.questions}
    (solar,) = talk_scores(read_judgments([shared / SOLAR / "model_judgment/gpt-4_single.jsonl"]), categories).values()
    # Published: 7.66875, 7.21519 and 7.443396; the mean of the two turns' means would be 7.44197.
    assert [(round(score.value or 0, 6), score.count) for score in solar[:3]] == [
        (7.443396, 159),
        (7.66875, 80),
        (7.21519, 79),
    ]
    assert 0.31 <= solar[0].standard_error <= 0.36
    five = talk_scores(read_judgments([shared / FIVE / "model_judgment/gpt-4_single.jsonl"]), categories)
    assert five["llama2_chat_7b"][0].value == pytest.approx(6.190625)
    assert [score.group for score in five["llama2_chat_7b"][3:]] == sorted(set(categories.values()))


def test_files_that_blend_runs_are_refused_and_copies_count_once(shared: Path) -> None:
    first, blended = (shared / LLAMA3 / f"model_judgment/gpt-4_single{end}.jsonl" for end in ("", "-origin"))
    with pytest.raises(ValueError, match=rf"{blended}:11: another judgment"):
        read_judgments([blended])
    assert len(read_judgments([first, first])) == 160


class Recalls:
    """Says what the recorded model said."""

    def __init__(self, asked: TalkQuestions, path: Path) -> None:
        answers = read_answers(path)
        self.by_talk = {
            (question.turns[0], n): answers[question.question_id][n] for question in asked.questions for n in (0, 1)
        }

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        return [Answer(self.by_talk[one.turns[0].content, len(one.turns) // 2], "stop") for one in requests]


@pytest.mark.parametrize(
    ("folder", "model", "average", "problems"),
    [
        (SOLAR, "SOLAR-10.7B-Instruct-v1.0", 7.443396, {NO_RATING: 1}),
        (FIVE, "llama2_chat_7b", 6.190625, {}),
        (FIVE, "finetune_llama2_chat_7b", None, {"judge failed: several judgments in the recording": 20}),
        (LLAMA3, "Meta-Llama-3-8B-Instruct-Normal", None, None),
    ],
)
def test_a_replayed_run_gives_the_published_average_or_says_what_is_missing(
    shared: Path, asked: TalkQuestions, folder: str, model: str, average: float | None, problems: dict[str, int] | None
) -> None:
    name = "gpt-4_single-origin" if folder == LLAMA3 else "gpt-4_single"
    judge = replay_judge(
        ReplayJudge(kind="replay", file=str(shared / folder / f"model_judgment/{name}.jsonl"), judge="gpt-4")
    )
    candidate = Candidate(Recalls(asked, shared / folder / f"model_answer/{model}.jsonl"), Words(), 10**6, model)
    task = MtBench(kind="mt_bench", questions=Files(path=str(shared / "mt_bench")))
    result = run_mt_bench("mt-bench", task, candidate, judge).result
    assert (round(result.headline.value, 6) if result.headline.value else None) == average
    assert result.kind == "mt_bench" and not any("not MT-Bench" in warning for warning in result.warnings)
    assert result.settings["judge"] == "gpt-4" and "sha256" in result.settings["judge_how"]
    if problems is None:
        problems = {"judge failed: several judgments in the recording": 10}
    assert result.problems == problems
