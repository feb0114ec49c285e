"""Secrets never leave: names, known values, shapes; and nothing is asked of a cluster before all is checked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from job_server import JobServer, job_server
from raised import raises
from ratchet import redact
from ratchet.cli import main
from ratchet.pipeline.paths import key_variables
from ratchet.pipeline.session import worker_environment
from ratchet.plan.cluster import Cluster
from ratchet.plan.load import load_plan
from ratchet.redact import looks_secret, shapes_in
from ratchet.submit.files import StagedFile
from ratchet.submit.job import job_runtime_env, variables
from ratchet.submit.secrets import known_secrets, refuse_secrets

CANARY = "canary-5f2c9b1e77"
PLAN = """\
name: small
model: {scratch: {tokenizer_from: [sums], max_positions: 1024}}
data: {sums: {generate: {kind: arithmetic}}}
stages: {warm: {kind: sft, data: [sums]}}
evaluate: [suite.yaml]
cluster: {storage: /mnt/store}
"""
SUITE = """\
tasks:
  mine:
    kind: mt_bench
    questions: {hub: owner/mt}
    judge: {kind: endpoint, base_url: 'https://judge.example/v1', model: j, key_variable: MY_JUDGE}
"""


@pytest.fixture
def server() -> Iterator[JobServer]:
    with job_server() as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "plan.yaml").write_text(PLAN)
    (tmp_path / "suite.yaml").write_text(SUITE)
    return tmp_path


SECRETS = """\
HF_TOKEN WANDB_API_KEY RAY_AUTH_TOKEN AWS_SECRET_ACCESS_KEY db_password GITHUB_TOKEN OPENAI_APIKEY MYSECRET
HUGGINGFACEHUB_API_TOKEN PROXY_AUTHORIZATION SSH_PASSPHRASE GOOGLE_APPLICATION_CREDENTIALS"""


@pytest.mark.parametrize("name", SECRETS.split())
def test_names_of_secrets_are_known(name: str) -> None:
    assert looks_secret(name)
    with raises("plan.secret") as caught:
        variables([f"{name}={CANARY}"], Cluster(), 120)
    assert caught.value.where == f"--env {name}"
    assert CANARY not in str(caught.value)
    assert "secretKeyRef" in caught.value.fix


@pytest.mark.parametrize("seconds", [0, -5])
def test_a_stop_has_some_time(seconds: int) -> None:
    with raises("plan.job-setting"):
        variables([], Cluster(), seconds)
    assert variables([], Cluster(), 1) == {"RAY_JOB_STOP_WAIT_TIME_S": "1"}


@pytest.mark.parametrize("name", ["HF_HOME", "TOKENIZERS_PARALLELISM", "MAX_TOKENS", "NCCL_DEBUG", "MONKEYS", "PATH"])
def test_other_names_are_not(name: str) -> None:
    assert not looks_secret(name)


@given(st.sampled_from(["plan.yaml", "rows.jsonl", "the command", "--env A"]), st.binary(max_size=20))
def test_a_known_secret_is_found_wherever_it_stands(place: str, around: bytes) -> None:
    files = [StagedFile("plan.yaml", b"name: x"), StagedFile("rows.jsonl", b"\xff{}")]
    texts = {"the command": "run", "--env A": "b"}
    refuse_secrets(texts, files, {"HF_TOKEN": CANARY})
    if place in texts:
        texts[place] += around.decode(errors="replace") + CANARY
    files = [
        StagedFile(file.name, file.content + around + CANARY.encode()) if file.name == place else file for file in files
    ]
    with raises("plan.secret") as caught:
        refuse_secrets(texts, files, {"HF_TOKEN": CANARY})
    assert place in caught.value.what and "HF_TOKEN" in caught.value.what
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("data.sums.path=https://me:hunter22@host/x", "a URL with a name or password"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "a private key"),
        ("hf_" + "a1B2" * 8, "a token of Hugging Face"),
        ("sk-proj-" + "a1B2" * 8, "a key of an API"),
        ("AKIA" + "ABCD" * 4, "a key of AWS"),
        ("ghp_" + "a1B2" * 9, "a token of GitHub"),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.c2ln", "a JSON web token"),
    ],
)
def test_what_looks_like_a_secret_is_refused_in_texts_and_yaml_and_not_in_rows(text: str, what: str) -> None:
    refuse_secrets({}, [StagedFile("rows.jsonl", text.encode())], {})
    for texts, files in (({"--env A": text}, []), ({}, [StagedFile("plan.yaml", text.encode())])):
        with raises("plan.secret") as caught:
            refuse_secrets(texts, files, {})
        assert what in caught.value.what
        assert text not in str(caught.value)


def test_plain_texts_pass() -> None:
    plain = "judge.base_url=https://host:8000/v1 s3://bucket/a@b task-sk-1 http://[::1]:80/"
    assert shapes_in(plain) == []
    refuse_secrets({"--set": plain}, [StagedFile("plan.yaml", plain.encode())], {})  # raises nothing
    with raises("plan.secret"):
        refuse_secrets({"--set": plain}, [], {"HF_TOKEN": "bucket/a@b"})


def test_secrets_are_known_from_variables_files_and_judges(folder: Path) -> None:
    (folder / "token").write_text("of-a-file-7f3a\n")
    (folder / ".ray").mkdir()
    (folder / ".ray" / "auth_token").write_text("of-ray-itself-81c\n")
    environment = {
        "HF_TOKEN": CANARY, "RAY_AUTH_TOKEN_PATH": str(folder / "token"), "RAY_AUTH_MODE": "token",
        "MY_JUDGE": "of-a-judge-22", "RAY_JOB_HEADERS": '{"X": "header-91"}', "HOME": str(folder), "SHORT_KEY": "abc",
    }  # fmt: skip
    found = known_secrets(environment, [one.text for one in key_variables(load_plan(Path("plan.yaml")))])
    assert set(found.values()) == {CANARY, "of-a-file-7f3a", "of-ray-itself-81c", "of-a-judge-22", '{"X": "header-91"}'}


KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("path", "text", "secrets"),
    [
        (".netrc", f"machine api.wandb.ai\n  login user\n  password {KEY}\n", {KEY}),
        (".netrc", f"default login me password first-pw-17 machine b login c password '{KEY}'", {KEY, "first-pw-17"}),
        (".git-credentials", "https://me:pass%40word-91@git.example\n", {"pass@word-91"}),
        (".cache/huggingface/token", "hf_abcdefghijklmnop12\n", {"hf_abcdefghijklmnop12"}),
        (".cache/huggingface/stored_tokens", "[mine]\nhf_token = hf_abcdefghijklmnop34\n", {"hf_abcdefghijklmnop34"}),
        (".config/wandb/settings", f"[default]\nentity = team\napi_key: {KEY}\n", {KEY}),
        (".config/wandb/credentials.json", f'{{"credentials": {{"u": {{"access_token": "{KEY}"}}}}}}', {KEY}),
        (".aws/credentials", "[default]\naws_secret_access_key=abc/def+0123456789\n", {"abc/def+0123456789"}),
    ],
)
def test_secrets_are_known_from_the_files_of_other_tools(folder: Path, path: str, text: str, secrets: set[str]) -> None:
    place = folder / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)
    assert set(known_secrets({}).values()) == secrets
    for secret in secrets:
        with raises("plan.secret") as caught:
            refuse_secrets({}, [StagedFile("rows.jsonl", f'{{"prompt": "{secret}"}}'.encode())], known_secrets({}))
        assert path in caught.value.what
        assert secret not in redact.values(f"said {secret} twice"), "redaction knows it too"


def test_variables_of_a_job_are_few_and_never_collide_with_those_of_a_run() -> None:
    assert variables(["HF_HOME=/mnt/hf", "A=b=c"], Cluster(), 90) == {
        "RAY_JOB_STOP_WAIT_TIME_S": "90",
        "HF_HOME": "/mnt/hf",
        "A": "b=c",
    }
    for cluster in (Cluster(), Cluster(gpus_per_worker=1)):
        for name in worker_environment(cluster):
            with raises("plan.job-setting"):
                variables([f"{name}=1"], cluster, 90)
    for setting in ("A", "=b", "A B=c", "RAY_JOB_STOP_WAIT_TIME_S=3"):
        with raises("plan.job-setting"):
            variables([setting], Cluster(), 90)
    assert set(job_runtime_env("a.zip", None, {})) == {"working_dir", "env_vars"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "cluster.storage=outputs"], "cluster.storage: outputs would lie in the job's own copy"),
        (["--set", "cluster.ray.address=10.0.0.1:6379"], "cluster.ray.address: a job runs on the Ray"),
        (["--set", "stages.warm.bach=3"], "did you mean stages.warm.batch?"),
        (["--set", f"track.wandb.project={CANARY}"], "the command: holds the value of HF_TOKEN"),
        (["--id", CANARY], "--id: holds the value of HF_TOKEN"),
        (["--env", f"A={CANARY}"], "--env A: holds the value of HF_TOKEN"),
        (["--env", "HF_TOKEN=x"], "--env HF_TOKEN: by its name"),
        (["--set", "data.sums={path: none.jsonl}"], "data.sums.path: no such file or folder"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_sent(
    folder: Path, server: JobServer, capsys, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", CANARY)
    assert main(["submit", "plan.yaml", "--address", server.address, *arguments]) == 2
    told = capsys.readouterr()
    assert words in told.err
    assert CANARY not in told.err + told.out
    assert server.requests == []


def test_a_secret_in_a_file_that_goes_along_is_refused(folder: Path, server: JobServer, capsys, monkeypatch) -> None:
    monkeypatch.setenv("MY_JUDGE", CANARY)
    (folder / "suite.yaml").write_text(SUITE + f"# {CANARY}\n")
    assert main(["submit", "plan.yaml", "--address", server.address]) == 2
    assert "suite.yaml: holds the value of MY_JUDGE" in capsys.readouterr().err
    assert server.requests == []


def test_no_address_is_an_error_with_what_to_do(folder: Path, capsys) -> None:
    assert main(["submit", "plan.yaml"]) == 2
    assert "--address: no cluster is named" in capsys.readouterr().err


def test_what_is_sent_holds_no_variable_of_this_process(folder: Path, server: JobServer, capsys, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", CANARY)
    monkeypatch.setenv("HARMLESS", "but-not-asked-for")
    command = ["submit", "plan.yaml", "--address", server.address, "--no-wait"]
    assert main(command) == 0
    assert main(command) == 0
    told = capsys.readouterr()
    [(name, job)] = server.jobs.items()
    assert told.out == f"job: {name}\n" * 2
    assert "submitted" in told.err
    assert "is there already: attached to it" in told.err
    assert job["runtime_env"]["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "120"}
    assert not any(value in str(job) for value in (CANARY, "but-not-asked-for"))


@pytest.mark.parametrize("text", ['pass\\"word/1234', "pass%22word%2F1234", "YXBpOnBhc3Mid29yZC8xMjM0"])
def test_a_known_secret_is_found_however_it_is_spelled(text: str) -> None:
    """As JSON, a URL and HTTP's basic authentication (of `api:`) write `pass"word/1234`."""
    files = [StagedFile("rows.jsonl", f'{{"prompt": "{text}"}}'.encode())]
    with raises("plan.secret"):
        refuse_secrets({}, files, {"KEY": 'pass"word/1234'})
