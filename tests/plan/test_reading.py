"""YAML becomes plain values with lines, or one clear sentence."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ratchet.errors import PlanError
from ratchet.plan.load import load_file, load_plan
from ratchet.plan.reading import LARGEST_FILE, parse, read


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-6", 1e-6),
        ("1e-3", 1e-3),
        ("2E5", 2e5),
        ("-1.5e+3", -1500.0),
        (".5", 0.5),
        ("3.", 3.0),
        ("-0.0", -0.0),
        ("+7", 7),
        ("0", 0),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        (".inf", math.inf),
        ("-.Inf", -math.inf),
    ],
)
def test_plain_scalars_of_yaml_1_2(text: str, value: object) -> None:
    found = parse(f"a: {text}", "f").data["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "yes",
        "no",
        "on",
        "off",
        "y",
        "1:30",
        "007",
        "1_000",
        "0x10",
        "2024-01-01",
        "1e",
        "e5",
        "1e-6x",
        "--1",
        "1.2.3",
        ".",
        '"1e-6"',
        "'3'",
        '"true"',
        "'null'",
        "|-\n 5",
    ],
)
def test_text_is_never_taken_for_anything_else(text: str) -> None:
    assert isinstance(parse(f"a: {text}", "f").data["a"], str)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_as_python_writes_it_comes_back(number: float) -> None:
    assert parse(f"a: {number!r}", "f").data["a"] == number


@given(st.text(max_size=30))
def test_quoted_text_comes_back(text: str) -> None:
    written = yaml.safe_dump({"a": text}, default_style='"')  # its plain text is YAML 1.1: 0E0 is a number in 1.2
    assert parse(written, "f").data["a"] == text


def test_keys_are_text_and_places_are_lines() -> None:
    document = parse("on: 1\n5:\n  - a\n  - null: {x: 1e-6}\n", "f")
    assert document.data == {"on": 1, "5": ["a", {"null": {"x": 1e-6}}]}
    assert str(document.place(("5",))) == "f:2"
    assert str(document.place(("5", 1, "null", "x"))) == "f:4"
    assert document.place(("5", 1, "null", "x")).written == "1e-6"
    assert str(document.place(("5", 1, "absent"))) == "f:4"


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


REFUSED = {
    "empty": ("", "f:1: the file is empty"),
    "comments alone": ("# nothing\n\n", "f:1: the file is empty"),
    "list": ("- a\n", "f:1: must be a mapping of keys to values, not a list"),
    "scalar": ("\nhello\n", "f:2: must be a mapping of keys to values, not one value"),
    "tabs": ("a:\n\tb: 1\nc:\n  \td: 1\n", "f:2: a tab: indent with spaces\nf:4: a tab: indent with spaces"),
    "tab after colon": ("a: 1\nb:\tc\n", "f:2: a tab: indent with spaces"),
    "open bracket": ("a: 1\nb: [1, 2\nc: 3\n", "f:3: a list or mapping in brackets is not closed with ]"),
    "open quote": ('a: "b\nc: 1\n', "f:3: a quote is not closed"),
    "colon": ("a: b: c\n", "f:1: a colon where no key can stand: put text that has ': ' in it in quotes"),
    "indent": ("a:\n  b: 1\n c: 2\n", "f:3: this line is not indented like those above it"),
    "no anchor": ("a: *b\n", "f:1: no anchor &b stands above this *b"),
    "percent": ("a: %b\n", "f:1: text cannot start with % unless it is in quotes"),
    "two documents": ("a: 1\n---\nb: 1\n", "f:2: a second document: one file holds one"),
    "bell": ("a: 1\nb: \x07\n", "f:2: the character U+0007 does not belong in YAML"),
    "deep": ("a: " + "[" * 50 + "]" * 50, "f:1: nested more than 32 deep"),
    "very deep": ("[" * 100_000, "f:1: nested more than 32 deep"),
    "bomb": (bomb(30), "f:5: a4: more than 100,000 values once its aliases are written out"),
    "recursive": ("a: 1\nb: &b\n  c: *b\n", "f:2: b: nested more than 32 deep once its aliases are written out"),
    "too large": ("# " + "x" * LARGEST_FILE, "f:1: larger than 1 MiB, and no more is read"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_a_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, said = REFUSED[name]
    monkeypatch.chdir(tmp_path)
    Path("f").write_text(text)
    with pytest.raises(PlanError) as caught:
        read(Path("f"))
    assert caught.value.what == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "a: 1\nb: {c: 1, c: 2}\na: 3\n",
            ["f:2: b.c: written twice, first in line 2", "f:3: a: written twice, first in line 1"],
        ),
        (
            "a: !!python/object:os.system x\n",
            ["f:1: a: the tag !!python/object:os.system is not for plans: leave it out"],
        ),
        ("a: !mine [1]\n", ["f:1: a: the tag !mine is not for plans: leave it out"]),
        ("a: !!int x\n", ["f:1: a: 'x' is no number that can be read"]),
        ("{[1, 2]: 3}\n", ["f:1: a key must be text, not a list or a mapping"]),
    ],
)
def test_told_with_all_else(text: str, said: list[str]) -> None:
    assert [str(problem) for problem in parse(text, "f").problems] == said


def test_a_number_of_thousands_of_digits(tmp_path: Path) -> None:
    problems = parse(f"a: {'9' * 5000}\n", "f").problems
    assert len(problems) == 1
    assert "is no number that can be read" in str(problems[0])


def test_not_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("f").write_bytes(b"a: 1\nb: caf\xe9\n")
    with pytest.raises(PlanError) as caught:
        load_plan(Path("f"))
    assert caught.value.what == "f:2: not UTF-8 (byte 0xe9): save the file as UTF-8"


def test_byte_order_mark_and_windows_lines(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"\xef\xbb\xbfa: 1\r\nb: c\r\n")
    assert read(tmp_path / "f").data == {"a": 1, "b": "c"}


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("quickstart.yaml").write_text("a: 1")
    for name, said in {
        "quikstart.yaml": "quikstart.yaml: no such file; did you mean quickstart.yaml?",
        "none/at/all": "none/at/all: no such file",
        ".": ".: is a folder: name the file in it",
        "quickstart.yaml": "quickstart.yaml:1: neither a plan (with `stages`), "
        "a suite (with `tasks`) nor a sweep space (with `keys`)",
    }.items():
        with pytest.raises(PlanError) as caught:
            load_file(Path(name))
        assert caught.value.what == said
