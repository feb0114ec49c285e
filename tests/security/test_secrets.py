"""Secrets are masked wherever text leaves the process, and nothing else is changed."""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from endpoint_server import says, serving
from ratchet import errors, redact
from ratchet.errors import EndpointError, RatchetError
from ratchet.pairs.pair import Turn
from ratchet.report.page import write_report
from ratchet.serving.endpoint import Endpoint, EndpointSettings
from ratchet.serving.journal import Journal
from ratchet.serving.requests import ChatRequest
from ratchet.serving.retry import RequestPace
from ratchet.store.append import AppendLog, parse_checked_line
from ratchet.store.files import write_json, write_text
from ratchet.store.record import Record, read_record, write_record
from ratchet.track.progress import Console

SECRETS = {
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "HF_TOKEN": "hf_abcdefghijklmnopqrstuvwx",
    "HUGGING_FACE_HUB_TOKEN": "another/odd+token=",
    "RAY_AUTH_TOKEN": "ray-token-5f1d",
    "OPENAI_API_KEY": 'quo"ted\\key-5',
    "RAY_REDIS_PASSWORD": "päss-wörd-123",
    "AWS_SECRET_ACCESS_KEY": "aws+secret/key",
    "SOME_COMPANYS_DB_PASSWORD": "correct horse",
}


@pytest.fixture(params=SECRETS)
def secret(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(request.param, SECRETS[request.param])
    return SECRETS[request.param]


KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RatchetError)]


@pytest.mark.parametrize("kind", KINDS)
def test_no_error_holds_a_secret_in_any_part(secret: str, kind: type[RatchetError]) -> None:
    error = kind(f"said {secret}", where=f"https://host/{quote(secret, safe='')}", fix=f"not {secret}")
    for text in (str(error), repr(error), repr(error.args), error.what, error.where, error.fix):
        assert secret not in text and quote(secret, safe="") not in text
    assert error.what == "said ***"


def test_records_texts_logs_and_lines_hold_none(secret: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_json(tmp_path / "a.json", {"deep": [{"said": f"x {secret} y", secret: 1}]})
    write_text(tmp_path / "plan.yaml", f"key: {secret}\n")
    write_record(
        tmp_path, Record("step", "f", {"url": f"u/{quote(secret, safe='')}"}, {}, "", 0.0, facts={"f": secret})
    )
    with AppendLog(tmp_path / "log.jsonl", lambda raw: ("k", parse_checked_line(raw)), held="held", fix="") as log:
        log.add("k", {"said": secret})
        assert log.find("k") == {"said": "***"}  # its check is of what stands there
    Console().say(f"line {secret}")
    spelt = [secret, quote(secret, safe=""), json.dumps(secret)[1:-1], base64.b64encode(secret.encode()).decode()]
    for path in tmp_path.iterdir():
        assert not [one for one in spelt if one in path.read_text()], path
    assert secret not in capsys.readouterr().err
    record = read_record(tmp_path)
    assert record is not None and record.facts == {"f": "***"}
    assert json.loads((tmp_path / "a.json").read_text()) == {"deep": [{"said": "x *** y", "***": 1}]}


@pytest.mark.heavy
def test_a_page_and_its_numbers_hold_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ratchet.documents.report import read_report
    from report_example import short

    monkeypatch.setenv("HF_TOKEN", SECRETS["HF_TOKEN"])
    values = short()
    values["plan_text"] = f"name: x # {SECRETS['HF_TOKEN']}\n"
    write_report(tmp_path, read_report(values))
    assert {path.name: SECRETS["HF_TOKEN"] in path.read_text() for path in tmp_path.glob("report.*")} == {
        "report.html": False,
        "report.json": False,
        "report.md": False,
    }


SHAPES = {
    "Authorization: Bearer abcdefghijklmnop0123": "Authorization: Bearer ***",
    "authorization: basic YXBpOmFiY2RlZmdoaWprbG0=": "authorization: basic ***",
    "https://me:pass@host/v1 failed": "https://***@host/v1 failed",
    "redis://:pass@host:6379": "redis://***@host:6379",
    "with hf_AbCdEfGhIjKlMnOpQrSt in it": "with *** in it",
    "key sk-proj-abcdefghijklmnop": "key ***",
    "AKIAABCDEFGHIJKLMNOP": "***",
    "ghp_abcdefghijklmnopqrstuvwxyz": "***",
}


@pytest.mark.parametrize("text", SHAPES)
def test_things_in_the_shape_of_a_secret_are_masked_for_people(text: str) -> None:
    assert redact.words(text) == SHAPES[text]
    assert redact.values(text) == text  # data may speak of them


ORDINARY = (
    "data/helpful.jsonl:17: chosen and rejected are the same text",
    "task-specific-training-of-models and risk-averse-investors-of-old",
    "Bearer authentication is missing",
    "s3://bucket/folder/file@v2",
    "meta-llama/Llama-3.2-1B@4e20de362430cd3b72f300e6b0f18e50e7166e08",
)


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_words_stay(text: str) -> None:
    assert redact.words(text) == text


@pytest.mark.heavy
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_what_holds_no_secret_stays_as_it_is(value: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", SECRETS["HF_TOKEN"])
        assert redact.tree(value) == value


@given(
    st.text(alphabet=st.characters(codec="ascii", exclude_characters="\0"), min_size=8).filter(lambda s: s == s.strip())
)
def test_whatever_the_secret_no_text_keeps_it(value: str) -> None:
    if value.replace(".", "").replace("-", "").isdigit() or (len(value) < 20 and re.fullmatch("[A-Za-z_-]+", value)):
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("A_TOKEN", value)
        masked = redact.values(f"a {value} b {quote(value, safe='')} c")
        assert value not in masked.replace("***", "\0")


NO_SECRETS = [
    ("A_TOKEN", "short"),
    ("A_TOKEN", "12345678"),
    ("PARTITION_KEY", "identity"),
    ("SORT_KEY", "optim_states"),
    ("RAY_AUTH_MODE", "disabled"),
    ("TOKENIZERS_PARALLELISM", "whatever"),
    ("RAY_AUTH_TOKEN_PATH", "/etc/no-such-file"),
]


@pytest.mark.parametrize(("name", "value"), NO_SECRETS)
def test_values_that_are_no_secrets_or_too_short_to_look_for_stay(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert redact.values(f"a {value} b") == f"a {value} b"


def test_the_token_in_a_file_of_ray_is_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "auth").write_text("token-in-a-file-7\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "auth"))
    assert redact.values("it is token-in-a-file-7.") == "it is ***."


def test_a_server_that_says_the_key_back_in_an_error_does_not_spread_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("JUDGE", "a-key-whose-name-says-nothing")
    monkeypatch.setenv("HF_TOKEN", SECRETS["HF_TOKEN"])

    async def sleep(_: float) -> None: ...

    with serving() as server, Journal(tmp_path / "j.jsonl") as journal, caplog.at_level(logging.INFO):
        said = json.dumps({"error": {"message": f"bad: a-key-whose-name-says-nothing, {SECRETS['HF_TOKEN']}"}})
        server.always = says(500, said)
        settings = EndpointSettings(server.url, "m", key_variable="JUDGE", max_attempts=2, allow_private=True)
        with pytest.raises(EndpointError) as caught:
            Endpoint(settings, journal, RequestPace(sleep)).answer([ChatRequest((Turn("user", "hi"),))])
    text = str(caught.value) + (tmp_path / "j.jsonl").read_text()
    assert "bad: ***, ***" in str(caught.value)
    assert "a-key-whose" not in text and SECRETS["HF_TOKEN"] not in text
    assert redact.values("a-key-whose-name-says-nothing") == "***"  # from now on, everywhere


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_a_traceback_and_what_is_logged_hold_none() -> None:
    code = (
        "import logging, os\nfrom ratchet import redact\nredact.guard_process()\nsecret = os.environ['MY_API_KEY']\n"
        "log = logging.getLogger('x')\nlog.warning('said %s', secret)\n"
        "try:\n    raise ValueError(secret)\nexcept ValueError:\n    log.exception('failed')\n"
        "raise RuntimeError('with ' + secret)\n"
    )
    ended = run(code, MY_API_KEY="key-of-a-process-1")
    assert ended.returncode == 1
    assert "key-of-a-process-1" not in ended.stderr
    assert ended.stderr.count("said ***") == 1 and "ValueError: ***" in ended.stderr
    assert ended.stderr.rstrip().endswith("RuntimeError: with ***")


@pytest.mark.heavy
def test_the_command_guards_its_process(tmp_path: Path) -> None:
    code = "import os, sys\nfrom ratchet.cli import main\nsys.exit(main(['check', os.environ['MY_API_KEY'] + '.yaml']))"
    ended = run(code, MY_API_KEY="key-of-a-process-2")
    assert ended.returncode == 2
    assert "***.yaml" in ended.stderr and "key-of-a-process-2" not in ended.stderr
