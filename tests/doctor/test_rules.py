"""From facts to findings: each rule of the doctor on facts that ask for each of its answers."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from ratchet.doctor import dashboard, rules
from ratchet.doctor.facts import (
    Dashboard,
    Finding,
    Gpu,
    Machine,
    NodeFacts,
    Skew,
    Storage,
    findings_text,
    ok,
    problem,
    warning,
    worst,
)
from ratchet.doctor.rules import ADVISORIES, Advisory, holes
from ratchet.plan.cluster import Cluster
from ratchet.plan.schema import Plan

GIB = 1 << 30
H100 = Gpu("NVIDIA H100 80GB HBM3", 81559 << 20, "570.86.15")
A100 = Gpu("NVIDIA A100-SXM4-80GB", 81920 << 20, "535.183.01")
VERSIONS = {"python": "3.11.9", "ray": "2.60.0", "ratchet": "0.1.0", "torch": "2.13.0", "transformers": "5.19.0"}
MACHINE = Machine("m", VERSIONS, (), None, 0, 8 * GIB, 65_536, 100 * GIB, 100 * GIB)
RESOURCES = {"CPU": 4.0, "object_store_memory": float(GIB)}
NODE = NodeFacts("n1", "10.77.0.1", RESOURCES, 8080, MACHINE, Skew(-0.01, 0.02), Storage(True, True))


def node(name: str = "n2", resources: dict[str, float] | None = None, **machine: Any) -> NodeFacts:
    changed = dataclasses.replace(MACHINE, **machine)
    return dataclasses.replace(NODE, name=name, machine=changed, resources={**RESOURCES, **(resources or {})})


def gpus(*found: Gpu, cuda: str | None = "12.8", usable: int | None = None) -> dict[str, Any]:
    return {"gpus": found, "cuda": cuda, "cuda_devices": len(found) if usable is None else usable}


OPEN = Dashboard("http://10.0.0.1:8265", True, "disabled", 200, True, "2.60.0")
CLOSED = Dashboard("http://127.0.0.1:8265", True, "token", 401, False, "2.60.0", loopback=True)
SILENT = Dashboard("http://10.0.0.1:8265", False)


def at(seconds: float, width: float = 0.1) -> NodeFacts:
    return dataclasses.replace(NODE, name="n2", skew=Skew(seconds - width, seconds + width))


def shares(storage: Storage) -> NodeFacts:
    return dataclasses.replace(NODE, name="n2", storage=storage)


FINDINGS: dict[str, tuple[Finding, str, str]] = {
    "auth off": (dashboard.authentication(OPEN, {}), "problem", "runs code on it, without a token"),
    "jobs answer although it says token": (
        dashboard.authentication(dataclasses.replace(CLOSED, status=200, jobs_open=True), {}),
        "problem",
        "without a token",
    ),
    "auth on": (dashboard.authentication(CLOSED, {}), "ok", "jobs answer 401"),
    "no dashboard of Ray": (
        dashboard.authentication(dataclasses.replace(CLOSED, status=404, mode=None), {}),
        "warning",
        "jobs answer 404 without a token; mode unknown",
    ),
    "a page to log in before it": (
        dashboard.authentication(dataclasses.replace(CLOSED, status=200, mode=None), {}),
        "warning",
        "jobs answer 200",
    ),
    "cannot be asked": (dashboard.authentication(SILENT, {}), "warning", "RAY_AUTH_MODE is not set here"),
    "a local Ray": (dashboard.authentication(None, {}), "ok", "a token of its own"),
    "a local Ray without": (dashboard.authentication(None, {"RAY_AUTH_MODE": "disabled"}), "warning", "is disabled"),
    "open to the world": (dashboard.openness(OPEN), "problem", "open without a token to the whole network"),
    "open to the machine": (
        dashboard.openness(dataclasses.replace(OPEN, loopback=True)),
        "problem",
        "to every user, and to pages in browsers, of this machine",
    ),
    "closed": (dashboard.openness(CLOSED), "ok", "wants a token"),
    "in clear text": (dashboard.openness(dataclasses.replace(CLOSED, loopback=False)), "warning", "in clear text"),
    "silent": (dashboard.openness(SILENT), "warning", "does not answer"),
    "metrics": (dashboard.metrics_open(["10.77.0.1:8080"]), "warning", "metrics of 10.77.0.1:8080"),
    "no metrics": (dashboard.metrics_open([]), "ok", "no node's metrics port answers"),
    "job secrets": (
        dashboard.job_secrets(dataclasses.replace(CLOSED, secrets=(("job-1", "HF_TOKEN"),))),
        "problem",
        "HF_TOKEN of job job-1",
    ),
    "no job secrets": (dashboard.job_secrets(CLOSED), "ok", "no runtime_env"),
    "token file open": (dashboard.token_readable(0o100644, "t"), "warning", "(644)"),
    "token file of a group": (dashboard.token_readable(0o100640, "t"), "warning", "(640)"),
    "token file closed": (dashboard.token_readable(0o100600, "t"), "ok", "yours alone"),
    "no token file": (dashboard.token_readable(None, "t"), "ok", "none"),
    "all answer": (rules.nodes_answer([NODE, node()]), "ok", "2 of 2 answer"),
    "one is silent": (
        rules.nodes_answer([NODE, dataclasses.replace(NODE, name="n2", machine=None, error="No module 'ratchet'")]),
        "problem",
        "n2 (No module 'ratchet')",
    ),
    "same versions": (rules.same_versions(VERSIONS, [NODE, node()]), "ok", "ray 2.60.0"),
    "another Ray": (
        rules.same_versions(VERSIONS, [NODE, node(versions={**VERSIONS, "ray": "2.55.1"})]),
        "problem",
        "ray 2.55.1 (n2), 2.60.0 (the driver, n1)",
    ),
    "no torch": (
        rules.same_versions(VERSIONS, [node(versions={k: v for k, v in VERSIONS.items() if k != "torch"})]),
        "problem",
        "torch 2.13.0 (the driver), none (n2)",
    ),
    "another transformers": (
        rules.same_versions(VERSIONS, [node(versions={**VERSIONS, "transformers": "5.4.0"})]),
        "warning",
        "transformers 5.19.0",
    ),
    "no holes": (rules.known_holes([("n1", VERSIONS)]), "ok", "none"),
    "a hole": (
        rules.known_holes([("n1", {"ray": "2.53.0"}), ("n2", VERSIONS)]),
        "problem",
        "ray 2.53.0 at n1: CVE-2026-27482",
    ),
    "one storage": (rules.storage("/s", [NODE, shares(Storage(True, True))]), "ok", "the same folder"),
    "no node to ask": (
        rules.storage("/s", [dataclasses.replace(NODE, storage=None)]),
        "warning",
        "could not be looked at",
    ),
    "another disk": (
        rules.storage("/s", [NODE, shares(Storage(False, False))]),
        "problem",
        "n2 does not see the driver's files",
    ),
    "one way": (rules.storage("/s", [shares(Storage(True, False, "read-only"))]), "problem", "(read-only)"),
    "clocks agree": (rules.clocks([NODE, at(0.5, 2.0)]), "ok", "2 nodes"),
    "a slow answer hides a small skew": (rules.clocks([at(3.0, 3.0)]), "ok", "1 node"),
    "ahead": (rules.clocks([at(5.0)]), "warning", "n2 by at least 4.9 s"),
    "behind": (rules.clocks([at(-5.0)]), "warning", "n2 by at least 4.9 s"),
    "an hour": (rules.clocks([NODE, at(3600.0)]), "problem", "n2 by at least 3599.9 s"),
    "no GPUs": (rules.gpus([NODE], wanted=False), "ok", "none is asked for"),
    "GPUs wanted": (rules.gpus([NODE], wanted=True), "problem", "no node has one"),
    "GPUs": (rules.gpus([node(**gpus(H100, H100)), NODE], wanted=True), "ok", "2 on 1 node"),
    "CPU build of torch": (
        rules.gpus([node(**gpus(H100, cuda=None, usable=0))], wanted=True),
        "problem",
        "torch uses none of the GPUs of n2 (NVIDIA H100 80GB HBM3)",
    ),
    "CPU build, not wanted": (
        rules.gpus([node(**gpus(H100, cuda=None, usable=0))], wanted=False),
        "warning",
        "n2",
    ),
    "other GPUs and drivers": (
        rules.gpus([node("a", **gpus(H100)), node("b", **gpus(A100, cuda="12.4"))], wanted=True),
        "warning",
        "driver 535.183.01 (b), 570.86.15 (a); GPU NVIDIA A100-SXM4-80GB (b), NVIDIA H100 80GB HBM3 (a); "
        "CUDA of torch 12.4 (b), 12.8 (a)",
    ),
    "shm": (rules.shared_memory([NODE], gpus_wanted=True), "ok", "object store"),
    "docker's shm": (rules.shared_memory([node(shared_memory=64 << 20)], False), "warning", "64.0 MiB of 1.0 GiB"),
    "docker's shm with GPUs": (
        rules.shared_memory([node(shared_memory=64 << 20)], True),
        "problem",
        "n2 has 64.0 MiB",
    ),
    "handles": (rules.open_files([NODE, node(open_files=sys.maxsize)]), "ok", "65,536"),
    "few handles": (rules.open_files([node(open_files=20_000)]), "warning", "n2 allows 20,000"),
    "too few handles": (rules.open_files([node(open_files=1_024)]), "problem", "1,024"),
    "room on disks": (rules.disks([NODE], None), "ok", "room"),
    "little disk": (rules.disks([node(free_temporary=5 * GIB)], None), "warning", "5.0 GiB free of 10.0 GiB"),
    "full disk": (rules.disks([node(free_storage=1 << 20)], None), "problem", "storage of n2: 1.0 MiB free"),
    "less than the plan": (
        rules.disks([node(free_storage=50 * GIB)], 80 * GIB),
        "problem",
        "50.0 GiB free of 80.0",
    ),
    "full for a small model": (
        rules.disks([node(free_storage=GIB // 2)], 1 << 20),
        "problem",
        "512.0 MiB free of 1.0 GiB",
    ),
    "not writable": (rules.disks([node(free_storage=None)], None), "problem", "n2 cannot write"),
    "it fits": (rules.enough_nodes(Cluster(workers=3), [NODE]), "ok", "3 of 4 CPUs"),
    "it does not fit": (
        rules.enough_nodes(Cluster(workers=9), [NODE, node()]),
        "problem",
        "9 CPUs, and there are 8",
    ),
    "the fewest fit": (
        rules.enough_nodes(Cluster(workers=(2, 9)), [NODE]),
        "warning",
        "not for all 9 workers: 9 CPUs",
    ),
    "in no one node": (
        rules.enough_nodes(Cluster(cpus_per_worker=6), [NODE, node()]),
        "problem",
        "no node has as many",
    ),
    "in one node": (
        rules.enough_nodes(Cluster(cpus_per_worker=6), [NODE, node(resources={"CPU": 8.0})]),
        "ok",
        "6 of 12 CPUs",
    ),
    "no GPU in Ray": (
        rules.enough_nodes(Cluster(gpus_per_worker=1), [NODE]),
        "problem",
        "1 GPUs, and there are 0",
    ),
    "object store": (rules.object_store(Cluster(), [NODE]), "ok", "200 MiB or more"),
    "small object store": (
        rules.object_store(Cluster(), [node(resources={"object_store_memory": 1e8})]),
        "warning",
        "200 MiB on n2",
    ),
}


@pytest.mark.parametrize("name", FINDINGS)
def test_what_a_rule_says_of_facts(name: str) -> None:
    finding, level, says = FINDINGS[name]
    assert (finding.level, says in finding.found) == (level, True), finding
    assert bool(finding.do) == (level != "ok"), "what is not well has a remedy"


@pytest.mark.parametrize(("stored", "width"), [("F32", 4), ("BF16", 2)])
@pytest.mark.parametrize(
    ("dtype", "stage", "times"),
    [
        ("float32", {}, 1 + 3 * 3),
        ("bfloat16", {}, 1 + 7 * 3),
        ("bfloat16", {"checkpoint": {"keep": 1}}, 1 + 7 * 2),
        ("bfloat16", {"lora": {}}, 1),
    ],
)
def test_a_disk_must_hold_the_model_and_the_checkpoints_of_the_largest_step(
    stored: str, width: int, dtype: str, stage: dict[str, Any], times: int, tmp_path: Path
) -> None:
    header = json.dumps({"w": {"dtype": stored, "shape": [50, 10], "data_offsets": [0, 500 * width]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(500 * width))
    stages = {"align": {"kind": "dpo", "data": ["a"], **stage}, "blend": {"kind": "merge", "of": ["align", "base"]}}
    data = {"a": {"generate": {"kind": "arithmetic"}}}
    document = {"name": "p", "model": {"path": str(tmp_path), "dtype": dtype}, "data": data, "stages": stages}
    published = 500 * (4 if dtype == "float32" else 2)
    assert rules.largest_step(Plan.model_validate(document)) == published * times


def test_the_worst_decides_and_problems_come_last() -> None:
    found = [problem("c", "bad", "mend it"), ok("a", "fine"), warning("b", "hm", "look")]
    assert worst(found) == "problem" and worst(found[1:]) == "warning" and worst([]) == "ok"
    assert findings_text(found).splitlines() == [
        "ok       a: fine",
        "warning  b: hm",
        "         → look",
        "problem  c: bad",
        "         → mend it",
    ]


@pytest.mark.parametrize(
    "version", ["2.9.1", "2.10.0", "2.10.0rc1", "2.10", "2.13.0+cpu", "2.6.0.dev20250101", "1.13", "3"]
)
@pytest.mark.parametrize("row", ADVISORIES, ids=lambda row: row.id)
def test_versions_are_compared_as_packaging_does(version: str, row: Advisory) -> None:
    told = row in holes(row.package, version)
    assert told == (Version(version) < Version(row.fixed_in))


def test_the_page_lists_the_holes_that_are_looked_for() -> None:
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    rows = [f"| {row.id} | {row.package} | {row.fixed_in} | {row.what} |" for row in ADVISORIES]
    assert [line for line in page.splitlines() if line.startswith(("| CVE-", "| GHSA-"))] == rows
