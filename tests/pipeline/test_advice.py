"""What `check` and `show` say of tokens: figures worked out by hand from lengths, and never an error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from ratchet import cli
from ratchet.documents.token_use import TokenUse, use_in_words
from ratchet.pipeline import advice
from ratchet.pipeline.advice import advise
from ratchet.plan.load import plan_of
from ratchet.plan.reading import parse
from ratchet.plan.schema import Plan

PLAN = """\
name: x
model: {path: model}
data:
  quiz: {path: quiz.jsonl, build: multiple_choice, held_out: 0}
stages:
  warm: {kind: sft, data: [quiz], batch: 30, max_length: 400}
  align: {kind: dpo, after: warm, data: [quiz], batch: 30, max_length: 400}
  again: {kind: dpo, after: align, data: [quiz], batch: 30, max_length: 400, beta: 0.3}
  near: {kind: dpo, after: warm, data: [quiz], batch: 30, max_length: 400, shuffle: prompts}
cluster: {storage: out}
"""


@pytest.fixture(autouse=True)
def _quiz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty questions of 50 words that begin differently, each with a right answer and three wrong ones of 5 words."""
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    Path("model/config.json").write_text('{"model_type": "llama"}')
    words = [f"{n:03d}" for n in range(60)] + ["and", *"abcd"]
    known = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}))
    known.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    known.save("model/tokenizer.json")
    rows = [
        {
            "question": " ".join([f"{n:03d}", *["and"] * 49]),
            "choices": [" ".join([letter, *["and"] * 4]) for letter in "abcd"],
            "answer": n % 4,
        }
        for n in range(60)
    ]
    Path("quiz.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def plan(text: str = PLAN) -> Plan:
    return plan_of(parse(text, "plan.yaml"))


def test_tokens_a_pair_are_those_of_the_lengths() -> None:
    warm, align, near = advise(plan()).uses
    assert (align.stages, align.how, align.pairs, align.several) == (("align", "again"), "plain", 180, 1.0)
    assert (align.padded, align.packed) == (110, 110)  # 2 × (50 + 5)
    assert align.by_prompts == pytest.approx((50 + 4 * 5) / 3, abs=0.01)
    # Of 180 pairs a batch of 30 has two of a prompt now and then: at most the prompt once a pair.
    assert 50 < align.by_pairs < 60 and align.saves == pytest.approx(align.by_pairs / align.by_prompts)
    assert (near.planned, near.by_pairs, near.saves) == (align.by_prompts, align.by_pairs, 1.0)
    assert [warm.packed, warm.by_prompts] == pytest.approx([55, 55 / 3], abs=0.01)


def test_words_name_the_figures_and_the_key(capsys: pytest.CaptureFixture[str]) -> None:
    Path("plan.yaml").write_text(PLAN)
    assert cli.main(["check", "plan.yaml"]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    (align,) = (use for use in advise(plan()).uses if "align" in use.stages)
    assert first == "plan.yaml: a plan of 4 stages"
    at = next(n for n, line in enumerate(lines) if line.startswith("  align, again: "))
    assert lines[at] == (
        f"  align, again: {align.by_pairs:.0f} tokens a pair with shuffle: pairs; 23 with the pairs of a prompt "
        "together, 110 packed without sharing, 110 padded (about, without the chat template's tokens, on 180 pairs)"
    )
    assert lines[at + 1].startswith("  set stages.align.shuffle, stages.again.shuffle to prompts for 2.")
    assert "× fewer tokens" in lines[at + 1]
    assert sum("stages.near" in line for line in lines) == 0


def test_without_a_tokenizer_characters_are_counted() -> None:
    Path("model/tokenizer.json").write_text("{")
    use = advise(plan()).uses[1]
    # 199 characters of a question, 17 of an answer.
    assert use.how == "characters" and use.packed == pytest.approx(2 * 216 / 4, abs=0.01)
    assert use.by_prompts == pytest.approx((199 + 4 * 17) / 3 / 4, abs=0.01)
    Path("model/tokenizer.json").unlink()
    assert advise(plan()).uses[1] == use
    assert "by characters" in use_in_words(use)[0]


def test_one_pair_a_prompt_has_nothing_to_save() -> None:
    Path("quiz.jsonl").write_text(
        "".join(f'{{"prompt": "{n:03d}", "chosen": "a", "rejected": "b"}}\n' for n in range(9))
    )
    use = advise(plan(PLAN.replace("build: multiple_choice, ", ""))).uses[0]
    assert use.several == 0 and use.saves == 1
    (line,) = use_in_words(use)
    assert line.endswith("; no prompt has two pairs, so the order changes none of these")


def test_padding_and_truncation_of_a_tokenizer_file_count_nothing() -> None:
    """A file may hold both, of its last use; transformers sets them at each call."""
    plain = advise(plan()).uses
    known = Tokenizer.from_file("model/tokenizer.json")
    known.enable_padding(length=240)
    known.enable_truncation(max_length=3)
    known.save("model/tokenizer.json")
    assert advise(plan()).uses == plain


def test_a_stage_that_names_an_order_is_a_use_of_its_own() -> None:
    named = PLAN.replace("max_length: 400, beta: 0.3}", "max_length: 400, beta: 0.3, shuffle: pairs}")
    assert {use.stages: use.named for use in advise(plan(named)).uses} == {
        ("warm",): False,
        ("align",): False,
        ("again",): True,
        ("near",): True,
    }


@pytest.mark.parametrize(("sharing", "planned"), [("none", 110), ("prompt", 60)])
def test_a_plan_that_shares_less_is_told_what_sharing_saves(sharing: str, planned: int) -> None:
    """With `prompt` a pair's own prompt is shared, and the prompts of a batch's other pairs where they are the same."""
    found = advise(plan(PLAN.replace("storage: out", f"storage: out, sharing: {sharing}"))).uses
    whole = advise(plan()).uses
    assert [one.if_shared for one in found] == [one.planned for one in whole]
    align = found[1]
    assert align.planned == pytest.approx(planned, rel=0.15) and whole[1].if_shared is None
    said = any("set cluster.sharing to auto for" in line for line in use_in_words(align))
    assert said == (sharing == "none")
    # Nothing is shared, so that the order saves nothing.
    assert (align.saves == 1) == (sharing == "none")


def test_a_stage_trains_on_its_share_of_each_source() -> None:
    shared = PLAN.replace(
        "stages:", "  more: {path: quiz.jsonl, build: multiple_choice, held_out: 0, where: [answer == 0]}\nstages:"
    )
    uses = advise(
        plan(
            shared.replace(
                "data: [quiz], batch: 30, max_length: 400}\n  again",
                "data: {quiz: 0.5, more: 1.0}, batch: 30, max_length: 400}\n  again",
            )
        )
    ).uses
    align = next(use for use in uses if use.stages == ("align",))
    assert 100 < align.pairs < 150 and align.several < 1


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (
            "{path: quiz.jsonl, build: multiple_choice, held_out: 0}",
            "{hub: {name: a/b}}",
            "are not known before its sources are read",
        ),
        ("held_out: 0", "held_out: 0, where: [answer == 9]", "are not known before its sources are read"),
    ],
)
def test_what_cannot_be_counted_is_said_and_is_no_error(
    before: str, after: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("plan.yaml").write_text(PLAN.replace(before, after))
    assert cli.main(["check", "plan.yaml"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) == 3 and all(f"tokens a pair {said}" in line for line in lines)


def test_a_builder_that_takes_other_rows_is_a_problem_of_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    Path("plan.yaml").write_text(PLAN.replace("build: multiple_choice", "build: arithmetic_corruption"))
    assert cli.main(["check", "plan.yaml"]) == 2
    told = capsys.readouterr()
    assert told.out == "" and "build: arithmetic_corruption takes rows of the layout" in told.err


def test_rows_that_fit_a_sample_are_not_counted_as_all() -> None:
    use = TokenUse(
        stages=("a",),
        shuffle="pairs",
        batch=8,
        pairs=1000,
        how="sampled",
        padded=9,
        packed=8,
        by_pairs=7,
        by_prompts=2,
        several=1,
    )
    assert "about, from a sample of 1,000 pairs" in use_in_words(use)[0] and "3.5× fewer" in use_in_words(use)[1]


RUN = """\
name: tiny
model:
  scratch: {tokenizer_from: [quiz], vocab_size: 300, hidden_size: 16, layers: 1, heads: 2, key_value_heads: 1,
            intermediate_size: 32, max_positions: 96}
data:
  quiz: {generate: {kind: arithmetic_quiz, rows: 40, steps: 1, seed: 2}, build: multiple_choice, held_out: 0.2}
stages:
  warm: {kind: sft, data: [quiz], batch: 12, max_length: 96, max_steps: 20, shuffle: pairs}
  align: {kind: dpo, after: warm, data: [quiz], batch: 8, max_length: 96}
  near: {kind: dpo, after: warm, data: [quiz], batch: 8, max_length: 96, shuffle: prompts}
cluster: {storage: out, token_budget: 4096}
"""


@pytest.mark.heavy
def test_a_run_reports_what_its_training_computed_and_warns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("plan.yaml").write_text(RUN)
    assert cli.main(["run", "--here", "plan.yaml"]) == 0
    told = " ".join(capsys.readouterr().err.split())
    report = json.loads(Path("out/runs/tiny/report.json").read_text())
    for use in report["token_use"]:
        (stage,) = use["stages"]
        lines = Path(f"out/runs/tiny/steps/{stage}/metrics.jsonl").read_text().splitlines()
        computed = sum(json.loads(line)["tokens_computed"] for line in lines) / use["pairs"]
        assert use["how"] == "counted"
        assert use["by_prompts" if use["shuffle"] == "prompts" else "by_pairs"] == pytest.approx(computed, abs=0.01)
    assert [use["stages"] for use in report["token_use"]] == [["warm"], ["align"], ["near"]]
    # Of the other two the plan names the order.
    (warning,) = (one for one in report["warnings"] if "several answers a prompt" in one)
    assert warning.startswith("align: ") and "set stages.align.shuffle to prompts for 1." in warning and warning in told
    assert "prompts would save" in Path("out/runs/tiny/report.md").read_text()
    found = advise(plan(RUN))
    assert [use.by_prompts for use in found.uses] == [use["by_prompts"] for use in report["token_use"]]
    assert cli.main(["show", "plan.yaml"]) == 0
    assert "  set stages.align.shuffle to prompts for" in capsys.readouterr().out.split("tokens\n")[-1]
    monkeypatch.setattr(advice, "_STORED", 60)
    _, sampled, _ = advise(plan(RUN)).uses
    assert sampled.how == "sampled" and 60 <= sampled.pairs < 63
    assert sampled.by_prompts == pytest.approx(found.uses[1].by_prompts, rel=0.15)
    # By chance two pairs of a prompt meet in a batch of 8 of some 100, and of a sample they count as of very many.
    assert found.uses[1].by_pairs <= sampled.by_pairs * 1.02 < 1.3 * found.uses[1].by_pairs
