"""Twelve mistakes in each of KubeRay's four kinds are all found, and our own manifests have none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from k8s_example import APPLIED, GATES, changed, head_of, objects, of_kind, texts_of, worker_of, write_strict_crds
from nightly import nightly
from raised import raises
from ratchet.kubernetes.check import Against, check_objects
from ratchet.kubernetes.manifests import to_yaml
from ratchet.kubernetes.ray_parts import CLUSTERS
from ratchet.kubernetes.schema import Crd, read_crds
from tests.conftest import ROOT

HERE = Against(root=ROOT)


@pytest.fixture(scope="session", params=nightly(["made up", "KubeRay's"], lambda whose: whose == "made up"))
def crds(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Crd]:
    """CRDs that are made up in the default tier, and KubeRay's own nightly."""
    if request.param == "KubeRay's":
        found: dict[str, Crd] = request.getfixturevalue("published_crds")
        return found
    folder = tmp_path_factory.mktemp("crds")
    write_strict_crds(folder)
    return read_crds(folder)


@pytest.fixture(scope="session")
def published_crds(shared: Path) -> dict[str, Crd]:
    folder = shared / "kuberay_v1.7.0"
    if not folder.is_dir():
        pytest.skip(f"no CRDs of KubeRay at {folder}")
    return read_crds(folder)


def misspell(_: Any, spec: dict[str, Any]) -> None:
    spec["workerGroupSpecs"][0]["maxReplica"] = spec["workerGroupSpecs"][0].pop("maxReplicas")


def mistype(_: Any, spec: dict[str, Any]) -> None:
    spec["workerGroupSpecs"][0]["numOfHosts"] = "two"


def omit(_: Any, spec: dict[str, Any]) -> None:
    del spec["workerGroupSpecs"][0]["groupName"]


def miswrite_quantity(_: Any, spec: dict[str, Any]) -> None:
    worker_of(spec)["volumes"][1]["emptyDir"]["sizeLimit"] = "8Gb"


def break_cel(_: Any, spec: dict[str, Any]) -> None:
    spec["managedBy"] = "somebody-else"


def choose_none(_: Any, spec: dict[str, Any]) -> None:
    spec["authOptions"]["mode"] = "tokens"


def name_too_long(data: Any, _: dict[str, Any]) -> None:
    data["metadata"]["name"] = "r" * 54


def turn_replicas(_: Any, spec: dict[str, Any]) -> None:
    spec["workerGroupSpecs"][0].update(minReplicas=2, maxReplicas=1)


def old_ray(_: Any, spec: dict[str, Any]) -> None:
    spec["rayVersion"] = "2.51.9"


def say_cpus_twice(_: Any, spec: dict[str, Any]) -> None:
    spec["headGroupSpec"]["resources"] = {"CPU": "0"}


def hidden_redis(_: Any, spec: dict[str, Any]) -> None:
    head_of(spec)["containers"][0]["env"].append({"name": "RAY_REDIS_ADDRESS", "value": "redis:6379"})


def label_start(_: Any, spec: dict[str, Any]) -> None:
    spec["workerGroupSpecs"][0]["rayStartParams"]["labels"] = "a=b"


BY_SCHEMA = {
    misspell: "maxReplica",
    mistype: "'two' is not of type 'integer'",
    omit: "'groupName' is a required property",
    miswrite_quantity: "'8Gb'",
    break_cel: "managedBy field value must be",
}
BY_RULES = {
    choose_none: "authOptions: must be {mode: token",
    name_too_long: "has 54 characters",
    turn_replicas: "minReplicas: 2 is more than maxReplicas, 1",
    old_ray: "rayVersion: 2.51.9: token mode needs",
    say_cpus_twice: "rayStartParams.num-cpus: is said in rayStartParams and in resources",
    hidden_redis: "RAY_REDIS_ADDRESS without gcsFaultToleranceOptions",
    label_start: "labels belong into `labels`",
}


def test_there_are_twelve() -> None:
    assert len(BY_SCHEMA | BY_RULES) == 12
    assert len(CLUSTERS) == 4


@pytest.mark.parametrize("kind", CLUSTERS)
@pytest.mark.parametrize("change", BY_RULES, ids=lambda change: change.__name__)
def test_a_mistake_is_found_by_rules_alone(kind: str, change: Any) -> None:
    assert BY_RULES[change] in texts_of(check_objects(changed(kind, change), HERE))


@pytest.mark.parametrize("kind", CLUSTERS)
@pytest.mark.parametrize("change", BY_SCHEMA, ids=lambda change: change.__name__)
def test_a_mistake_is_found_by_the_schema(kind: str, change: Any, crds: dict[str, Crd]) -> None:
    if change is break_cel:
        pytest.importorskip("cel", reason="CEL rules need common-expression-language")
    assert BY_SCHEMA[change] in texts_of(check_objects(changed(kind, change), Against(crds, root=ROOT)))


@pytest.mark.parametrize("kind", CLUSTERS)
def test_without_a_mistake_nothing_is_found(kind: str, crds: dict[str, Crd]) -> None:
    assert texts_of(check_objects(of_kind(kind), Against(crds, root=ROOT, gates=GATES.get(kind, ())))) == ""


@pytest.mark.parametrize("folder", APPLIED)
def test_our_own_manifests_keep_every_rule(folder: str) -> None:
    assert texts_of(check_objects(objects(folder), Against(root=ROOT, gates=GATES.get(folder, ())))) == ""


def test_only_the_folder_that_needs_a_gate_is_told_so() -> None:
    told = {folder for folder in APPLIED if "feature gate RayCronJob" in texts_of(check_objects(objects(folder), HERE))}
    assert told == GATES.keys() & set(APPLIED) == {"overlays/cron"}


@pytest.mark.slow  # seconds to read KubeRay's CRDs
@pytest.mark.parametrize("folder", APPLIED)
def test_our_own_manifests_fit_the_schemas(folder: str, published_crds: dict[str, Crd]) -> None:
    pytest.importorskip("kubernetes_validate")
    assert texts_of(check_objects(objects(folder), Against(published_crds, "1.35", ROOT, GATES.get(folder, ())))) == ""


def test_mistakes_in_kubernetes_own_kinds_are_found() -> None:
    pytest.importorskip("kubernetes_validate")
    found = objects("cluster")
    policy = next(one for one in found if one.data["kind"] == "NetworkPolicy")
    policy.data["spec"]["ingres"] = []
    assert "ingres" in texts_of(check_objects(found, Against(version="1.35", root=ROOT)))


@pytest.mark.slow
def test_another_validator_of_the_crds_accepts_our_manifests(shared: Path, tmp_path: Path) -> None:
    script = shared.parent / "tools" / "validate_kuberay.py"
    if not script.is_file():
        pytest.skip(f"{script} is not there")
    files = []
    for n, folder in enumerate(APPLIED):
        files.append(tmp_path / f"{n}.yaml")
        files[-1].write_text(to_yaml([one.data for one in objects(folder)]))
    answer = subprocess.run([sys.executable, script, *files], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert f"checked {len(APPLIED)} bad 0" in answer.stdout


def test_a_folder_without_crds_is_told(tmp_path: Path) -> None:
    with raises("plan.manifest"):
        read_crds(tmp_path)
