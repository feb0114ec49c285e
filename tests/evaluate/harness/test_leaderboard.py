"""The leaderboard of 2023, on real rows: its requests one by one, its comparison of numbers, and its task list."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from mirror import make_mirror, make_up_mirror
from plain_engine import PlainEngine, run, run_all
from raised import raises
from ratchet.evaluate.engines.pool import Candidate
from ratchet.evaluate.harness.asking import Encoder, encode_requests
from ratchet.evaluate.harness.definitions import load_definitions, quiet
from ratchet.evaluate.harness.leaderboard import OPENLLM_V1
from ratchet.evaluate.harness.requests import Rows, build_rows
from ratchet.plan.tasks import Harness
from ratchet.serving.requests import Answer, CompletionRequest
from tests.conftest import ROOT, SHARED

pytestmark = pytest.mark.heavy

HASHES = json.loads((Path(__file__).parents[2] / "support" / "openllm_v1_hashes.json").read_text())
METRICS = {"arc_challenge": "acc_norm", "hellaswag": "acc_norm", "gsm8k": "exact_match"}


def asking(task: str, **more: Any) -> Harness:
    return Harness(kind="harness", task=task, metric=METRICS.get(task, "acc"), **{"profile": "openllm-v1", **more})


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real rows where they are, and else made-up ones; a test that needs the real ones takes `shared` too."""
    folder = tmp_path_factory.mktemp("mirror")
    return make_mirror(SHARED, folder) if SHARED.is_dir() else make_up_mirror(folder)


@pytest.fixture(scope="module")
def reader(stories: Path) -> Candidate:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(stories), AutoTokenizer.from_pretrained(stories)
    return Candidate(PlainEngine(model, tokenizer), tokenizer, 512, "stories")


def hashes(rows: Rows) -> list[str]:
    """A digest of each request: context, and continuation or stop strings."""
    found = []
    for row in rows:
        for _, (context, then) in row.requests:
            text = json.dumps([context, then["until"] if isinstance(then, dict) else then])
            found.append(hashlib.sha256(text.encode()).hexdigest())
    return found


def assert_asked_as_in_2023(task: str, mirror: Path, store: Path, questions: int) -> int:
    with quiet():
        loaded = load_definitions(asking(task), mirror, store)
        count = 0
        for name, leaf in loaded.leaves.items():
            found = hashes(build_rows(leaf, list(leaf.eval_docs), "openllm-v1", questions, None))
            assert found == HASHES["requests"][name], name
            count += len(found)
    return count


@pytest.mark.parametrize(
    ("task", "count"),
    [("arc_challenge", 47), ("hellaswag", 48), ("truthfulqa_mc2", 107), ("winogrande", 24), ("gsm8k", 12)],
)
def test_requests_are_those_of_2023(task: str, count: int, shared: Path, mirror: Path, tmp_path: Path) -> None:
    assert assert_asked_as_in_2023(task, mirror, tmp_path, 12) == count


@pytest.mark.slow
def test_requests_of_all_subjects_are_those_of_2023(shared: Path, mirror: Path, tmp_path: Path) -> None:
    assert assert_asked_as_in_2023("mmlu", mirror, tmp_path, 3) == 684


def test_requests_of_today_are_others(shared: Path, mirror: Path, tmp_path: Path) -> None:
    with quiet():
        leaf = load_definitions(asking("arc_challenge", profile="harness", shots=25), mirror, tmp_path).leaves[
            "arc_challenge"
        ]
        found = hashes(build_rows(leaf, list(leaf.eval_docs), "harness", 3, None))
    assert not set(found) & set(HASHES["requests"]["arc_challenge"])


class Says(PlainEngine):
    """Goes on with these texts, one after the other."""

    texts: tuple[str, ...] = ()

    def _complete(self, ids: list[int], request: CompletionRequest) -> Answer:
        text, *rest = self.texts
        self.texts = tuple(rest)
        return Answer(text, "stop")


def load_rows(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    return rows


def number_of_2023(text: str) -> str:
    """The number that the harness of 2023 took out of an answer or a solution."""
    match = re.search(r"#### (\-?[0-9\.\,]+)", text)
    return match.group(1).strip().replace(",", "") if match else "[invalid]"


def test_numbers_are_compared_as_in_2023(reader: Candidate, tmp_path: Path) -> None:
    mirror = make_up_mirror(tmp_path / "mirror")
    rows = load_rows(mirror / "openai/gsm8k/main/test-00000-of-00001.parquet")
    forms = (
        "so #### {}",
        "#### {}.",
        "#### {}, or more",
        "#### ${}",
        "#### {}\n#### 7",
        "#### 7\n#### {}",
        "{}",
        "#### 0{}",
    )
    with quiet():
        order = [row.doc_id for row in _rows_of("gsm8k", mirror, tmp_path, 24)]
    texts = [forms[n % len(forms)].format(number_of_2023(rows[doc]["answer"])) for n, doc in enumerate(order)]
    engine = Says(reader.engine.model, reader.tokenizer)  # type: ignore[attr-defined]
    engine.texts = tuple(texts)
    other = Candidate(engine, reader.tokenizer, 4000, "says")
    result = run("gsm8k", asking("gsm8k", limit=24), other, data_root=mirror, store=tmp_path)
    right = {
        doc: float(number_of_2023(text) == number_of_2023(rows[doc]["answer"]))
        for doc, text in zip(order, texts, strict=True)
    }
    assert {int(it.item.split(":")[1]): it.values["exact_match,strict-match"] for it in result.items} == right
    assert 0 < sum(right.values()) < 24
    assert result.headline.metric == "exact_match,strict-match"
    assert "exact_match,flexible-extract" in {score.metric for score in result.scores}
    assert result.problems["no answer found"] == sum("####" not in text or "$" in text for text in texts)


def _rows_of(task: str, mirror: Path, store: Path, limit: int) -> Any:
    leaf = load_definitions(asking(task), mirror, store / "datasets").leaves[task]
    return build_rows(leaf, list(leaf.eval_docs), "openllm-v1", limit, None)


def test_no_solution_has_a_number_that_the_two_comparisons_see_differently(shared: Path) -> None:
    for split in ("train", "test"):
        for line in (shared / "gsm8k" / f"{split}.jsonl").read_text().splitlines():
            answer = json.loads(line)["answer"]
            today = re.sub(r"(?s).*#### ", "", answer.replace(",", "").replace("$", ""))
            assert number_of_2023(answer) == re.sub(r"\.$", "", today), answer


FAST = {("winogrande", "harness"), ("gsm8k", "openllm-v1")}
ALL = [(task, profile) for task in OPENLLM_V1 if task != "mmlu" for profile in ("openllm-v1", "harness")]


@pytest.mark.parametrize(
    ("task", "profile"), [pytest.param(*one, marks=() if one in FAST else pytest.mark.slow) for one in ALL]
)
def test_the_model_is_asked_what_lm_evals_own_class_asks_it(
    task: str, profile: str, mirror: Path, reader: Candidate, tmp_path: Path
) -> None:
    shots = None if profile == "openllm-v1" else OPENLLM_V1[task] or None
    never = False if profile == "openllm-v1" else None
    with quiet():
        leaf = load_definitions(asking(task, profile=profile, shots=shots), mirror, tmp_path).leaves[task]
        docs = list(leaf.eval_docs)
        instances = [
            Instance(kind, docs[row.doc_id], tuple(arguments), index, (task, row.doc_id, 1))
            for row in build_rows(leaf, docs, profile, 1 if task == "gsm8k" else 2, None)
            for index, (kind, arguments) in enumerate(row.requests)
        ]
        asked = encode_requests(Encoder(reader.tokenizer, 512, special=never), instances)
        said = asked.said(reader.engine.answer(asked.requests))
        ours = [said[id(instance)][0] for instance in instances]
        engine: Any = reader.engine
        model = HFLM(engine.model, tokenizer=reader.tokenizer, batch_size=1, add_bos_token=never)
        theirs = getattr(model, instances[0].request_type)(instances, disable_tqdm=True)
    if task == "gsm8k":
        assert ours == theirs
    else:
        assert [score for score, _ in ours] == pytest.approx([score for score, _ in theirs], abs=1e-4)
        assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]


def test_nothing_begins_with_a_bos_token_in_2023(mirror: Path, reader: Candidate, tmp_path: Path) -> None:
    engine = reader.engine
    assert isinstance(engine, PlainEngine)
    wide = Candidate(engine, reader.tokenizer, 9000, "wide")
    first = {}
    for profile in ("openllm-v1", "harness"):
        run("t", asking("winogrande", profile=profile, limit=1), wide, data_root=mirror, store=tmp_path)
        first[profile] = engine.asked[-1]["t/winogrande"][0].context[0]  # type: ignore[union-attr]
    assert first["harness"] == reader.tokenizer.bos_token_id
    assert first["openllm-v1"] != reader.tokenizer.bos_token_id


def test_only_the_six_tasks_as_they_were_go_by_the_profile(reader: Candidate, tmp_path: Path) -> None:
    for task, more, says in (
        ("arc_easy", {}, "winogrande"),
        ("arc_challenge", {"shots": 5}, "shots"),
        ("arc_challenge", {"include": str(ROOT / "eval" / "harness")}, "include"),
    ):
        with raises("plan.task") as caught:
            run("t", asking(task, **more), reader, data_root=tmp_path, store=tmp_path)
        assert says in caught.value.fix
    assert list(OPENLLM_V1.values()) == [25, 10, 5, 0, 5, 5]


@pytest.mark.slow
def test_all_six_run_and_subjects_count_alike(shared: Path, mirror: Path, reader: Candidate, tmp_path: Path) -> None:
    tasks = {task: asking(task, limit=2) for task in OPENLLM_V1}
    results = run_all(tasks, reader, data_root=mirror, store=tmp_path)
    again = run_all(tasks, reader, data_root=mirror, store=tmp_path)
    assert results == again
    mmlu = results["mmlu"]
    assert mmlu.headline.name == "acc (mean of subjects)"
    assert mmlu.settings["headline_mean"] == "groups"
    subjects = {item.group: [] for item in mmlu.items}
    for item in mmlu.items:
        subjects[item.group].append(item.values["acc"])
    assert len(subjects) == 57
    assert mmlu.headline.value == pytest.approx(sum(sum(those) / len(those) for those in subjects.values()) / 57)
