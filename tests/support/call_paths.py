"""The functions that stand above the work on one pair, one trial and one item of an evaluation, seen in real runs.

    PYTHONPATH=platform:tests/support python -m call_paths FOLDER

runs a tiny plan in one process and a tiny sweep on a Ray, both in FOLDER, and prints what `docs/call_paths.md` draws.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from whole_run import environment, write_smallest

SPACE = "name: betas\nkeys: {stages.align.beta: {grid: [0.3]}}\nobjectives: {align/heldout/margin: max}\n"

# Python imports a module of this name as it starts, also in the processes that Ray starts.
WATCHER = """\
import os, sys, threading
OUT, SEEN = os.environ["RATCHET_CALL_PATHS"], set()
LAST = {
    "pairs/assemble.py assemble_tables": "pairs are written",
    "pairs/tokens.py split_ids": "a pair becomes tokens",
    "reference/score.py __call__": "the reference scores a block of pairs",
    "losses/preference.py dpo": "a loss",
    "evaluate/engines/local.py _write": "an item of a suite is answered",
    "tune/process.py work": "a trial",
}

def watch(frame, event, argument):
    name = named(frame) if event == "call" else ""
    if name in LAST and name not in SEEN:
        SEEN.add(name)
        names = []
        while frame is not None:
            names.append(named(frame))
            frame = frame.f_back
        with open(OUT, "a") as out:
            out.write(LAST[name] + "|" + "|".join(filter(None, reversed(names))) + "\\n")

def named(frame):
    file = frame.f_code.co_filename.partition("/platform/ratchet/")[2]
    plain = frame.f_code.co_name if frame.f_code.co_name[0] != "<" else ""
    return f"{file} {plain}" if file and plain else ""

sys.setprofile(watch)
threading.setprofile(watch)
"""


def call_paths(folder: Path, *command: str) -> dict[str, tuple[str, ...]]:
    """Run `ratchet` in `folder`; return the longest chain of calls above each piece of work, the outermost first."""
    (folder / "sitecustomize.py").write_text(WATCHER)
    out = folder / "paths.txt"
    out.unlink(missing_ok=True)
    paths = os.pathsep.join([str(folder), os.environ["PYTHONPATH"]])
    watched = environment() | {"RATCHET_CALL_PATHS": str(out), "PYTHONPATH": paths}
    subprocess.run([sys.executable, "-m", "ratchet.cli", *command], cwd=folder, env=watched, check=True)
    found: dict[str, tuple[str, ...]] = {}
    for line in out.read_text().splitlines():
        work, *names = line.split("|")
        found[work] = max(found.get(work, ()), tuple(names), key=len)
    return found


def drawn(work: str, names: tuple[str, ...]) -> str:
    """Return a chain of calls as an indented list."""
    files = len({name.partition(" ")[0] for name in names})
    rows = [
        f"{'  ' * n}{file.removesuffix('.py')}.{function}"
        for n, name in enumerate(names)
        for file, function in [name.split()]
    ]
    return "\n".join([f"{work}: {len(names)} functions in {files} files", *rows, ""])


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    write_smallest(folder)
    (folder / "space.yaml").write_text(SPACE)
    commands = {
        "ratchet run --here": ("run", "plan.yaml", "--here"),
        "ratchet sweep": ("sweep", "plan.yaml", "space.yaml"),
    }
    for title, command in commands.items():
        for work, names in call_paths(folder, *command).items():
            sys.stdout.write(f"{title}, {drawn(work, names)}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
