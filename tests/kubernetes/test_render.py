"""`ratchet k8s render` writes an overlay for a plan, and `ratchet k8s check` says what is wrong with it."""

from __future__ import annotations

import io
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s_example import APPLIED, GATES, K8S, objects, write_crds
from ratchet.cli import main
from ratchet.kubernetes.fit import read_command
from ratchet.kubernetes.forms import IMAGE_FOLDER
from ratchet.kubernetes.ray_parts import cluster_of, job_of
from tests.conftest import ROOT

STORE = ["--set", "cluster.storage=/mnt/store"]
GPU = ["--set", "cluster.gpus_per_worker=1", "--set", "cluster.cpus_per_worker=7"]
WITH_JOBS = [folder for folder in APPLIED if any(job_of(one) for one in objects(folder))]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("RATCHET_CRDS", raising=False)


def rendered(capsys: pytest.CaptureFixture[str], *words: str, plan: str = "jobs/quickstart.yaml") -> dict[str, Any]:
    status = main(["k8s", "render", plan, *words])
    said = capsys.readouterr()
    assert status == 0, said.err
    return {one["kind"]: one for one in yaml.safe_load_all(said.out)}


def refused(capsys: pytest.CaptureFixture[str], *words: str, plan: str = "jobs/quickstart.yaml") -> str:
    assert main(["k8s", "render", plan, *words]) == 2
    return capsys.readouterr().err


def group(found: dict[str, Any]) -> dict[str, Any]:
    return found["RayJob"]["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]


@pytest.mark.parametrize("folder", WITH_JOBS)
def test_an_overlay_is_what_its_own_command_is_rendered_to(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    own = next(one for one in objects(folder) if job_of(one))
    job, cluster = job_of(own), cluster_of(own)
    command = read_command(job.data["entrypoint"])
    words = [word for one in command.overrides for word in ("--set", one)]
    words += ["--space", command.files[1]] if len(command.files) > 1 else []
    words += ["--gates", *GATES[folder]] if folder in GATES else []
    found = rendered(capsys, "--overlay", Path(folder).name, *words)[own.data["kind"]]
    spec = found["spec"] if own.data["kind"] == "RayJob" else found["spec"]["jobTemplate"]
    assert shlex.split(spec["entrypoint"])[:3] == shlex.split(job.data["entrypoint"])[:3]
    assert sorted(shlex.split(spec["entrypoint"])) == sorted(shlex.split(job.data["entrypoint"]))
    theirs, ours = cluster.data["workerGroupSpecs"][0], spec["rayClusterSpec"]["workerGroupSpecs"][0]
    keys = ["replicas", "minReplicas", "maxReplicas"]
    assert [ours[key] for key in keys] == [theirs[key] for key in keys]
    ours, theirs = ours["template"]["spec"], theirs["template"]["spec"]
    assert ours["containers"][0]["resources"] == theirs["containers"][0]["resources"]
    assert ours["volumes"][:2] == theirs["volumes"]


def test_pods_follow_the_plans_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--overlay", "spot", *STORE, *GPU, "--set", "cluster.workers=[3, 10]", "--gpus-per-node", "4"]
    found = group(rendered(capsys, *words, "--memory-per-worker", "32Gi"))
    assert [found[key] for key in ("replicas", "minReplicas", "maxReplicas")] == [1, 1, 3]
    expected = {"cpu": "29", "memory": "128Gi", "nvidia.com/gpu": "4"}
    assert found["template"]["spec"]["containers"][0]["resources"] == {"requests": expected, "limits": expected}
    assert found["template"]["spec"]["volumes"][1]["emptyDir"]["sizeLimit"] == "64Gi"


def test_without_an_autoscaler_there_is_room_for_all_workers(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--overlay", "kueue", *STORE, *GPU, "--set", "cluster.workers=[3, 10]", "--gpus-per-node", "4"]
    assert [group(rendered(capsys, *words))[key] for key in ("replicas", "minReplicas", "maxReplicas")] == [3, 3, 3]


def test_the_plan_and_its_suites_come_through_a_config_map(capsys: pytest.CaptureFixture[str]) -> None:
    found = rendered(capsys, "--overlay", "toy", *STORE)
    texts = found["ConfigMap"]["data"]
    assert texts["jobs.quickstart.yaml"] == (ROOT / "jobs/quickstart.yaml").read_text()
    assert texts["eval.sums.yaml"] == (ROOT / "eval/sums.yaml").read_text()
    spec = found["RayJob"]["spec"]["rayClusterSpec"]
    for pod in (spec["headGroupSpec"]["template"]["spec"], group(found)["template"]["spec"]):
        mounts = [one for one in pod["containers"][0]["volumeMounts"] if one["name"] == "plan"]
        assert {one["mountPath"]: one["subPath"] for one in mounts} == {
            f"{IMAGE_FOLDER}/jobs/quickstart.yaml": "jobs.quickstart.yaml",
            f"{IMAGE_FOLDER}/eval/sums.yaml": "eval.sums.yaml",
        }
        assert all(one["readOnly"] for one in mounts)
        assert {"name": "plan", "configMap": {"name": found["ConfigMap"]["metadata"]["name"]}} in pod["volumes"]


def test_another_plan_has_another_name_since_kuberay_runs_a_name_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = (ROOT / "jobs/quickstart.yaml").read_text()
    names = {}
    for change, text in {
        "as it is": own,
        "again": own,
        "edited": own.replace("seed: 1", "seed: 2") + "\n# x\n",
    }.items():
        plan = tmp_path / "quickstart.yaml"
        plan.write_text(text)
        found = rendered(capsys, "--overlay", "toy", *STORE, plan=str(plan))
        names[change] = found["RayJob"]["metadata"]["name"]
        assert found["ConfigMap"]["metadata"]["name"] == f"{names[change]}-plan"
        for one in (found["RayJob"], found["ConfigMap"]):
            assert one["metadata"]["labels"]["app.kubernetes.io/instance"] == "quickstart"
    assert names["as it is"] == names["again"] != names["edited"]
    assert re.fullmatch(r"quickstart-[0-9a-f]{8}", names["edited"])
    by_set = rendered(capsys, "--overlay", "toy", *STORE, "--set", "stages.align.beta=0.2", plan=str(plan))
    assert by_set["RayJob"]["metadata"]["name"] not in names.values()
    plan.write_text(own.replace("name: quickstart", f"name: {'long-' * 9}x"))
    assert len(rendered(capsys, "--overlay", "toy", *STORE, plan=str(plan))["RayJob"]["metadata"]["name"]) <= 47
    nightly = rendered(capsys, "--overlay", "cron", *STORE, "--gates", "RayCronJob")
    assert nightly["RayCronJob"]["metadata"]["name"] == "quickstart"


def test_what_else_an_overlay_asks_of_its_nodes_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(K8S, tmp_path / "k8s")
    folder = tmp_path / "k8s" / "overlays" / "rdma"
    folder.mkdir()
    others = {"rdma/hca": "8", "vpc.amazonaws.com/efa": "32", "ephemeral-storage": "500Gi", "hugepages-2Mi": "4Gi"}
    resources = {"cpu": "57", "memory": "512Gi", "nvidia.com/gpu": "8", **others}
    at = "/spec/rayClusterSpec/workerGroupSpecs/0/template/spec"
    claims = [{"name": "fabric"}]
    own = {"requests": {"cpu": "57", "ephemeral-storage": "100Gi"}, "limits": resources, "claims": claims}
    scratch = {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}
    patch = [
        {"op": "replace", "path": f"{at}/containers/0/resources", "value": own},
        {"op": "add", "path": f"{at}/volumes/-", "value": scratch},
    ]
    target = {"kind": "RayJob", "name": "ratchet"}
    (folder / "kustomization.yaml").write_text(
        yaml.safe_dump({"resources": ["../gpus"], "patches": [{"target": target, "patch": yaml.safe_dump(patch)}]})
    )
    words = ["--k8s", str(tmp_path / "k8s"), "--overlay", "rdma", *STORE, *GPU, "--set", "cluster.workers=4"]
    pod = group(rendered(capsys, *words, "--gpus-per-node", "4"))["template"]["spec"]
    sized = {"cpu": "29", "memory": "256Gi", "nvidia.com/gpu": "4"}
    assert pod["containers"][0]["resources"] == {
        "requests": {**sized, "ephemeral-storage": "100Gi"}, "limits": {**sized, **others}, "claims": claims
    }  # fmt: skip
    sizes = {volume["name"]: volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"] if "emptyDir" in volume}
    assert sizes == {"shm": "128Gi", "tmp": "1Gi"}, "memory for exchange follows the plan, other memory does not"


def test_storage_names_image_and_namespace_are_as_asked(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--overlay", "toy", "--set", "cluster.storage=/shared/x", "--name", "mine", "--namespace", "team"]
    found = rendered(capsys, *words, "--image", "registry.example/mine:7")
    text = yaml.safe_dump(found["RayJob"])
    assert "/mnt/store" not in text
    assert "value: /shared/x/hub" in text
    assert text.count("image: registry.example/mine:7") == 3
    assert "registry.example/ratchet" not in text
    assert {one["metadata"]["namespace"] for one in found.values()} == {"team"}
    assert found["RayJob"]["metadata"]["name"] == "mine"


def test_a_store_on_the_volume_leaves_the_mount_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    found = rendered(capsys, "--overlay", "toy", "--set", "cluster.storage=/mnt/store/team")
    mounts = group(found)["template"]["spec"]["containers"][0]["volumeMounts"]
    assert mounts[0] == {"name": "store", "mountPath": "/mnt/store"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--overlay", "toy"], "cluster.storage is outputs, which is another folder in every pod"),
        (["--overlay", "tiny"], "no overlay is named tiny; there are"),
        (["--overlay", "redis", *STORE], "has no job"),
        (["--overlay", "gpu", *STORE], "overlay gpu has GPUs, and the plan's workers use none"),
        (["--overlay", "toy", *STORE, *GPU], "overlay toy has no GPUs"),
        (["--overlay", "gpu", *STORE, *GPU, "--set", "cluster.workers=3"], "the plan needs 3 nodes, and overlay gpu is for one"),  # noqa: E501
        (["--overlay", "sweep", *STORE], "needs a space: --space FILE"),
        (["--overlay", "toy", *STORE, "--space", "tune_spaces/beta.yaml"], "takes no --space"),
        (["--overlay", "toy", *STORE, "--name", "r" * 48], "has 48 characters, and KubeRay allows 47"),
        (["--overlay", "cron", *STORE, "--name", "r" * 37], "KubeRay allows 36"),
        (["--overlay", "cron", *STORE], "kind: needs the operator's feature gate RayCronJob"),
        (["--overlay", "toy", *STORE, "--memory-per-worker", "4GB"], "write a quantity"),
        (["--overlay", "toy", *STORE, "--image", "registry.example/ratchet:latest"], "`latest` is another image tomorrow"),  # noqa: E501
        (["--overlay", "toy", "--k8s", "docs", *STORE], "an installed package does not bring the manifests"),
        (["--overlay", "toy", *STORE, "--set", "cluster.worker=2"], "no such key"),
    ],
)  # fmt: skip
def test_what_cannot_be_rendered_is_told(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert says in refused(capsys, *words)


def test_files_that_no_pod_would_find_are_told_with_their_line(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "--overlay", "toy", *STORE, plan="jobs/stories.yaml")
    assert "jobs/stories.yaml:17: model.path: models/stories260K is not on the volume of the pods" in said
    assert "jobs/stories.yaml:28: data.polite.path: " in said


def test_what_is_rendered_is_checked_with_the_plan_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "x.yaml"
    assert main(["k8s", "render", "jobs/quickstart.yaml", "--overlay", "toy", *STORE, "--out", str(out)]) == 0
    assert main(["k8s", "check", str(out), "--root", str(tmp_path)]) == 0  # no plan below root: it is the ConfigMap's
    text = out.read_text()
    monkeypatch.setattr("sys.stdin", io.StringIO(text.replace("cluster.storage=/mnt/store", "cluster.workers=9")))
    assert main(["k8s", "check", "-"]) == 2
    said = capsys.readouterr().err
    line = next(n for n, one in enumerate(text.splitlines(), 1) if one.strip().startswith("entrypoint:"))
    assert f"<stdin>:{line}: spec.entrypoint: cluster.storage is outputs, and pods share /mnt/store" in said
    assert "the plan has 9 workers" in said


def test_check_takes_folders_and_files_and_says_what_it_did_not_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["k8s", "check", *(str(K8S / folder) for folder in ("overlays/toy",))]) == 0
    said = capsys.readouterr().out
    assert "4 objects: rules of KubeRay v1.7.0 and of Ratchet kept" in said
    assert "schemas of KubeRay: not checked" in said


def test_check_takes_the_crds_from_the_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_crds(tmp_path)
    monkeypatch.setenv("RATCHET_CRDS", str(tmp_path))
    assert main(["k8s", "check", "k8s/overlays/redis", "--kubernetes", "1.35"]) == 0
    said = capsys.readouterr().out
    assert "schemas of KubeRay: checked" in said
    assert "schemas of Kubernetes: 1.35" in said
