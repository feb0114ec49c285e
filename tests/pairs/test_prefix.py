"""Answers whose beginning is given: what is read, which tokens are trained on, and the loss of those."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ratchet.losses.preference import PairLogps, dpo
from ratchet.model.forward import PairScorer, score
from ratchet.model.scratch import make_scratch
from ratchet.pairs.pair import PreferencePair, Skipped, TokenisedPair
from ratchet.pairs.pair_table import pairs_table
from ratchet.pairs.source import read_source
from ratchet.pairs.style import find_style
from ratchet.pairs.tokenizer import load_tokenizer
from ratchet.pairs.tokens import tokenise
from ratchet.plan.data import Source
from ratchet.prove.oracle import answer_logp, plain_dpo
from tiny_models import ids, tiny
from token_pairs import CHATML, LARGE, SPEC, TEXTS, THINKS

ROW = {"question": "What is 12 + 30?", "start": "12 + 30", "good": " = 42. Fine.", "bad": " = 41. Fine."}
COLUMNS = {"prompt": "question", "prefix": "start", "chosen": "good", "rejected": "bad"}


def read(row: dict[str, Any], tmp_path: Path, **columns: str) -> PreferencePair | Skipped:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (item,) = read_source(Source.model_validate({"path": str(path), "columns": {**COLUMNS, **columns}}))
    return item


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("scratch")
    make_scratch(SPEC, TEXTS, folder)
    return load_tokenizer(folder, None)


def tokens(tokenizer: Any, item: PreferencePair | Skipped, template: str = CHATML) -> dict[str, Any]:
    assert isinstance(item, PreferencePair)
    tokenizer.chat_template = template
    (row,) = tokenise(pairs_table([item]), tokenizer, find_style(tokenizer), LARGE).to_pylist()
    return dict(row)


@pytest.mark.parametrize("template", [CHATML, THINKS])
@pytest.mark.parametrize("start", ["12 + 30", "12 + 30 ", " 12\n", "1"])
def test_the_ids_are_those_of_the_template_and_the_prefix_is_not_trained(
    tokenizer: Any, tmp_path: Path, start: str, template: str
) -> None:
    item = read({**ROW, "start": start}, tmp_path)
    assert isinstance(item, PreferencePair) and (item.prompt[-1].role, item.prompt[-1].content) == ("assistant", start)
    row = tokens(tokenizer, item, template)
    assert row["reason"] is None
    for side, answer in (("chosen", ROW["good"]), ("rejected", ROW["bad"])):
        talk = [{"role": "user", "content": ROW["question"]}, {"role": "assistant", "content": start + answer}]
        text = tokenizer.apply_chat_template(talk, tokenize=False).removesuffix("\n")
        whole = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        assert row["prompt"] + row[side] == whole["input_ids"]
        # By the tokenizer's own offsets: what is trained ends beyond the beginning.
        limit = text.rindex(start + answer) + len(start)
        trained = [end > limit for _, end in whole["offset_mapping"]]
        assert trained.index(True) == len(row["prompt"])


def test_a_blank_prefix_is_none_and_one_that_is_no_text_is_skipped(tmp_path: Path) -> None:
    item = read({**ROW, "start": " "}, tmp_path)
    assert isinstance(item, PreferencePair) and [turn.role for turn in item.prompt] == ["user"]
    odd = read({**ROW, "start": ["x"]}, tmp_path)
    assert isinstance(odd, Skipped) and odd.reason == "wrong type"


def test_a_prefix_makes_another_pair(tmp_path: Path) -> None:
    one, other = (read({**ROW, "start": start}, tmp_path) for start in ("12 + 30", "12  + 30"))
    assert isinstance(one, PreferencePair) and isinstance(other, PreferencePair)
    assert one.pair_id != other.pair_id and one.prompt_key == other.prompt_key


def test_dpo_is_the_loss_of_the_tokens_behind_the_prefix(tokenizer: Any, tmp_path: Path) -> None:
    row = tokens(tokenizer, read(ROW, tmp_path))
    whole = {side: row["prompt"] + row[side] for side in ("chosen", "rejected")}
    size = max(map(max, whole.values())) + 1
    policy, reference = (tiny("llama") for _ in range(2))
    for model in (policy, reference):
        model.resize_token_embeddings(size, mean_resizing=False)
    with torch.no_grad():
        for weight in reference.parameters():
            weight.mul_(1.1)

    def masked(model: Any, side: str) -> torch.Tensor:
        logps = model(input_ids=torch.tensor([whole[side]])).logits[0, :-1].double().log_softmax(-1)
        of_tokens = logps.gather(1, torch.tensor(whole[side][1:])[:, None])[:, 0]
        # By the text: the tokens of the answer alone, without those of its beginning.
        behind = len(tokenizer(ROW["good" if side == "chosen" else "bad"] + "<|end|>", add_special_tokens=False)[0])
        return of_tokens[-behind:].sum()

    pair = TokenisedPair("x", ids(*row["prompt"]), ids(*row["chosen"]), ids(*row["rejected"]))
    sides, scored = ("chosen", "rejected"), score(PairScorer(policy), [pair], "cpu")
    ours = torch.stack([scored.chosen_B[0], scored.rejected_B[0]]).double()
    plain = torch.stack([masked(policy, side) for side in sides])
    proved = torch.stack([answer_logp(policy, row["prompt"], row[side]) for side in sides])
    ref = [masked(reference, side).detach() for side in sides]
    assert torch.allclose(ours, plain, atol=1e-6) and torch.allclose(proved, plain, atol=1e-12)
    beta = 0.1
    by_hand = torch.log1p(torch.exp(-beta * ((plain[0] - ref[0]) - (plain[1] - ref[1]))))
    oracle = plain_dpo(
        {"beta": beta, "label_smoothing": 0.0}, (proved[0], proved[1]), (float(ref[0]), float(ref[1])), (1, 1)
    )
    assert float(oracle.detach()) == pytest.approx(float(by_hand.detach()), abs=1e-12)
    wanted = torch.autograd.grad(by_hand, list(policy.parameters()), allow_unused=True)
    counts = torch.tensor([1.0])
    (loss,) = dpo(PairLogps(*ours[:, None], *torch.stack(ref)[:, None], counts, counts), beta=beta)
    found = torch.autograd.grad(loss, list(policy.parameters()), allow_unused=True)
    assert float(loss.detach()) == pytest.approx(float(by_hand.detach()), abs=1e-6)
    for one, other in zip(found, wanted, strict=True):
        assert (one is None) == (other is None)
        assert one is None or other is None or torch.allclose(one, other, atol=1e-6)


def test_answers_that_begin_with_their_prefix_do_not_get_it_twice(tmp_path: Path) -> None:
    plain = read(ROW, tmp_path)
    whole = read({**ROW, "good": ROW["start"] + ROW["good"], "bad": ROW["start"] + ROW["bad"]}, tmp_path)
    assert isinstance(plain, PreferencePair) and isinstance(whole, PreferencePair)
    assert whole.pair_id == plain.pair_id and whole.chosen.content == ROW["good"]
    mixed = read({**ROW, "good": ROW["start"] + ROW["good"]}, tmp_path)
    assert isinstance(mixed, Skipped) and "does not begin with its prefix" in mixed.detail
