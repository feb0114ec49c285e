"""`ratchet data` and `ratchet run` stop at the same limits, with the same words, and at no others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ratchet.cli import main

PLAN = """\
name: tiny
model:
  scratch: {tokenizer_from: [some], vocab_size: 270, hidden_size: 8, layers: 1, heads: 1, key_value_heads: 1,
            intermediate_size: 16, max_positions: 256}
data:
  some: {path: rows.jsonl, held_out: HELD_OUT, max_overlong_share: 0.2}
stages:
  align: {kind: dpo, data: [some], batch: 4, learning_rate: 1e-3, max_length: MAX_LENGTH, max_steps: 1}
cluster: {storage: out}
"""


def rows(good: int, *others: dict[str, Any], times: int = 0) -> list[dict[str, Any]]:
    """Return good rows, and `times` of each of the others with a number in place of N."""
    made = [{"prompt": f"Is {i} even?", "chosen": f"See {i}.", "rejected": f"No, {i}!"} for i in range(good)]
    return made + [
        {key: value.replace("N", str(number)) for key, value in other.items()}
        for other in others
        for number in range(times)
    ]


BROKEN = {"prompt": "N?", "chosen": "", "rejected": "b"}
LONG = {"prompt": "N " + "7" * 150, "chosen": "a", "rejected": "b"}
MARKED = {"prompt": "N <|end|>", "chosen": "a", "rejected": "b"}
ONE_SIDED = [{"instruction": f"Say {i}.", "output": f"It is {i}."} for i in range(40)]
CASES: dict[str, tuple[list[dict[str, Any]], str, int, str | None]] = {
    "few bad rows": (rows(95, BROKEN, times=5), "0.1", 128, None),
    "one bad row too many": (rows(94, BROKEN, times=6), "0.1", 128, "data.bad-rows"),
    "few that are too long": (rows(80, LONG, times=20), "0.1", 128, None),
    "one too many that are too long": (rows(79, LONG, times=21), "0.1", 128, "data.left-out"),
    "few with marks": (rows(95, MARKED, times=5), "0.1", 128, None),
    "one too many with marks": (rows(94, MARKED, times=6), "0.1", 128, "data.left-out"),
    "few bad rows and few with marks": (rows(96, BROKEN, MARKED, times=2), "0.1", 128, None),
    "one too many in all": (rows(94, BROKEN, MARKED, times=3), "0.1", 128, "data.left-out"),
    "all too long": (rows(40), "0.1", 8, "data.nothing-left"),
    "demonstrations": (ONE_SIDED, "0.1", 128, "data.one-sided"),
    "all held out": (rows(2), "0.9999", 128, "data.nothing-left"),
}


@pytest.mark.heavy
@pytest.mark.parametrize("name", sorted(CASES))
def test_both_stop_at_the_same_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    made, held_out, max_length, code = CASES[name]
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    Path("plan.yaml").write_text(PLAN.replace("HELD_OUT", held_out).replace("MAX_LENGTH", str(max_length)))
    status = main(["data", "plan.yaml", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert not Path("out").exists(), "a look leaves nothing behind"
    stops = [one for one in report["verdicts"] if one["gravity"] == "stops"]
    assert main(["run", "plan.yaml", "--here"]) == status == (0 if code is None else 3)
    said = capsys.readouterr().err
    assert [one["code"] for one in stops] == ([] if code is None else [code])
    assert all(one["says"] in said and one["do"] in said for one in stops)
    if code is None:
        # What the run counted in the end is what was foretold.
        source = report["sources"][0]
        kept = json.loads(Path("out/runs/tiny/report.json").read_text())["sources"][0]
        assert {key: source[key] for key in ("read", "train", "heldout", "skipped")} == {
            key: kept[key] for key in ("read", "train", "heldout", "skipped")
        }
        tokens = kept["tokens"][0]
        assert (
            source["refused"] | ({"too long": lost} if (lost := source["lengths"]["limits"][0]["lost"]) else {})
            == (tokens["skipped"])
        )
        assert source["lengths"]["parts"]["total"]["most"] == tokens["longest_seen"]


@pytest.mark.heavy
def test_a_limit_of_a_later_stage_stops_a_run_before_the_first_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(79, LONG, times=21)))
    plan = PLAN.replace("HELD_OUT", "0.1").replace("MAX_LENGTH", "256")
    later = "  late: {kind: dpo, after: align, data: [some], batch: 4, learning_rate: 1e-3, max_length: 128}\ncluster"
    Path("plan.yaml").write_text(plan.replace("cluster", later))
    assert main(["data", "plan.yaml"]) == 3
    looked = capsys.readouterr()
    assert main(["run", "plan.yaml", "--here"]) == 3
    ran = capsys.readouterr().err
    assert "21 of 100 pairs (21.0%) of some are left out at max_length 128" in ran
    assert "21 of 100 pairs (21.0%) of some are left out at max_length 128" in " ".join(looked.out.split())
    assert not Path("out/runs/tiny/steps").exists()


@pytest.mark.heavy
def test_what_nothing_uses_stops_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(60)))
    Path("bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(1, BROKEN, times=59)))
    plan = PLAN.replace("HELD_OUT", "0.1").replace("MAX_LENGTH", "128")
    Path("plan.yaml").write_text(plan.replace("stages:", "  bad: {path: bad.jsonl}\nstages:"))
    assert main(["data", "plan.yaml", "--json"]) == main(["check", "plan.yaml"]) == 0
    report = json.JSONDecoder().raw_decode(capsys.readouterr().out)[0]
    said = {(one["source"], one["code"], one["gravity"]) for one in report["verdicts"] if one["source"] != "some"}
    assert report["token_use"] == [], "costs by characters do not stand below lengths in tokens"
    assert said == {("bad", "data.bad-rows", "notes"), ("bad", "unused", "notes")}
    assert main(["run", "plan.yaml", "--here"]) == 0
