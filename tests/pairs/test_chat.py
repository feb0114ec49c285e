"""What a chat template reads decides tokens and requests: it is in what they are known by, on every day alike."""

from __future__ import annotations

import datetime
import pickle
from pathlib import Path
from typing import Any

import pytest
from transformers.utils import chat_template_utils

from harness_example import SPEC
from raised import raises
from ratchet.commands.evaluate import rendered
from ratchet.errors import PlanError
from ratchet.evaluate.bench import Bench, Candidates
from ratchet.evaluate.engines.local import LocalEngine, prompt_ids
from ratchet.evaluate.harness.asking import Encoder
from ratchet.evaluate.judges.kinds import judge_identity
from ratchet.model.scratch import make_scratch
from ratchet.pairs.chat import ChatTemplate, StandingClock, chat_template_of, handed_of, reads, template_identity
from ratchet.pairs.pair import Turn
from ratchet.pairs.pair_table import pairs_table
from ratchet.pairs.render import Rendered, render_pair
from ratchet.pairs.style import apply_template, find_style
from ratchet.pairs.token_flow import tokens_identity
from ratchet.pairs.tokenizer import load_tokenizer
from ratchet.pairs.tokens import Policy, tokenise
from ratchet.pipeline.prepare import base_model
from ratchet.plan.cluster import Cluster
from ratchet.plan.model import DAY, ModelSpec
from ratchet.plan.tasks import MtBench
from ratchet.reference.models import model_of
from ratchet.serving.requests import ChatRequest
from ratchet.store.fingerprint import fingerprint
from ratchet.store.layout import Layout
from ratchet.track.progress import Console
from tests.pipeline.test_identity import run_of
from token_pairs import CHATML, TEXTS, pair

TURNS = (Turn("user", "How are you today?"),)
BODY = CHATML
# how the families write the day: with a function, with an argument that stands before it, from within a macro
DATED = {
    "mistral small": "{%- set today = strftime_now('%Y-%m-%d') %}{{ 'Today is ' + today + '\n' }}" + BODY,
    "granite": "{{ \"Today's Date: \" + strftime_now('%B %d, %Y') + '.\n' }}" + BODY,
    "llama": "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = '26 Jul 2024' %}"
    "{%- endif %}{%- endif %}{{ 'Today Date: ' + date_string + '\n' }}" + BODY,
    "gpt-oss": "{%- macro head() %}{{ 'Current date: ' + strftime_now('%Y-%m-%d') + '\n' }}{% endmacro %}{{ head() }}"
    + BODY,
}  # fmt: skip
THINKS = (
    BODY + "{% if add_generation_prompt and enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "model"
    make_scratch(SPEC, TEXTS, out)
    return out


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set the clock that transformers reads."""

    def to(day: int) -> None:
        class Then(datetime.datetime):
            @classmethod
            def now(cls, tz: datetime.tzinfo | None = None) -> Any:
                return cls(2026, 12, day)

        monkeypatch.setattr(chat_template_utils, "datetime", Then)

    return to


def text_of(tokenizer: Any) -> str:
    return apply_template(tokenizer, find_style(tokenizer), TURNS)


def known(folder: Path, chat_template: ChatTemplate | None) -> str:
    return fingerprint(tokens_identity("pairs", folder, Policy(512, "drop"), chat_template))


@pytest.mark.parametrize("family", DATED)
def test_two_days_give_the_same_tokens_requests_and_fingerprints(family: str, folder: Path, on: Any) -> None:
    said = ChatTemplate(DATED[family])
    found = []
    for day in (1, 2):
        on(day)
        tokenizer = load_tokenizer(folder, said)
        made = tokenise(pairs_table([pair()]), tokenizer, find_style(tokenizer), Policy(512, "drop"))
        harness = Encoder(tokenizer, 96, special=None).apply_chat_template([{"role": "user", "content": "Hi"}])
        engine = LocalEngine(folder, "float32", "cpu", chat_template=said)
        asked = prompt_ids(engine.tokenizer, ChatRequest(TURNS))
        found.append((made["prompt"].to_pylist(), asked, harness, text_of(tokenizer), known(folder, said)))
    assert found[0] == found[1]
    assert any(form in found[0][3] for form in ("2024-07-26", "July 26, 2024", "26 Jul 2024"))


@pytest.mark.parametrize("family", DATED)
def test_another_day_is_another_text_under_another_fingerprint(family: str, folder: Path) -> None:
    first, other = (ChatTemplate(DATED[family], day=day) for day in (DAY, "2026-11-30"))
    texts = {text_of(load_tokenizer(folder, one)) for one in (first, other)}
    assert len(texts) == 2 and any("30" in text and "2026" in text for text in texts)
    assert known(folder, first) != known(folder, other)


def test_the_day_is_no_part_of_what_does_not_read_it(folder: Path) -> None:
    assert known(folder, ChatTemplate(BODY, day="2026-11-30")) == known(folder, ChatTemplate(BODY))
    assert handed_of(load_tokenizer(folder, ChatTemplate(BODY))) == {}
    assert handed_of(load_tokenizer(folder, ChatTemplate(DATED["granite"]))) == {"date": DAY}


def test_arguments_reach_the_template_and_the_fingerprint(folder: Path) -> None:
    specs = [{}, {"enable_thinking": False}, {"enable_thinking": True}]
    said = [chat_template_of(ModelSpec.model_validate({"path": "m", "template_arguments": one})) for one in specs]
    said = [ChatTemplate(THINKS, one.arguments, one.day) for one in said]
    texts = [text_of(load_tokenizer(folder, one)) for one in said]
    assert texts[1].endswith("<think>\n\n</think>\n\n") and texts[0] == texts[2] != texts[1]
    assert len({known(folder, one) for one in said}) == 3
    dated = ChatTemplate(DATED["llama"], (("date_string", '"1 May 2025"'),))
    assert "1 May 2025" in text_of(load_tokenizer(folder, dated))


def test_an_empty_thought_that_the_template_writes_is_the_prompt_s(folder: Path) -> None:
    """Qwen3's manner: the last answer always has a thought, and the prompt has one where thinking is off."""
    thought = "<think>\n\n</think>\n\n"
    template = (
        "{% for m in messages %}{{ '<|turn|>' + m['role'] + '\n' }}"
        "{% if m['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
        "{{ m['content'] + '<|end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|turn|>assistant\n' }}"
        "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
        "{% endif %}"
    )
    for arguments in ((), (("enable_thinking", "false"),)):
        tokenizer = load_tokenizer(folder, ChatTemplate(template, arguments))
        style = find_style(tokenizer)
        made = render_pair(tokenizer, style, pair(TURNS[0].content, "Fine, thank you.", "Go away."))
        assert isinstance(made, Rendered)
        assert made.prompt.endswith(thought) and made.prompt.count(thought) == 1
        assert made.chosen.removeprefix(made.prompt) == "Fine, thank you.<|end|>"


def test_true_and_one_are_two_arguments(folder: Path) -> None:
    template = "{{ level }}" + BODY
    said = [
        ChatTemplate(template, chat_template_of(ModelSpec(path="m", template_arguments={"level": value})).arguments)
        for value in (True, 1, "1")
    ]
    assert len(set(said)) == 3 and len({known(folder, one) for one in said}) == 3
    assert text_of(load_tokenizer(folder, said[0])).startswith("True")


@pytest.mark.parametrize("name", ["enable_thinkng", "messages", "add_generation_prompt", "tokenize", "strftime_now"])
def test_an_argument_that_the_template_never_reads_is_refused(folder: Path, name: str) -> None:
    with raises("model.template-argument") as raised:
        load_tokenizer(folder, ChatTemplate(THINKS, ((name, "false"),)))
    assert raised.value.where == "model.template_arguments"
    assert f"{name}; it reads enable_thinking" in raised.value.what


@pytest.mark.parametrize("drawn", ["{{ ['a', 'b'] | random }}", "{{ lipsum(1) }}"])
def test_a_template_that_draws_at_random_is_refused(folder: Path, drawn: str) -> None:
    with raises("model.template-random"):
        find_style(load_tokenizer(folder, ChatTemplate(drawn + BODY)))


def test_what_a_template_reads_is_found_in_every_part_of_it() -> None:
    assert reads(DATED["llama"]).names == {"date_string", "messages", "add_generation_prompt"}
    assert all(reads(text).clock for text in DATED.values()) and not reads(BODY).clock
    answers = (
        "{% for m in messages %}{% generation %}{{ m.content }}{{ own }}{% endgeneration %}{% break %}{% endfor %}"
    )
    assert reads(answers).names == {"messages", "own"}
    assert reads("{% if %}").names == frozenset() and reads("{% if strftime_now %}{% wrong").clock


def test_the_clock_is_the_same_in_every_process() -> None:
    clock = pickle.loads(pickle.dumps(StandingClock("2026-11-30")))  # noqa: S301  made here
    assert clock("%d %b %Y %H:%M") == "30 Nov 2026 00:00"


@pytest.mark.parametrize("spec", [{"date": "2026-11-30"}, {"template_arguments": {"date_string": "today"}}])
def test_journals_judges_and_results_know_what_a_template_was_handed(
    folder: Path, tmp_path: Path, spec: dict[str, Any]
) -> None:
    (tmp_path / "dated.jinja").write_text(DATED["llama"])
    plain, other = (
        ModelSpec.model_validate({"path": str(folder), "chat_template": str(tmp_path / "dated.jinja"), **more})
        for more in ({}, spec)
    )
    found = []
    for one in (plain, other):
        bench = Bench(Layout(tmp_path), Cluster(), Console(), chat_template_of(one), 1)
        with Candidates(bench, model_of("m", one, folder)) as candidates:
            found.append(candidates.identity("trainer"))
    assert fingerprint(found[0]) != fingerprint(found[1])
    judged = [
        MtBench.model_validate(
            {"kind": "mt_bench", "questions": {"path": "eval/sets/short-chat"}, "references": "authors",
             "judge": {"kind": "model", "model": one.model_dump(exclude_unset=True)}}
        )
        for one in (plain, other)
    ]  # fmt: skip
    first, second = (judge_identity(task.judge, gpu=False)["model"] for task in judged)
    assert first != second and first["date"] == DAY


def test_a_run_says_which_day_its_template_is_given(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "dated.jinja").write_text(DATED["granite"])
    stages = {"align": {"kind": "dpo", "data": ["a"], "max_length": 64}}
    model = {"path": str(folder), "chat_template": str(tmp_path / "dated.jinja")}
    for more, lines in (({}, 1), ({"date": "2026-11-30"}, 0)):
        run = run_of(model | more, stages, tmp_path)
        run.chat_template = chat_template_of(run.plan.model)
        base_model(run)
        assert len(run.warnings) == lines
        assert all(DAY in line and "model.date" in line for line in run.warnings)


@pytest.mark.parametrize("day", ["2026-02-30", "today", "26-11-30"])
def test_a_date_that_is_no_day_is_refused(day: str) -> None:
    with raises("plan") as caught:
        rendered(ModelSpec(path="m"), [], day, None)
    assert caught.value.what.startswith("--date: ") and day in caught.value.what


def test_the_command_says_in_its_own_words_which_option_is_wrong() -> None:
    with raises("plan") as caught:
        rendered(ModelSpec(path="m", chat_template="plain"), ["1a=2"], None, "rag")
    named = [line.partition(": ")[0] for line in caught.value.what.splitlines()]
    assert set(named) == {"--template-argument", "--named-template"} and "Value error" not in caught.value.what
    with raises("plan") as caught:
        rendered(ModelSpec(path="m", chat_template="plain"), [], None, "rag")
    assert caught.value.what.startswith("--named-template: chooses among the model's own")


def test_the_command_takes_arguments_and_a_day() -> None:
    spec = rendered(ModelSpec(path="m"), ["enable_thinking=false", "level=low"], "2026-11-30", "rag")
    assert spec.template_arguments == {"enable_thinking": False, "level": "low"} and spec.date == "2026-11-30"
    assert spec.named_template == "rag"
    assert rendered(ModelSpec(path="m"), [], None, None) == ModelSpec(path="m")
    for words in ("enable_thinking", "a=[1]", "1a=2"):
        with pytest.raises(PlanError):
            rendered(ModelSpec(path="m"), [words], None, None)


def test_an_identity_is_of_what_is_rendered_and_of_nothing_else(folder: Path) -> None:
    tokenizer = load_tokenizer(folder, ChatTemplate(THINKS, (("enable_thinking", "false"),)))
    assert template_identity(tokenizer) == {"template": THINKS, "arguments": {"enable_thinking": False}}
