"""Runs tiers of tests one after another, whatever each comes to, and ends with one line that says what passed.

`python -m tests.tiers default heavy ray` is `make test`; a tier with a part is `slow:1/6`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path

LONG = "not gpu and not vllm and not nodes and not prove"
TIERS = {
    "default": ("-n", "logical", "--dist", "loadfile"),
    "heavy": ("-n", "logical", "--dist", "loadfile", "-m", f"heavy and not ray and not slow and {LONG}"),
    "ray": ("-n", "2", "--dist", "loadfile", "-m", f"ray and not slow and {LONG}"),
    "slow": ("-m", f"slow and {LONG}"),
    "prove": ("-m", "prove"),
    "nodes": ("-m", "nodes and not slow"),
    "nodes-slow": ("-m", "nodes and slow"),
    "vllm": ("-m", "vllm and not gpu and not slow"),
    "vllm-slow": ("-m", "vllm and not gpu and slow"),
}
"""The options of pytest that choose each tier."""
NOTHING = 5
"""What pytest ends with where no test was chosen: a part of a small tier may hold none."""


def counts(report: Path) -> dict[str, int]:
    """Return how many tests passed, failed and were skipped, from pytest's XML report; all 0 where it wrote none."""
    found = dict.fromkeys(("passed", "failed", "skipped"), 0)
    if not report.exists():
        return found
    for suite in ET.parse(report).getroot().iter("testsuite"):  # noqa: S314 - our own pytest wrote it
        failed, skipped = (
            sum(int(suite.get(name, 0)) for name in names) for names in (("failures", "errors"), ("skipped",))
        )
        found["failed"] += failed
        found["skipped"] += skipped
        found["passed"] += int(suite.get("tests", 0)) - failed - skipped
    return found


def run(tier: str, *more: str) -> tuple[str, bool]:
    """Run one tier; return the words that say what came of it, and whether it passed.

    A tier that ends with a failure, an error of collection or a signal has not passed, whatever its counts say.
    """
    name, _, part = tier.partition(":")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        options = [*TIERS[name], *(("--part", part) if part else ()), f"--junitxml={report}", *more]
        status = subprocess.run([sys.executable, "-m", "pytest", *options], check=False).returncode
        found = counts(report)
    passed = status == 0 or (status == NOTHING and bool(part))
    words = ", ".join(f"{count} {what}" for what, count in found.items() if count or what != "skipped")
    seconds = round(time.monotonic() - began)
    return f"{tier}: {words} in {seconds} s" + ("" if passed else f" (FAILED, status {status})"), passed


def main(tiers: list[str]) -> int:
    """Run the tiers that are named; return 0 where all of them passed."""
    unknown = [tier for tier in tiers if tier.partition(":")[0] not in TIERS]
    if unknown or not tiers:
        sys.stderr.write(f"name tiers, of {', '.join(TIERS)}; {', '.join(unknown) or 'nothing'} is not one\n")
        return 2
    ended = [run(tier) for tier in tiers]
    sys.stdout.write(f"tests: {'; '.join(words for words, _ in ended)}\n")
    return 0 if all(passed for _, passed in ended) else 1


if __name__ == "__main__":
    os.chdir(Path(__file__).resolve().parent.parent)
    sys.exit(main(sys.argv[1:]))
