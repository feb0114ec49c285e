"""Put small faults into the code that may never be wrong, one at a time, and see whether its tests notice.

    python -m tests.mutants.run [--most N] [--seed S] [--jobs N] [module …]

Each fault goes into a copy of the checkout, and the tests of its module run there, in a process of its own that
is forked where torch is loaded already. Ends with 1 where a fault survived that `equivalent.toml` does not list.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import multiprocessing
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

from tests.mutants.mutations import Mutant, mutants_of
from tests.tiers import LONG

ROOT = Path(__file__).resolve().parents[2]
EQUIVALENT = Path(__file__).with_name("equivalent.toml")
LOADED = ["numpy", "torch", "transformers"]
HEAVY_TOO = f"not ray and not slow and {LONG}"
QUIET = "ignore::pytest.PytestAssertRewriteWarning"  # of plugins that these libraries load
_LOSSES = ("tests/losses",)
_TREE = ("tests/model/test_tree.py", "tests/model/test_attention.py", "tests/model/test_forward.py")
SUBJECTS: dict[str, tuple[str, ...]] = {
    "losses/preference.py": _LOSSES,
    "losses/sensitivity.py": (*_LOSSES, "tests/reference/test_calibrate.py"),
    "train/ledger.py": ("tests/train/test_records.py",),
    "train/batches.py": ("tests/train/test_batches.py", "tests/train/test_records.py"),
    "train/checkpoint.py": ("tests/train/test_checkpoint.py",),
    "store/fingerprint.py": ("tests/store/test_store.py", "tests/store/test_first_touch.py"),
    "pipeline/graph.py": (
        "tests/pipeline/test_graph.py",
        "tests/pipeline/test_identity.py",
        "tests/pipeline/test_every_key.py",
    ),
    "model/tree.py": _TREE,
    "model/divide.py": (*_TREE, "tests/train/test_prefetch.py"),
    "model/attention.py": (*_TREE, "tests/model/test_exact.py", "tests/model/test_windows.py"),
    "evaluate/statistics.py": (
        "tests/evaluate/test_statistics.py",
        "tests/evaluate/test_statistics_paired.py",
        "tests/evaluate/test_results.py",
    ),
    "evaluate/compare.py": (
        "tests/evaluate/test_compare.py",
        "tests/evaluate/test_compare_averages.py",
        "tests/evaluate/test_compare_chance.py",
    ),
}
"""Each module, and the tests that must notice its faults: those of its name, and few others."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A fault of a module; None for the code as it is."""

    module: str
    mutant: Mutant | None

    @property
    def key(self) -> tuple[str, str, str]:
        """How `equivalent.toml` names it."""
        assert self.mutant is not None
        return self.module, self.mutant.was, self.mutant.becomes


def all_jobs(modules: list[str]) -> list[Job]:
    """Return every fault of the modules."""
    sources = {module: (ROOT / "platform/ratchet" / module).read_text(encoding="utf-8") for module in modules}
    return [Job(module, mutant) for module, text in sources.items() for mutant in mutants_of(text)]


def equivalents() -> dict[tuple[str, str, str], str]:
    """Return why each fault that is listed changes nothing that anybody could see."""
    rows = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8")).get("mutant", [])
    return {(row["module"], row["was"], row["becomes"]): row["why"] for row in rows}


def notices(copy: Path, job: Job, limit: float) -> str:
    """Run the tests of a module in `copy` with the fault in; return passed, failed, late or broken."""
    path = copy / "platform/ratchet" / job.module
    sound = path.read_text(encoding="utf-8")
    try:
        if job.mutant is not None:
            path.write_text(job.mutant.text, encoding="utf-8")
        process = multiprocessing.get_context("forkserver").Process(target=_tests, args=(copy, SUBJECTS[job.module]))
        process.start()
        process.join(limit)
        if process.exitcode is None:
            os.killpg(process.pid or 0, signal.SIGKILL)  # with what its tests started
            process.join()
            return "late"
        return {0: "passed", 1: "failed"}.get(process.exitcode, "broken")
    finally:
        path.write_text(sound, encoding="utf-8")


def _tests(copy: Path, tests: tuple[str, ...]) -> None:
    import pytest

    os.setsid()
    os.chdir(copy)
    os.environ["PYTHONPATH"] = str(copy / "platform")
    sys.path[:] = [str(copy / "platform"), *(path for path in sys.path if path not in {"", str(ROOT)})]
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]  # this program's own: those of the copy are tried
    sys.dont_write_bytecode = True
    log = os.open(copy / "tests.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    options = ["-x", "-p", "no:cacheprovider", "--hypothesis-seed=0", "-W", QUIET, "-m", HEAVY_TOO]
    os._exit(pytest.main([*options, *tests]))


def run(jobs: list[Job], workers: int, folder: Path) -> dict[Job, str]:
    """Return what came of each fault. Raises SystemExit where tests fail without any."""
    files = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")[:-1]
    copies: queue.SimpleQueue[Path] = queue.SimpleQueue()
    for number in range(workers):
        for name in files:
            (folder / str(number) / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / str(number) / name)
        copies.put(folder / str(number))

    def in_a_copy(job: Job, limit: float) -> tuple[str, float]:
        copy, began = copies.get(), time.monotonic()
        try:
            return notices(copy, job, limit), time.monotonic() - began
        finally:
            copies.put(copy)

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        sound = [Job(module, None) for module in dict.fromkeys(job.module for job in jobs)]
        first = dict(zip(sound, pool.map(lambda job: in_a_copy(job, 1800), sound), strict=True))
        for job, (came, _) in first.items():
            if came != "passed":
                logs = "".join((folder / str(number) / "tests.log").read_text() for number in range(workers))
                raise SystemExit(f"{logs}\nthe tests of {job.module} fail without any fault put in")
        limits = {job.module: 30 + 5 * seconds for job, (_, seconds) in first.items()}
        return dict(
            zip(jobs, (one for one, _ in pool.map(lambda job: in_a_copy(job, limits[job.module]), jobs)), strict=True)
        )


def main() -> int:
    """Print what survived; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("modules", nargs="*", choices=[*SUBJECTS, []], metavar="module", help="such as train/ledger.py")
    parser.add_argument("--most", type=int, help="try so many, drawn by --seed (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    listed = equivalents()
    jobs = [job for job in all_jobs(options.modules or list(SUBJECTS)) if job.key not in listed]
    chosen = random.Random(options.seed).sample(jobs, min(options.most or len(jobs), len(jobs)))
    multiprocessing.get_context("forkserver").set_forkserver_preload(LOADED)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        came = run(chosen, options.jobs, Path(folder))
    print(f"{'module':28}{'mutants':>8}{'killed':>8}{'survived':>9}")
    for module in sorted({job.module for job in chosen}):
        own = [how for job, how in came.items() if job.module == module]
        print(f"{module:28}{len(own):8}{len(own) - own.count('passed'):8}{own.count('passed'):9}")
    survived = sorted((job for job, how in came.items() if how == "passed"), key=lambda job: job.key)
    for job in survived:
        assert job.mutant is not None
        print(f"\nplatform/ratchet/{job.module}:{job.mutant.line}\n- {job.mutant.was}\n+ {job.mutant.becomes}")
    print(f"\n{len(came)} of {len(jobs)} mutants, {len(survived)} survived, {time.monotonic() - began:.0f} s")
    return bool(survived)


if __name__ == "__main__":
    sys.exit(main())
