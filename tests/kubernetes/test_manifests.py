"""Manifests are read with their lines, and kustomizations are built as kubectl builds them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from k8s_example import APPLIED, K8S, objects, write
from raised import raises
from ratchet.errors import PlanError
from ratchet.kubernetes.check import Against, check_objects, read_objects
from ratchet.kubernetes.forms import quantity
from ratchet.kubernetes.kustomize import build_kustomization
from ratchet.kubernetes.manifests import name_of, object_kind, parse_manifests, to_yaml

POD = """
apiVersion: v1
kind: ConfigMap
metadata: {name: one}
data:
  on: off
  day: 2026-11-21
---
---
apiVersion: v1
kind: ConfigMap
metadata: &two
  name: two
  labels: {a: b}
spec: {template: {metadata: *two}}
"""


TENFOLD = "".join(f"{one}: &{one} [{', '.join([f'*{other}'] * 10)}]\n" for one, other in ("ba", "cb", "dc", "ed", "fe"))
BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + TENFOLD


@pytest.mark.heavy
@pytest.mark.parametrize("folder", APPLIED)
def test_a_kustomization_is_built_as_kubectl_builds_it(folder: str) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip(
            "no kubectl on this machine: Debian 13's package kubernetes-client has one (Debian 12's is too old)"
        )
    built = subprocess.run(["kubectl", "kustomize", K8S / folder], capture_output=True, text=True, check=True).stdout
    theirs = {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(built)}
    ours = objects(folder)
    assert {(object_kind(one), name_of(one)): one.data for one in ours} == theirs
    assert len(ours) == len(theirs)


def test_all_folders_that_are_applied_are_known() -> None:
    assert [
        "cluster",
        *(f"overlays/{name}" for name in ("cron", "gpu", "gpus", "kueue", "redis", "spot", "sweep", "toy")),
    ] == APPLIED


def test_objects_keep_their_lines_and_kubernetes_scalars() -> None:
    one, two = parse_manifests(POD, "x.yaml")
    assert one.data["data"] == {"on": False, "day": "2026-11-21"}
    assert str(two.place(("metadata", "name"))) == "x.yaml:13"
    inner = two.data["spec"]["template"]["metadata"]
    assert inner == two.data["metadata"]
    assert inner is not two.data["metadata"]
    assert str(two.place(("spec", "template", "metadata", "labels"))) == "x.yaml:14"


def test_a_list_counts_as_its_items() -> None:
    text = "kind: List\nitems:\n- {kind: A, metadata: {name: a}}\n- kind: B\n  metadata: {name: b}\n"
    assert [(object_kind(one), name_of(one)) for one in parse_manifests(text, "x")] == [("A", "a"), ("B", "b")]
    assert str(parse_manifests(text, "x")[1].place(("metadata", "name"))) == "x:5"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [1\n", "x.yaml:2: not YAML"),
        ("- a", "x.yaml:1: must be an object"),
        ("a: !!python/object:os.system x", "cannot be read"),
        (BOMB, "more than 100,000 values"),
        ("a: &a [*a]", "nested more than 32 deep"),
    ],
    ids=["open", "list", "tag", "bomb", "circle"],
)  # fmt: skip
def test_what_is_no_manifest_is_refused(text: str, says: str) -> None:
    with pytest.raises(PlanError, match=says):
        raise PlanError("\n".join(str(problem) for one in parse_manifests(text, "x.yaml") for problem in one.problems))


def test_a_key_that_is_written_twice_is_told() -> None:
    (one,) = parse_manifests("kind: A\nmetadata: {name: a}\nkind: B\n", "x.yaml")
    assert [str(problem) for problem in one.problems] == ["x.yaml:3: kind: written twice, first in line 1"]


@pytest.mark.parametrize(
    ("text", "value"),
    [("500m", 0.5), ("8Gi", 8 * 2**30), ("1k", 1000), ("57", 57), (2, 2), ("8Gb", None), (True, None), ("", None)],
)
def test_quantities_are_those_of_kubernetes(text: object, value: float | None) -> None:
    assert quantity(text) == value


def test_what_is_written_is_read_again() -> None:
    written = [one.data for one in objects("overlays/spot")]
    assert [one.data for one in parse_manifests(to_yaml(written), "x")] == written
    assert list(yaml.safe_load_all(to_yaml([{"a": "on", "b": "x\ny\n", "c": "1"}]))) == [
        {"a": "on", "b": "x\ny\n", "c": "1"}
    ]


BASE = "resources: [one.yaml]\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (BASE + "namePrefix: x-\n", r"kustomization.yaml:2: namePrefix: is not followed by Ratchet: build it with kubectl"),  # noqa: E501
        ("resources: [none.yaml]\n", r"kustomization.yaml:1: resources\[0\]: there is no .*none.yaml"),
        (BASE + "patches:\n- target: {kind: B}\n  patch: |-\n    - {op: add, path: /a, value: 1}\n", "no object is B"),
        (BASE + "patches:\n- target: {kind: A}\n  patch: |-\n    - {op: replace, path: /x, value: 1}\n", "nothing to replace"),  # noqa: E501
        (BASE + "patches:\n- target: {kind: A}\n  patch: |-\n    - {op: add, path: /x/y, value: 1}\n", "nothing to add"),  # noqa: E501
        (BASE + "patches:\n- target: {kind: A}\n  patch: |-\n    - {op: remove, path: /l/0}\n", "nothing to remove"),
        (BASE + "patches:\n- {path: patch.yaml}\n", "where its text stands in `patch`"),
        ("resources: [.]\n", "names itself"),
    ],
)  # fmt: skip
def test_what_kustomize_is_not_followed_in_is_refused(tmp_path: Path, text: str, says: str) -> None:
    write(tmp_path, kustomization=text, one="kind: A\nmetadata: {name: a}\nl: [1, 2]\n")
    with pytest.raises(PlanError, match=says):
        build_kustomization(tmp_path)


def test_a_patched_key_is_told_at_the_patch(tmp_path: Path) -> None:
    job = "kind: RayJob\nmetadata: {name: a}\nspec: {backoffLimit: 3}\n"
    patch = (
        "patches:\n- target: {kind: RayJob}\n  patch: |-\n    - {op: replace, path: /spec/backoffLimit, value: -1}\n"
    )
    write(tmp_path, kustomization=BASE + patch, one=job)
    told = [str(one) for one in check_objects(read_objects([tmp_path]), Against())]
    assert any("kustomization.yaml:4: spec.backoffLimit: -1 is below 0" in line for line in told), told


def test_a_folder_without_manifests_is_told(tmp_path: Path) -> None:
    with raises("plan.manifest"):
        read_objects([tmp_path])
