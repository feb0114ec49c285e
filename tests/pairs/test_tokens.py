"""Pairs as tokens: chat templates, the boundary, beginnings and endings, the length policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raised import raises
from ratchet.model.scratch import make_scratch
from ratchet.pairs.chat import ChatTemplate, chat_template_of, template_text
from ratchet.pairs.pair import PreferencePair
from ratchet.pairs.pair_table import pairs_table
from ratchet.pairs.refusals import Refusal, RefusalReason
from ratchet.pairs.render import Rendered, render_pair
from ratchet.pairs.style import find_style
from ratchet.pairs.tokenizer import load_tokenizer
from ratchet.pairs.tokens import Encoded, Policy, fit, split_ids, tokenise
from ratchet.plan.model import ModelSpec
from ratchet.store.files import write_text
from token_pairs import CHATML, LARGE, OPEN, SPEC, SYSTEMLESS, TEXTS, THINKS, TRIMS, pair


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("scratch")
    make_scratch(SPEC, TEXTS, made)
    return made


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return load_tokenizer(folder, None)


def templated(folder: Path, template: str) -> Any:
    loaded = load_tokenizer(folder, None)
    loaded.chat_template = template
    return loaded


def tokens(tokenizer: Any, *pairs: PreferencePair, policy: Policy = LARGE) -> list[dict[str, Any]]:
    table = pairs_table(pairs)
    return list(tokenise(table, tokenizer, find_style(tokenizer), policy).to_pylist())


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40).filter(str.strip)


@settings(deadline=None)
@given(texts, texts, texts)
def test_ids_decode_to_the_texts_with_one_begin_and_one_end(tokenizer: Any, ask: str, good: str, bad: str) -> None:
    (out,) = tokens(tokenizer, pair(ask, good, bad))
    if out["reason"] is not None:
        assert good == bad or "<|" in ask + good + bad
        return
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    whole = tokenizer.decode(out["prompt"] + out["chosen"])
    assert whole == f"<|begin|><|turn|>u\n{ask}<|end|><|turn|>a\n{good}<|end|>"
    assert tokenizer.decode(out["prompt"] + out["rejected"]).endswith(f"<|turn|>a\n{bad}<|end|>")
    assert out["prompt"][0] == begin and out["prompt"].count(begin) == 1
    for side in (out["chosen"], out["rejected"]):
        assert side[-1] == end and side.count(end) == 1 and begin not in side and len(side) > 1


@pytest.mark.parametrize("template", [CHATML, OPEN], ids=["chatml", "open"])
def test_an_ending_is_cut_at_the_end_of_turn_or_made(folder: Path, template: str) -> None:
    """One template writes a newline behind its end of turn; the other writes no end at all, and no BOS."""
    loaded = templated(folder, template)
    (out,) = tokens(loaded, pair())
    text = loaded.decode(out["prompt"] + out["chosen"])
    assert text.endswith("It is 5.<|end|>") and loaded.bos_token_id not in out["prompt"]
    assert out["chosen"].count(loaded.eos_token_id) == 1


def test_a_begin_that_the_tokenizer_adds_is_there_once(stories: Path) -> None:
    bare = "{% for m in messages %}{{ m['content'] + '\n' }}{% endfor %}"
    for template in (bare, template_text("plain")):
        loaded = load_tokenizer(stories, None)
        loaded.chat_template = template
        (out,) = tokens(loaded, pair("Once upon a time", "there was a dog.", "was dog a."))
        assert out["prompt"][0] == 1 and out["prompt"].count(1) == 1
        end = loaded.eos_token_id
        assert out["chosen"][-1] == end and out["chosen"].count(end) == 1


def test_a_boundary_that_moves_goes_to_the_last_common_token(folder: Path) -> None:
    """`assistant: ` and `The` are other tokens than `assistant:` and ` The`."""
    make_scratch(SPEC, ["user: The day assistant: The day The day"] * 50, folder / "spaces")
    loaded = templated(folder / "spaces", OPEN)
    moved, still = tokens(loaded, pair("Hm", "The day", "The"), pair("Hm", "+", "-"))
    assert moved["moved"] and not still["moved"]
    for out, good, bad in ((moved, "The day", "The"), (still, "+", "-")):
        assert loaded.decode(out["prompt"] + out["chosen"]) == f"user: Hm\nassistant: {good}<|end|>"
        assert loaded.decode(out["prompt"] + out["rejected"]) == f"user: Hm\nassistant: {bad}<|end|>"
        assert out["chosen"][0] != out["rejected"][0] or out["moved"]


def test_templates_that_change_texts_are_refused_with_a_reason(folder: Path) -> None:
    thinks, systemless = templated(folder, THINKS), templated(folder, SYSTEMLESS)
    kept, cut, changed = tokens(
        thinks, pair(), pair(chosen="a plan /THINK 5"), pair("first /THINK then", "It is 5.", "It is 6.")
    )
    assert kept["reason"] is None and thinks.decode(kept["chosen"]) == "THINK\nIt is 5.<|end|>"
    assert cut["reason"] == RefusalReason.ANSWER_ALTERED and "a plan" in cut["detail"]
    assert changed["reason"] == RefusalReason.PROMPT_ALTERED
    system, plain = tokens(systemless, pair(system="Be brief."), pair())
    assert system["reason"] == plain["reason"] is None
    assert "<|turn|>user\nBe brief.\n\nWhat is 2 + 3?<|end|>" in systemless.decode(system["prompt"])
    refuses = load_tokenizer(folder, ChatTemplate(SYSTEMLESS, folds=False))
    system, plain = tokens(refuses, pair(system="Be brief."), pair())
    assert system["reason"] == RefusalReason.REFUSED and "System role not supported" in system["detail"]
    assert system["file"] == "data.jsonl" and system["row"] == 7 and system["prompt"] == []
    assert plain["reason"] is None
    (trimmed,) = tokens(templated(folder, TRIMS), pair(chosen="  It is 5.\n"))
    assert trimmed["reason"] is None and thinks.decode(trimmed["chosen"]) == "It is 5.<|end|>"


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (pair(chosen="It is<|end|> 5."), RefusalReason.SPECIAL),
        (pair("What <|begin|>?"), RefusalReason.SPECIAL),
        (pair(chosen="5", rejected="5"), RefusalReason.SAME),
        (pair(chosen="  "), RefusalReason.EMPTY_ANSWER),
    ],
)
def test_pairs_that_cannot_be_used_are_refused(tokenizer: Any, one: PreferencePair, reason: RefusalReason) -> None:
    kept, refused = tokens(tokenizer, pair(), one)
    assert kept["reason"] is None and refused["reason"] == reason


@pytest.mark.parametrize(
    ("template", "code"),
    [
        (None, "model.no-template"),
        ("{{ foo( }}", "model.template-fails"),
        ("{{ raise_exception('never') }}", "model.template-fails"),
        ("{% for m in messages %}{{ m['content'] | upper }}{% endfor %}", "model.template-alters"),
        (CHATML.replace("assistant\n", "assistant\nHm"), "model.template-alters"),
    ],
)
def test_a_template_that_never_works_is_an_error(folder: Path, template: str | None, code: str) -> None:
    with raises(code):
        find_style(templated(folder, template))  # type: ignore[arg-type]


def test_a_missing_template_names_the_shipped_ones(folder: Path) -> None:
    with raises("model.no-template") as caught:
        chat_template_of(ModelSpec(path=str(folder), chat_template="none"))
    assert caught.value.where == "model.chat_template" and "plain" in caught.value.fix
    write_text(folder / "own.jinja", CHATML)
    own = chat_template_of(ModelSpec(path=str(folder), chat_template=str(folder / "own.jinja")))
    assert load_tokenizer(folder, own).chat_template == CHATML


@settings(deadline=None)
@given(st.integers(8, 60), st.integers(1, 40), st.integers(2, 30), st.integers(2, 30), st.booleans())
def test_length_policy_never_cuts_an_answer(
    tokenizer: Any, longest: int, prompt: int, chosen: int, rejected: int, trim: bool
) -> None:
    style = find_style(tokenizer)
    whole = Encoded([1, *range(10, 10 + prompt)], [5] * (chosen - 1) + [3], [6] * (rejected - 1) + [3])
    out = fit(whole, style, Policy(longest, "trim_prompt" if trim else "drop"))
    answer, total = max(chosen, rejected), 1 + prompt + max(chosen, rejected)
    if total <= longest:
        assert out == whole
    elif answer > longest - 2:
        assert isinstance(out, Refusal) and out.reason == RefusalReason.ANSWER_TOO_LONG
    elif not trim:
        assert isinstance(out, Refusal) and out.reason == RefusalReason.TOO_LONG
    else:
        assert isinstance(out, Encoded) and out.trimmed
        assert (out.chosen, out.rejected) == (whole.chosen, whole.rejected)
        assert len(out.prompt) + answer == longest
        assert out.prompt[0] == 1 and out.prompt[1:] == whole.prompt[1 - len(out.prompt) :]


def test_divide_refuses_what_is_not_one_whole(tokenizer: Any) -> None:
    style = find_style(tokenizer)
    assert isinstance(split_ids(style, [1, 8], [1, 8, 9, 3], [1, 8, 9, 9, 3]), Encoded)
    for prompt, chosen, reason in (
        ([1, 8], [1, 8, 3, 9, 3], RefusalReason.END),
        ([1, 8], [1, 8, 9], RefusalReason.END),
        ([1, 8], [1, 8, 3], RefusalReason.EMPTY_ANSWER),
        ([1, 8], [1, 9, 9, 3], RefusalReason.EMPTY_PROMPT),
        ([1, 1, 8], [1, 1, 8, 9, 3], RefusalReason.BOS),
    ):
        out = split_ids(style, prompt, chosen, None)
        assert isinstance(out, Refusal) and out.reason == reason


def test_edit_distance_is_that_of_the_tokens(tokenizer: Any) -> None:
    (out, lone) = tokens(tokenizer, pair(chosen="1 + 2 = 3", rejected="1 + 7 = 30"), pair(rejected=None))
    a, b = out["chosen"], out["rejected"]
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    table[:, 0], table[0] = range(len(a) + 1), range(len(b) + 1)
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            change = table[i - 1, j - 1] + (a[i - 1] != b[j - 1])
            table[i, j] = min(change, table[i - 1, j] + 1, table[i, j - 1] + 1)
    assert out["edit_distance"] == pytest.approx(table[-1, -1] / max(len(a), len(b)))
    assert lone["rejected"] == [] and np.isnan(lone["edit_distance"])


def test_render_gives_texts_without_a_token(tokenizer: Any) -> None:
    out = render_pair(tokenizer, find_style(tokenizer), pair("Hi", "Yes", None))
    assert out == Rendered("<|begin|><|turn|>u\nHi<|end|><|turn|>a\n", f"{out.prompt}Yes<|end|>", None)  # type: ignore[union-attr]
