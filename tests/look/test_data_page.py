"""The page of `ratchet data`: one file that needs nothing else, and shows texts as texts."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

from ratchet.cli import main

HOSTILE = "<script>alert('x')</script> & <b>"


@pytest.mark.heavy
def test_a_page_is_one_file_and_escapes_what_rows_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"prompt": f"{HOSTILE} {i}", "chosen": f"yes {HOSTILE} {i}", "rejected": f"no, {'never ' * i}"}
        for i in range(30)
    ]
    file, page = tmp_path / "rows.jsonl", tmp_path / "page.html"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    absent = str(tmp_path / "absent.jsonl")
    assert main(["data", str(file), absent, "--page", str(page)]) == 3
    assert "rows: " in capsys.readouterr().out
    made = page.read_text(encoding="utf-8")
    assert HOSTILE not in made and html.escape(HOSTILE, quote=True).replace("&#x27;", "&#39;") in made
    assert not re.findall(r"""(?:src|href)=["'](?!#)""", made), "it loads nothing"
    assert made.index("Would stop a run: absent") < made.index("What was looked for")
    assert made.count("<svg") == 3, "lengths, and edit distances in words and in characters"
    shown = re.findall(r'<p class="tokens" dir="auto">(.*?)</p>', made, re.DOTALL)
    assert len(shown) == 9 and all("scored" in one for one in shown[1:3]) and "scored" not in shown[0]
    assert "#records" not in made
