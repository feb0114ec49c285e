"""Read one file once, and say what that took: `reading` runs this file by its path, beside the code of any checkout.

    python benchmarks/reading_side.py ratchet|datasets FILE FOLDER CPUS

With CPUS of 0 no Ray is started. The figures are one line of JSON, the last one of standard output.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

_TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Read the file as the arguments say."""
    kind, file, folder, cpus = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
    figures = _datasets(file, folder) if kind == "datasets" else _ratchet(file, folder, cpus)
    sys.stdout.write("\n" + json.dumps(figures) + "\n")


def _ratchet(file: str, folder: Path, cpus: int) -> dict[str, Any]:
    from ratchet.pairs.flow import prepare_pairs
    from ratchet.plan.data import Source
    from ratchet.store.layout import Layout

    if cpus:
        import ray

        ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False)
        ray.get([ray.remote(_loaded).remote() for _ in range(cpus)])
    # Once with few rows: starting workers and loading libraries is no part of what is measured.
    few = folder / f"few{Path(file).suffix}"
    _head(file, few)
    prepare_pairs("few", Source(path=str(few)), Layout(folder / "warm"), None)
    before, began = _cpu_seconds(), time.perf_counter()
    _, made = prepare_pairs("rows", Source(path=file), Layout(folder / "store"), None)
    wall = time.perf_counter() - began
    peaks = _peaks()
    found = {"wall": wall, "cpu": _cpu_seconds() - before, "driver": peaks.pop(os.getpid()), "worker": 0}
    found["worker"] = max(peaks.values(), default=0)
    return {**found, **_content(made)}


def _loaded() -> None:
    """Load in a worker what reading needs; all workers are there before the first is done."""
    import ray.data  # noqa: F401

    import ratchet.pairs.flow  # noqa: F401

    time.sleep(5)


def _datasets(file: str, folder: Path) -> dict[str, Any]:
    from datasets import load_dataset

    form = "parquet" if file.endswith(".parquet") else "json"
    few = folder / f"few{Path(file).suffix}"
    _head(file, few)
    load_dataset(form, data_files=str(few), cache_dir=str(folder / "warm"), split="train")
    before, began = _cpu_seconds(), time.perf_counter()
    rows = load_dataset(form, data_files=file, cache_dir=str(folder / "cache"), split="train")
    wall = time.perf_counter() - began
    return {
        "wall": wall,
        "cpu": _cpu_seconds() - before,
        "driver": _peaks()[os.getpid()],
        "worker": 0,
        "rows": len(rows),
    }


def _head(file: str, few: Path) -> None:
    """Write the first rows of a file as a file of its kind."""
    if file.endswith(".parquet"):
        import pyarrow.parquet as pq

        with pq.ParquetFile(file) as whole:
            pq.write_table(whole.read_row_group(0).slice(0, 100), few)
        return
    with open(file, "rb") as whole:
        few.write_bytes(b"".join(whole.readline() for _ in range(100)))


def _content(made: Path) -> dict[str, Any]:
    """Return what a pairs folder holds: a digest of ids by row and of what is left out; whether rows are in order."""
    import pyarrow.parquet as pq

    kept, ordered = [], True
    for side in ("train", "heldout"):
        table = pq.read_table(made / f"{side}.parquet", columns=["row", "pair_id", "prompt_id"])
        rows = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
        ordered &= rows == sorted(rows)
        kept += rows
    skipped = pq.read_table(made / "skipped.parquet").to_pylist()
    digest = hashlib.sha256(json.dumps([sorted(kept), skipped]).encode()).hexdigest()[:16]
    return {"rows": len(kept) + len(skipped), "content": digest, "in order": ordered}


def _family() -> list[int]:
    """Return the numbers of this process and of all that it has started, as far as they live."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := _stat(int(entry.name))):
            parents[int(entry.name)] = int(stat[1])
    family = [os.getpid()]
    for one in family:
        family += [child for child, parent in parents.items() if parent == one]
    return family


def _stat(process: int) -> list[str]:
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:  # it has ended meanwhile
        return []


def _cpu_seconds() -> float:
    """Return the CPU seconds of all processes of the family, ended children of each included."""
    return sum(sum(map(int, _stat(one)[11:15])) for one in _family()) / _TICKS


def _peaks() -> dict[int, int]:
    """Return the most memory in bytes that each process of the family has had, pages that it shares included."""
    found = {}
    for one in _family():
        try:
            lines = Path(f"/proc/{one}/status").read_text(encoding="utf-8").splitlines()
        except OSError:
            continue
        found[one] = next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM")), 0)
    return found


if __name__ == "__main__":
    main()
