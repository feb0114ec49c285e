"""Paths that name nothing here: told with line, key and what was meant, all at once, by every command, before Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ratchet import cli
from ratchet.errors import PlanError
from ratchet.pipeline.paths import path_problems
from ratchet.plan.load import load_plan, load_suite
from ratchet.plan.naming import NAMING, WRITTEN
from ratchet.plan.reading import parse
from ratchet.plan.schema import Plan
from ratchet.store.layout import layout_at
from ratchet.tune.definition import open_sweep
from tests.conftest import ROOT

PLAN = """\
name: mine
model: {path: tiny-sft, chat_template: mine.jinja}
data:
  prefs: {path: prefs.jsonl}
stages:
  align: {kind: dpo, data: [prefs], max_length: 128}
evaluate: [suites/quick.yaml]
cluster: {storage: out}
"""
SUITE = "tasks:\n  story: {kind: perplexity, rows: {path: sets/story.txt}}\n"
SCRATCH = """\
name: mine
model: {scratch: {tokenizer_from: [prefs], vocab_size: 300, hidden_size: 16, layers: 1, heads: 2, key_value_heads: 1}}
data: {prefs: {path: prefs.jsonl}}
stages: {align: {kind: dpo, data: [prefs], max_length: 64}}
cluster: {storage: out}
"""
SPACE = "name: beta\nkeys: {stages.align.beta: {grid: [0.1, 0.3]}}\nobjectives: {align/heldout/accuracy: max}\n"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("tiny-sft", "suites/sets", "data"):
        Path(name).mkdir(parents=True)
    for name, text in {
        "plan.yaml": PLAN,
        "suites/quick.yaml": SUITE,
        "suites/sets/story.txt": "Once.",
        "prefs.jsonl": '{"prompt": "p", "chosen": "c", "rejected": "r"}\n',
        "data/a.jsonl": "{}\n",
        "data/b.csv": "x\n",
        "mine.jinja": "{{ messages }}",
        "tiny-sft/config.json": '{"max_position_embeddings": 256}',
    }.items():
        Path(name).write_text(text)


def problems(text: str) -> list[str]:
    return [str(one) for one in path_problems(parse(text, "plan.yaml"), Plan)]


def test_a_right_plan_has_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "plan.yaml", "suites/quick.yaml"]) == 0
    assert capsys.readouterr().err == ""


def test_all_are_told_at_once_with_line_key_and_what_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = PLAN.replace("prefs.jsonl", "pref.jsonl").replace("tiny-sft", "tiny-stf").replace("mine.j", "mien.j")
    Path("plan.yaml").write_text(wrong.replace("beta", "bta"))
    Path("suites/quick.yaml").write_text(SUITE.replace("story.txt", "stroy.txt"))
    said = [
        "plan.yaml:2: model.chat_template: no such file; did you mean mine.jinja?; it is a Jinja file, or one of "
        "plain, scratch",
        "plan.yaml:2: model.path: no such folder; did you mean tiny-sft?",
        "plan.yaml:4: data.prefs.path: no such file or folder; did you mean prefs.jsonl?",
        "suites/quick.yaml:2: tasks.story.rows.path: no such file; did you mean suites/sets/story.txt?",
    ]
    for command in (["check"], ["run"], ["show"], ["score"], ["submit", "--address", "http://127.0.0.1:1"]):
        assert cli.main([command[0], "plan.yaml", *command[1:]]) == 2
        assert sorted(capsys.readouterr().err.removeprefix("error: ").splitlines()) == said
    Path("space.yaml").write_text(SPACE)
    with pytest.raises(PlanError) as raised:
        open_sweep(Path("plan.yaml"), Path("space.yaml"))
    assert sorted(raised.value.what.splitlines()) == said


def with_path(path: object) -> str:
    return PLAN.replace("prefs: {path: prefs.jsonl}", f"prefs: {{path: {json.dumps(path)}}}")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("dta/a.jsonl", "no such file or folder; did you mean data/a.jsonl?"),
        ("nothing/like/it", "no such file or folder; relative paths count from {here}"),
        ("/nothing/like/it", "no such file or folder"),
        ("*.parquet", "no file matches; relative paths count from {here}"),
        ("$HERE/prefs.jsonl", "variables are not filled in; write the path out; did you mean {here}/prefs.jsonl?"),
        ("~/pref.jsonl", "no such file or folder; did you mean {here}/prefs.jsonl?"),
        ("data\\a.jsonl", "is a path as Windows writes it: write it with /, as this machine sees it; did you mean da"),
        ("C:\\x.jsonl", "is a path as Windows writes it"),
        (
            "data",
            "and its files name no split: a.jsonl, b.csv: give the files themselves, for example path: {here}/data/a",
        ),
        ("plan.yaml", "not a kind of file that can be read: use one of .jsonl"),
        ("x" * 300, "cannot be looked for: File name too long"),
    ],
)
def test_what_is_wrong_with_a_source(path: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    (found,) = problems(with_path(path))
    assert found.startswith("plan.yaml:4: data.prefs.path: ")
    assert said.format(here=tmp_path) in found


def test_of_a_list_each_is_told_and_what_is_there_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert problems(with_path(["prefs.jsonl", "*.jsonl", "~/prefs.jsonl", f"file://{tmp_path}/prefs.jsonl"])) == []
    (found,) = problems(with_path(["prefs.jsonl", f"file://{tmp_path}/gone.jsonl"]))
    assert found.startswith("plan.yaml:4: data.prefs.path[1]: no such file or folder")
    found = problems(with_path(["prefs.jsonl", "gone-a", "gone-b"]))
    assert [one.partition(": no such")[0] for one in found] == [
        "plan.yaml:4: data.prefs.path[1]",
        "plan.yaml:4: data.prefs.path[2]",
    ]


def test_what_is_wrong_with_a_model() -> None:
    Path("empty").mkdir()
    Path("lora").mkdir()
    Path("lora/adapter_config.json").write_text("{}")
    for path, said in {
        "empty": "the folder has no config.json",
        "lora": "is an adapter (LoRA) and no model",
        "prefs.jsonl": "must be a folder, and prefs.jsonl is a file",
    }.items():
        (found,) = problems(PLAN.replace("tiny-sft", path))
        assert f"plan.yaml:2: model.path: {said}" in found
    other = "  align: {kind: dpo, data: [prefs], max_length: 128, reference: {path: tiny-stf}}\n"
    (found,) = problems(PLAN.replace("  align: {kind: dpo, data: [prefs], max_length: 128}\n", other))
    assert found == "plan.yaml:6: stages.align.reference.path: no such folder; did you mean tiny-sft?"


@pytest.mark.parametrize("where", ["path", "hub"])
def test_a_length_beyond_the_models_positions(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = PLAN.replace("max_length: 128", "max_length: 257")
    if where == "hub":
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        home = tmp_path / "hf/hub/models--us--tiny"
        (home / "snapshots/c0ffee").mkdir(parents=True)
        (home / "refs").mkdir()
        (home / "refs/main").write_text("c0ffee")
        (home / "snapshots/c0ffee/config.json").write_text('{"text_config": {"max_position_embeddings": 256}}')
        text = text.replace("path: tiny-sft", "name: us/tiny")
    more = "is more than the 256 positions of the model: set it to 256 or less"
    assert problems(text) == [f"plan.yaml:6: stages.align.max_length: 257 {more}"]
    assert problems(text.replace("257", "256")) == []
    default = text.replace(", max_length: 257", "")
    assert problems(default) == [f"plan.yaml:6: stages.align.max_length: 1024, the default, {more}"]
    assert problems(default.replace("us/tiny", "us/other").replace("tiny-sft", "gone"))[1:] == []


@pytest.mark.parametrize(
    ("storage", "said"),
    [
        ("prefs.jsonl", "it is a file, and what is kept needs a folder"),
        ("prefs.jsonl/below", "prefs.jsonl is a file, and what is kept needs a folder"),
        ("/proc/ratchet", "is a place of the system, where nothing can be kept"),
        ("$HOME/out", "variables are not filled in"),
    ],
)
def test_what_is_wrong_with_the_storage(storage: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "plan.yaml", "--set", f"cluster.storage={storage}"]) == 2
    found = capsys.readouterr().err
    assert found.startswith("error: --set cluster.storage: ") and said in found


def test_a_home_is_filled_in_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Path("plan.yaml").write_text(PLAN.replace("storage: out", "storage: ~/out"))
    plan = load_plan(Path("plan.yaml"), [], path_problems)
    assert layout_at(plan.cluster.storage, environment={}).root == tmp_path / "out"


def test_a_suite_counts_from_its_file_and_what_is_set_from_here(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("other.txt").write_text("Twice.")

    def read(name: str, *overrides: str) -> str:
        suite = load_suite(Path(name), overrides, path_problems)
        return str(suite.model_dump()["tasks"]["story"]["rows"]["path"])

    assert read("suites/quick.yaml") == "suites/sets/story.txt"
    assert read("suites/quick.yaml", "tasks.story.rows.path=other.txt") == "other.txt"
    monkeypatch.chdir("suites")
    assert read("quick.yaml") == "sets/story.txt"


def test_the_shipped_suites_find_their_files_from_anywhere() -> None:
    for path in sorted((ROOT / "eval").glob("*.yaml")):
        assert load_suite(path, [], path_problems).tasks


def test_a_sweep_looks_at_the_paths_that_vary() -> None:
    space = "name: by\nkeys: {data.prefs.path: {grid: [prefs.jsonl, pref.jsonl]}}\n"
    Path("space.yaml").write_text(space + "objectives: {align/heldout/accuracy: max}\n")
    with pytest.raises(PlanError, match=r"^space.yaml:2: keys.data.prefs.path: no such .* did you mean prefs.jsonl"):
        open_sweep(Path("plan.yaml"), Path("space.yaml"))


def test_every_key_that_names_something_is_looked_at() -> None:
    from ratchet.pipeline.paths import _LOOKS

    named = {(part, key) for table in (NAMING, WRITTEN) for part, keys in table.items() for key in keys}
    assert named == _LOOKS.keys()


@pytest.mark.heavy
def test_checking_paths_brings_no_heavy_library() -> None:
    code = (
        "import sys; from pathlib import Path; from ratchet.plan.load import load_file;"
        "from ratchet.pipeline.paths import path_problems; load_file(Path('plan.yaml'), (), path_problems);"
        "sys.exit(str({'torch', 'ray', 'transformers', 'numpy', 'pyarrow', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)
    assert done.stderr.strip() == "set()", done.stderr


def test_what_is_no_plain_file_or_folder_is_told_as_such() -> None:
    os.mkfifo("pipe.jsonl")
    Path("empty.jsonl").touch()
    Path("lost").symlink_to("nowhere")
    Path("round").symlink_to("round")
    for path, said in {
        "pipe.jsonl": "is a device or a pipe, and must be a plain file, which can be read again",
        "empty.jsonl": "empty.jsonl is empty: take it out, or fill it",
        "lost": "is a link that leads nowhere: to nowhere",
    }.items():
        assert problems(PLAN.replace("prefs.jsonl", path)) == [f"plan.yaml:4: data.prefs.path: {said}"]
    assert problems(PLAN.replace("tiny-sft", "lost"))[0] == (
        "plan.yaml:2: model.path: is a link that leads nowhere: to nowhere"
    )
    for storage, said in {
        "lost": "is a link that leads nowhere: to nowhere",
        "round": "is a link that leads nowhere: to round",
        "lost/x": f"{Path.cwd() / 'lost'} is a link that leads nowhere: to nowhere",
    }.items():
        assert problems(PLAN.replace("storage: out", f"storage: {storage}")) == [
            f"plan.yaml:8: cluster.storage: {said}"
        ]


def test_a_url_with_one_slash_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "plan.yaml", "--set", "data.prefs.path=s3:/bucket/x"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("--set data.prefs.path: s3:/bucket/x: a URL has two slashes, as in s3://")


def test_evaluate_tells_all_wrong_paths_of_its_command_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "./tiny-stf", "prefs.jsonl", "x=tiny-sft", "suites/quick.yaml"]
    wrong = ["--storage", "$HOME/out", "--chat-template", "mien.jinja"]
    assert cli.main([*words, *wrong]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: --storage: no such file: variables are not filled in; write the path out",
        "--chat-template: no such file; did you mean mine.jinja?; it is a Jinja file, or one of plain, scratch",
        "./tiny-stf: no such folder; did you mean tiny-sft?",
        "prefs.jsonl: must be a folder, and prefs.jsonl is a file",
    ]


@pytest.mark.parametrize("command", ["run", "score"])
def test_what_the_first_rows_and_the_models_folder_tell_is_told_before_ray_starts(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # nobody answers there: to come so far is status 69
    said = [command, "plan.yaml", "--set", "evaluate=[]", "--set", "model.chat_template=null"]
    assert cli.main(said) == 4
    assert "tiny-sft: it has no weights" in capsys.readouterr().err
    Path("plan.yaml").write_text(SCRATCH)
    Path("prefs.jsonl").write_text("prompt;chosen;rejected\n")
    assert cli.main(said[:2]) == 3
    assert "prefs.jsonl: none of the 1 rows looked at can be read" in capsys.readouterr().err
    Path("prefs.jsonl").write_text(json.dumps({"prompt": "a?", "chosen": "b", "rejected": "c"}))
    assert cli.main(said[:2]) == 69
