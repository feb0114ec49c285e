"""Perplexity in windows: the guide's own loop, every token once, and errors by another route."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from raised import raises
from ratchet.evaluate.engines.pool import Candidate
from ratchet.evaluate.perplexity import perplexity_scores, run_perplexity, windows
from ratchet.evaluate.statistics import ratio
from ratchet.model.load import load_model
from ratchet.model.scratch import make_scratch
from ratchet.pairs.tokenizer import load_tokenizer
from ratchet.plan.model import Scratch
from ratchet.plan.task_parts import Rows
from ratchet.plan.tasks import Perplexity
from ratchet.serving.requests import Answer, ContinuationRequest, Request
from tests.conftest import ROOT

PROSE = ROOT / "eval/sets/lighthouse.txt"


class Reader:
    """An engine that reads one request at a time, whole, in the model's own precision."""

    def __init__(self, model: Any) -> None:
        self.model, self.asked = model, list[Request]()

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        self.asked += requests
        return [self._read(one) for one in requests if isinstance(one, ContinuationRequest)]

    def answer_groups(self, groups: Mapping[str, Sequence[Request]]) -> dict[str, list[Answer]]:
        return {name: self.answer(requests) for name, requests in groups.items()}

    def _read(self, request: ContinuationRequest) -> Answer:
        (said,) = request.continuations
        ids = torch.tensor([*request.context, *said])
        with torch.no_grad():
            logps = self.model(input_ids=ids[None]).logits[0].log_softmax(-1)
        first = len(request.context)
        value = sum(float(logps[at - 1, ids[at]]) for at in range(first, len(ids)))
        return Answer("", "stop", logprobs=(value,), greedy=(False,))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    spec = Scratch(tokenizer_from=("a",), vocab_size=320, hidden_size=32, layers=2, heads=2, key_value_heads=1,
                   intermediate_size=32, max_positions=64)  # fmt: skip
    make_scratch(spec, PROSE.read_text().split("\n\n"), folder)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    model = load_model(folder, "float32").double().eval()
    torch.manual_seed(0)
    for weight in model.parameters():  # far from uniform, so that context matters
        torch.nn.init.normal_(weight, std=0.2)
    return model


@pytest.fixture(params=["without BOS", "with BOS"])
def candidate(request: pytest.FixtureRequest, folder: Path, model: Any) -> Candidate:
    tokenizer = load_tokenizer(folder, None)
    if request.param == "with BOS":
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", tokenizer.bos_token_id)]
        )
    return Candidate(Reader(model), tokenizer, 64, "tiny")


def task_of(path: Path, **settings: Any) -> Perplexity:
    return Perplexity(kind="perplexity", rows=Rows(path=str(path)), **settings)


def guide(model: Any, ids: Sequence[int], window: int, stride: int) -> list[tuple[float, int]]:
    """Mean loss and number of unmasked labels of each window, by masked labels and the model's own loss."""
    all_ids = torch.tensor([list(ids)])
    found, previous = [], 0
    for begin in range(0, len(ids), stride):
        end = min(begin + window, len(ids))
        piece = all_ids[:, begin:end]
        labels = piece.clone()
        labels[:, : piece.shape[1] - (end - previous)] = -100
        with torch.no_grad():
            found.append((float(model(piece, labels=labels).loss), int((labels != -100).sum())))
        previous = end
        if end == len(ids):
            break
    return found


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("window", "stride"),
    [(64, 48), pytest.param(64, 32, marks=pytest.mark.slow), pytest.param(30, 7, marks=pytest.mark.slow), (None, None)],
)
def test_the_windows_and_sums_are_the_guide_s(
    candidate: Candidate, model: Any, window: int | None, stride: int | None
) -> None:
    result = run_perplexity("prose", task_of(PROSE, window=window, stride=stride), candidate)
    ids = candidate.tokenizer(PROSE.read_text())["input_ids"]
    theirs = guide(model, ids, window or 64, stride or 32)
    ours = [(item.values["nll"], item.values["tokens"]) for item in result.items]
    assert len(ours) == len(theirs)
    predicted = [labels - (at == 0) for at, (_, labels) in enumerate(theirs)]  # the text's first token alone is lost
    assert [tokens for _, tokens in ours] == predicted
    for (nll, tokens), (loss, _) in zip(ours, theirs, strict=True):
        assert nll / tokens == pytest.approx(loss, rel=1e-6)
    exact = sum(loss * n for (loss, _), n in zip(theirs, predicted, strict=True)) / sum(predicted)
    assert result.headline.value == pytest.approx(math.exp(exact), rel=1e-6)
    assert sum(predicted) == len(ids) - 1
    # The guide's own figure takes one token off every window's weight: the same sums give it too.
    weights = [labels - 1 for _, labels in theirs]
    printed = math.exp(sum(loss * n for (loss, _), n in zip(theirs, weights, strict=True)) / sum(weights))
    from_ours = sum(nll / n * w for (nll, n), w in zip(ours, weights, strict=True)) / sum(weights)
    assert math.exp(from_ours) == pytest.approx(printed, rel=1e-6)
    assert printed == pytest.approx(result.headline.value, rel=0.01)


def test_a_text_in_one_window_is_the_plain_mean_loss(candidate: Candidate, model: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The lamp was lit again.")
    result = run_perplexity("short", task_of(tmp_path / "a.txt"), candidate)
    ((loss, _),) = guide(model, candidate.tokenizer("The lamp was lit again.")["input_ids"], 64, 32)
    assert result.headline.value == pytest.approx(math.exp(loss), rel=1e-6)
    assert [score.standard_error for score in result.scores] == [None] * 3
    assert result.headline.note == "one window: no error, take a smaller window"


def test_a_bos_that_the_tokenizer_adds_makes_the_first_token_predicted(folder: Path, model: Any) -> None:
    plain, begun = (load_tokenizer(folder, None) for _ in range(2))
    begun.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", 1)]
    )
    results = [run_perplexity("p", task_of(PROSE), Candidate(Reader(model), one, 64, "tiny")) for one in (plain, begun)]
    counts = [sum(item.values["tokens"] for item in result.items) for result in results]
    assert counts[1] == counts[0] + 1
    assert results[1].settings["tokens"] == results[0].settings["tokens"] + 1


@given(st.integers(2, 200), st.integers(2, 50), st.data())
def test_every_token_but_the_first_is_predicted_once_from_enough_before_it(
    tokens: int, window: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, window - 1))
    seen = []
    for one in windows(tokens, window, stride):
        assert one.start < one.first < one.end <= one.start + window
        assert one.first == 1 or one.first - one.start >= window - stride
        seen += range(one.first, one.end)
    assert seen == list(range(1, tokens))


def test_the_other_scores_are_the_same_in_other_units(candidate: Candidate) -> None:
    result = run_perplexity("prose", task_of(PROSE), candidate)
    perplexity, nll, bits = result.scores
    nats = sum(item.values["nll"] for item in result.items)
    assert nll.value == pytest.approx(math.log(perplexity.value))
    assert bits.value == pytest.approx(nats / math.log(2) / len(PROSE.read_bytes()))
    assert perplexity.standard_error == pytest.approx(perplexity.value * nll.standard_error)
    assert bits.standard_error / bits.value == pytest.approx(nll.standard_error / nll.value)
    assert [(score.metric, score.unit, score.lower_is_better) for score in result.scores] == [
        ("nll", "perplexity", True),
        ("nll", "nats", True),
        ("nll", "bits", True),
    ]


def test_the_error_is_the_spread_of_perplexities_over_new_texts() -> None:
    random = np.random.default_rng(0)
    values, errors = [], []
    for _ in range(1000):
        tokens = random.integers(20, 60, 80)
        nats = tokens * random.normal(3.0, 0.4, 80)
        headline = perplexity_scores(list(nats), list(tokens), 1000)[0]
        values.append(headline.value)
        errors.append(headline.standard_error)
    assert np.mean(errors) == pytest.approx(np.std(values, ddof=1), rel=0.08)


def test_the_error_of_a_ratio_is_that_of_a_mean_where_groups_are_equal() -> None:
    values = np.random.default_rng(1).normal(size=50)
    for size in (1.0, 7.0):
        found = ratio(values * size, np.full(50, size))
        assert found.mean == pytest.approx(values.mean())
        assert found.standard_error == pytest.approx(values.std(ddof=1) / np.sqrt(50))


def test_rows_are_joined_by_blank_lines_empty_ones_too(candidate: Candidate, tmp_path: Path) -> None:
    lines = ["", " = Title = \n", "Some text .", ""]
    (tmp_path / "a.jsonl").write_text("".join(f'{{"text": {line!r}}}\n'.replace("'", '"') for line in lines))
    (tmp_path / "a.txt").write_text("\n\n".join(lines))
    apart, whole = (run_perplexity("t", task_of(tmp_path / name), candidate) for name in ("a.jsonl", "a.txt"))
    assert apart.settings["text"] == whole.settings["text"]
    assert apart.scores == whole.scores
    assert [item.item for item in apart.items] == [item.item for item in whole.items]


def test_a_window_of_another_text_has_another_id(candidate: Candidate, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(PROSE.read_text() + "\n\nThe end.")
    one, two = (
        [item.item for item in run_perplexity("t", task_of(p), candidate).items] for p in (PROSE, tmp_path / "a.txt")
    )
    assert one[:-1] == two[: len(one) - 1]
    assert one[-1] not in two
    assert len(set(one)) == len(one)


def test_the_settings_say_what_decides_the_number(candidate: Candidate) -> None:
    settings = run_perplexity("t", task_of(PROSE, window=40, quantise="4bit"), candidate).settings
    assert (settings["window"], settings["stride"], settings["quantise"]) == (40, 20, "4bit")
    assert settings["tokens"] == len(candidate.tokenizer(PROSE.read_text())["input_ids"])


def test_a_long_model_reads_4096_tokens_at_once(folder: Path) -> None:
    class Flat(Reader):
        def _read(self, request: ContinuationRequest) -> Answer:
            return Answer("", "stop", logprobs=(-1.0 * len(request.continuations[0]),), greedy=(False,))

    reader = Flat(None)
    result = run_perplexity("t", task_of(PROSE), Candidate(reader, load_tokenizer(folder, None), 8192, "flat"))
    assert (result.settings["window"], result.settings["stride"]) == (4096, 2048)
    assert result.headline.value == pytest.approx(math.e)


@pytest.mark.parametrize(
    "settings",
    [{"window": 65}, {"stride": 64}],
)
def test_windows_that_do_not_fit_the_model_are_refused(candidate: Candidate, settings: dict[str, int]) -> None:
    with raises("plan") as caught:
        run_perplexity("t", task_of(PROSE, **settings), candidate)
    assert caught.value.where == f"tasks.t.{next(iter(settings))}"


def test_a_text_with_nothing_to_predict_is_refused(folder: Path, model: Any, tmp_path: Path) -> None:
    candidate = Candidate(Reader(model), load_tokenizer(folder, None), 64, "tiny")
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n')
    with raises("data") as caught:
        run_perplexity("t", task_of(tmp_path / "a.jsonl"), candidate)
    assert caught.value.where == "tasks.t.rows"
    (tmp_path / "a.txt").write_text("x")
    with raises("data") as caught:
        run_perplexity("t", task_of(tmp_path / "a.txt"), candidate)
    assert caught.value.where == "tasks.t.rows"


@pytest.mark.parametrize("logprobs", [(math.nan,), (-math.inf,), (None,), None])
def test_a_likelihood_that_is_no_number_is_the_model_s_fault(folder: Path, logprobs: Any) -> None:
    class Broken(Reader):
        def _read(self, request: ContinuationRequest) -> Answer:
            return Answer("", "stop", logprobs=logprobs)

    candidate = Candidate(Broken(None), load_tokenizer(folder, None), 64, "broken")
    with raises("model") as caught:
        run_perplexity("t", task_of(PROSE), candidate)
    assert caught.value.where == "tasks.t: window 1"


def test_a_perplexity_too_large_for_a_number_is_none() -> None:
    perplexity, nll, _ = perplexity_scores([8000.0, 9000.0], [10, 10], 100)
    assert (perplexity.value, perplexity.standard_error, nll.value) == (None, None, 850.0)
    assert "too large" in perplexity.note


def test_a_published_model_reads_prose_through_its_own_tokenizer(stories: Path) -> None:
    model = load_model(stories, "float32").eval()
    tokenizer = load_tokenizer(stories, None)
    result = run_perplexity("prose", task_of(PROSE, window=256), Candidate(Reader(model), tokenizer, 512, "stories"))
    ids = tokenizer(PROSE.read_text())["input_ids"]
    theirs = guide(model, ids, 256, 128)
    predicted = [labels - (at == 0) for at, (_, labels) in enumerate(theirs)]
    exact = sum(loss * n for (loss, _), n in zip(theirs, predicted, strict=True)) / sum(predicted)
    assert result.headline.value == pytest.approx(math.exp(exact), rel=1e-5)
    assert 1 < result.headline.value < 512
