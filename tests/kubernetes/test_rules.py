"""Each rule of KubeRay's operator and of our own goes red at what it is about, and says where."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k8s_example import GATES, changed, head_of, of_kind, texts_of, worker_of
from ratchet.kubernetes.check import Against, check_objects
from ratchet.kubernetes.kuberay import operator_faults
from ratchet.kubernetes.manifests import at
from ratchet.kubernetes.own_rules import house_faults, image_fault, security_faults
from ratchet.kubernetes.ray_parts import CLUSTERS
from tests.conftest import ROOT

HERE = Against(root=ROOT)
V2 = {"enableInTreeAutoscaling": True, "autoscalerOptions": {"version": "v2"}}


def told(kind: str, change: Any) -> str:
    return texts_of(check_objects(changed(kind, change), HERE))


def head_env(name: str, value: str = "1") -> Any:
    return lambda _, spec: head_of(spec)["containers"][0]["env"].append({"name": name, "value": value})


CLUSTER = {
    "feature gate RayClusterMTLS": lambda _, s: s.update(tlsOptions={"enabled": True}),
    "feature gate RayClusterNetworkPolicy": lambda _, s: s.update(networkPolicy={"mode": "DenyAll"}),
    "no group is named x": lambda _, s: s.update(networkPolicy={"workerGroups": [{"groupName": "x"}]}),
    "leaves that way open": lambda _, s: s.update(
        networkPolicy={"mode": "DenyAllIngress", "head": {"egressRules": [{}]}}
    ),
    "minReplicas: -1 is below 0": lambda _, s: s["workerGroupSpecs"][0].update(minReplicas=-1),
    "is no label of Kubernetes": lambda _, s: s["headGroupSpec"].update(labels={"a b": "c"}),
    "idleTimeoutSeconds: needs autoscalerOptions.version: v2": lambda _, s: s["workerGroupSpecs"][0].update(
        idleTimeoutSeconds=5
    ),
    "cannot be suspended where the autoscaler runs": lambda _, s: (s.update(V2), s["workerGroupSpecs"][0].update(suspend=True)),  # noqa: E501
    "must have restartPolicy Never": lambda _, s: (s.update(V2), worker_of(s).update(restartPolicy="Always")),
    "without enableInTreeAutoscaling": head_env("RAY_enable_autoscaler_v2"),
    "say the same: keep the latter": lambda d, s: (s.update(V2), head_env("RAY_enable_autoscaler_v2")(d, s)),
    "KUBERAY_GEN_AUTOSCALER_START_CMD is KubeRay's own": lambda _, s: s.update(
        autoscalerOptions={"env": [{"name": "KUBERAY_GEN_AUTOSCALER_START_CMD", "value": "x"}]}
    ),
    "token mode needs rayVersion": lambda _, s: s.pop("rayVersion"),
    "secretName: does not go with enableK8sTokenAuth": lambda _, s: s["authOptions"].update(enableK8sTokenAuth=True),
    "use gcsFaultToleranceOptions.redisUsername": head_env("REDIS_USERNAME"),
    "REDIS_PASSWORD is said by gcsFaultToleranceOptions": lambda d, s: (
        s.update(gcsFaultToleranceOptions={}), head_env("REDIS_PASSWORD")(d, s)
    ),
    "storage: is for backend: rocksdb": lambda _, s: s.update(gcsFaultToleranceOptions={"storage": {"size": "1Gi"}}),
    "redisAddress: does not go with backend: rocksdb": lambda _, s: s.update(
        gcsFaultToleranceOptions={"backend": "rocksdb", "redisAddress": "x"}
    ),
    "size: does not go with claimName": lambda _, s: s.update(
        gcsFaultToleranceOptions={"backend": "rocksdb", "storage": {"size": "1Gi", "claimName": "x"}}
    ),
    "RAY_USE_TLS is KubeRay's own": lambda d, s: (s.update(tlsOptions={"enabled": True}), head_env("RAY_USE_TLS")(d, s)),  # noqa: E501
    "mountPath: KubeRay mounts its own volume at /data/gcs": lambda _, s: (
        s.update(gcsFaultToleranceOptions={"backend": "rocksdb"}),
        head_of(s)["containers"][0]["volumeMounts"].append({"name": "mine", "mountPath": "/data/gcs"}),
    ),
    "priority: needs autoscalerOptions.version: v2": lambda _, s: s["workerGroupSpecs"][0].update(priority=3),
    "priority: needs Ray 2.56.0 or later, and rayVersion is 2.55.9": lambda _, s: (
        s.update(V2, rayVersion="2.55.9"), s["workerGroupSpecs"][0].update(priority=3)
    ),
    "has no container": lambda _, s: worker_of(s).update(containers=[]),
}  # fmt: skip


@pytest.mark.parametrize("says", CLUSTER)
def test_the_operators_rules_of_clusters(says: str) -> None:
    assert says in told("RayCluster", CLUSTER[says])


def test_pods_that_go_soon_after_the_end_are_no_fault() -> None:
    later = {"policy": "DeleteSelf", "condition": {"jobStatus": "SUCCEEDED", "ttlSeconds": 86400}}
    assert "holds" not in told("RayJob", rules(later))
    assert "holds" not in told("RayJob", lambda _d, _s: None)


@pytest.mark.parametrize("kind", CLUSTERS)
def test_an_upgrade_strategy_is_for_clusters_of_their_own(kind: str) -> None:
    strategy = {"upgradeStrategy": {"type": "Recreate"}}
    says = f"upgradeStrategy.type: is not for the cluster of a {kind}"
    assert (says in told(kind, lambda _, s: s.update(strategy))) == (kind != "RayCluster")


RULE = {"policy": "DeleteCluster", "condition": {"jobStatus": "SUCCEEDED", "ttlSeconds": 9}}


def rules(*others: Any) -> Any:
    def change(d: Any, _: Any) -> None:
        d["spec"].update(shutdownAfterJobFinishes=False, deletionStrategy={"deletionRules": [RULE, *others]})
        d["spec"].pop("ttlSecondsAfterFinished")

    return change


JOB = {
    "has 48 characters, and KubeRay allows 47": lambda d, _: d["metadata"].update(name="r" * 48),
    "a letter first and no hyphen last": lambda d, _: d["metadata"].update(name="2nd"),
    "suspend: needs shutdownAfterJobFinishes": lambda d, _: d["spec"].update(suspend=True, shutdownAfterJobFinishes=False),  # noqa: E501
    "ttlSecondsAfterFinished: needs shutdown": lambda d, _: d["spec"].update(shutdownAfterJobFinishes=False),
    "ttlSecondsAfterFinished: -1 is below 0": lambda d, _: d["spec"].update(ttlSecondsAfterFinished=-1),
    "does not go with shutdownAfterJobFinishes: keep one": lambda d, _: d["spec"].update(deletionStrategy={"deletionRules": [RULE]}),  # noqa: E501
    "needs deletionRules, or both": lambda d, _: d["spec"].update(deletionStrategy={"onSuccess": {"policy": "DeleteSelf"}}),  # noqa: E501
    "DeleteCluster is asked for twice at SUCCEEDED": rules(RULE),
    "DeleteSelf would come before DeleteCluster": rules({"policy": "DeleteSelf", "condition": {"jobStatus": "SUCCEEDED"}}),  # noqa: E501
    "exactly one of jobStatus and jobDeploymentStatus": rules({"policy": "DeleteSelf", "condition": {}}),
    "submitterPodTemplate: does not go with SidecarMode": lambda d, _: d["spec"].update(submissionMode="SidecarMode"),
    "backoffLimit: does not go with InteractiveMode": lambda d, _: d["spec"].update(submissionMode="InteractiveMode"),
    "names no cluster": lambda d, _: d["spec"].update(clusterSelector={"app": "x"}),
    "has neither rayClusterSpec nor clusterSelector": lambda d, _: d["spec"].pop("rayClusterSpec"),
    "activeDeadlineSeconds: 0 is not above 0": lambda d, _: d["spec"].update(activeDeadlineSeconds=0),
    "runtimeEnvYAML: is not YAML": lambda d, _: d["spec"].update(runtimeEnvYAML="a: ["),
    "enableK8sTokenAuth: is not for a RayJob": lambda _, s: s.update(authOptions={"mode": "token", "enableK8sTokenAuth": True}),  # noqa: E501
    # our own
    "ttlSecondsAfterFinished: holds the GPUs for 3600 s": lambda d, _: d["spec"].update(ttlSecondsAfterFinished=3600),
    "holds its GPUs for ever after": lambda d, _: (
        d["spec"].pop("ttlSecondsAfterFinished"), d["spec"].pop("shutdownAfterJobFinishes")
    ),
    "condition.ttlSeconds: holds the GPUs for 7200 s": rules(
        {"policy": "DeleteSelf", "condition": {"jobStatus": "FAILED", "ttlSeconds": 7200}}
    ),
    "HTTPMode has no submitter": lambda d, _: d["spec"].update(submissionMode="HTTPMode"),
    "without a checkpoint": lambda d, _: d["spec"].pop("runtimeEnvYAML"),
    "WANDB_API_KEY: anybody who reaches the dashboard": lambda d, _: d["spec"].update(
        runtimeEnvYAML='env_vars: {WANDB_API_KEY: x, RAY_JOB_STOP_WAIT_TIME_S: "60"}'
    ),
    "would let the driver run on a worker": lambda d, _: d["spec"].update(entrypointNumCpus=1),
    "submitterPodTemplate: is missing": lambda d, _: d["spec"].pop("submitterPodTemplate"),
    "saves no job": lambda _, s: s.update(gcsFaultToleranceOptions={"redisAddress": "x"}),
    "must be `ratchet run|score|sweep PLAN": lambda d, _: d["spec"].update(entrypoint="python -c 1"),
    "entrypoint: is no shell command": lambda d, _: d["spec"].update(entrypoint="ratchet run 'x"),
    "none.yaml: no such file": lambda d, _: d["spec"].update(entrypoint="ratchet run jobs/none.yaml"),
    "cluster.worker: no such key": lambda d, _: d["spec"].update(entrypoint=d["spec"]["entrypoint"].replace("gpus_per_worker", "worker")),  # noqa: E501
    "no ConfigMap here is mounted there": lambda d, _: d["spec"].update(entrypoint="ratchet run /x/y.yaml"),
    "cluster.storage is /elsewhere": lambda d, _: d["spec"].update(
        entrypoint=d["spec"]["entrypoint"].replace("/mnt/store", "/elsewhere")
    ),
    "the plan has 2 workers of 7 CPUs and 1 GPUs, and the smallest number of pods holds 1": lambda d, _: d["spec"].update(  # noqa: E501
        entrypoint=d["spec"]["entrypoint"] + " --set cluster.workers=2"
    ),
    "the pods have GPUs, and the plan uses none": lambda d, _: d["spec"].update(
        entrypoint="ratchet run jobs/quickstart.yaml --set cluster.storage=/mnt/store"
    ),
}  # fmt: skip


@pytest.mark.parametrize("says", JOB)
def test_rules_of_jobs(says: str) -> None:
    assert says in told("RayJob", JOB[says])


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"schedule": "30 2 * *"}, "has 4 fields"),
        ({"schedule": "61 2 * * *"}, "'61' is no minute"),
        ({"schedule": "0 9-5 * * *"}, "begins after its end"),
        ({"schedule": "0 9 * * fri-sun"}, "'fri-sun' begins after its end"),
        ({"schedule": "0 9 * * 5-tue"}, "begins after its end"),
        ({"schedule": "0 9 * mon *"}, "'mon' is no month"),
        ({"schedule": "0 9 * * jan"}, "'jan' is no weekday"),
        ({"schedule": "0 mon * * *"}, "'mon' is no hour"),
        ({"schedule": "\u00b2 9 * * *"}, "is no minute"),
        ({"schedule": "TZ=UTC 0 2 * * *"}, "say the time zone in timeZone"),
        ({"timeZone": "Moon/Base"}, "is no time zone"),
        ({"schedule": "*/5 0-6,22 1 jan-mar MON"}, ""),
        ({"schedule": "0 9 1 DEC sun-sat,1-fri/2"}, ""),
        ({"schedule": "@daily"}, ""),
        ({"schedule": "@every 1h30m"}, ""),
    ],
)
def test_rules_of_cron_jobs(spec: dict[str, str], says: str) -> None:
    objects = changed("RayCronJob", lambda data, _: data["spec"].update(spec))
    found = texts_of(check_objects(objects, Against(root=ROOT, gates=GATES["RayCronJob"])))
    assert (says in found) if says else not found


def test_the_name_of_a_cron_job_is_shorter() -> None:
    found = told("RayCronJob", lambda data, _: data["metadata"].update(name="r" * 37))
    assert "has 37 characters, and KubeRay allows 36" in found


@pytest.mark.parametrize("version", ["ray.io/v2", "ray.io/v1alpha1", "v1", "ray.io/v1"])
@pytest.mark.parametrize("kind", CLUSTERS)
def test_objects_of_ray_are_of_the_version_that_is_checked(kind: str, version: str) -> None:
    found = told(kind, lambda data, _: data.update(apiVersion=version))
    assert (f"apiVersion: {version}: must be ray.io/v1" in found) == (version != "ray.io/v1")


PODS = {
    "must be {mode: token, secretName": lambda s: s.pop("authOptions"),
    "names no Secret": lambda s: s["authOptions"].pop("secretName"),
    "RAY_AUTH_MODE must be token": lambda s: head_of(s)["containers"][0]["env"][0].update(value="disabled"),
    'num-cpus: must be "0"': lambda s: s["headGroupSpec"]["rayStartParams"].clear(),
    "request and limit of the head must be the same": lambda s: head_of(s)["containers"][0]["resources"]["limits"].update(cpu="3"),  # noqa: E501
    "is killed after 60 s, while Ray drains it for 90 s": lambda s: worker_of(s).update(terminationGracePeriodSeconds=60),  # noqa: E501
    "is killed after 30 s, while": lambda s: head_of(s).pop("terminationGracePeriodSeconds"),
    "livenessProbe: KubeRay sets its own": lambda s: worker_of(s)["containers"][0].update(livenessProbe={}),
    "/dev/shm, which has 64 MB": lambda s: worker_of(s)["containers"][0]["volumeMounts"].pop(),
    "only the head sees ratchet-store at /mnt/store": lambda s: worker_of(s)["containers"][0]["volumeMounts"].pop(0),
    "no persistent volume": lambda s: head_of(s)["volumes"].pop(0),
    "no NetworkPolicy here selects": lambda s: s["workerGroupSpecs"][0]["template"]["metadata"].pop("labels"),
    "automountServiceAccountToken: must be false": lambda s: worker_of(s).pop("automountServiceAccountToken"),
    "the autoscaler on the head needs the token": lambda s: s.update(V2),
    "runAsNonRoot: must be true": lambda s: worker_of(s)["securityContext"].pop("runAsNonRoot"),
    "runAsUser: is root": lambda s: worker_of(s)["securityContext"].update(runAsUser=0),
    "must be {type: RuntimeDefault}": lambda s: head_of(s)["securityContext"].pop("seccompProfile"),
    "hostNetwork: opens the node": lambda s: worker_of(s).update(hostNetwork=True),
    "hostPath: opens the node's files": lambda s: worker_of(s)["volumes"].append({"name": "h", "hostPath": {"path": "/"}}),  # noqa: E501
    "allowPrivilegeEscalation: must be false": lambda s: worker_of(s)["containers"][0]["securityContext"].pop("allowPrivilegeEscalation"),  # noqa: E501
    "capabilities: must drop [ALL]": lambda s: worker_of(s)["containers"][0]["securityContext"].pop("capabilities"),
    "privileged: must not be": lambda s: worker_of(s)["containers"][0]["securityContext"].update(privileged=True),
    "`latest` is another image tomorrow": lambda s: worker_of(s)["containers"][0].update(image="registry.example/ratchet:latest"),  # noqa: E501
    "WANDB_API_KEY in the clear": lambda s: head_of(s)["containers"][0]["env"].append({"name": "WANDB_API_KEY", "value": "x"}),  # noqa: E501
    "looks like a secret in the clear": lambda s: head_of(s)["containers"][0].update(args=["--hub", "hf_" + "a" * 30]),
    "a password in the clear": lambda s: s.update(gcsFaultToleranceOptions={"redisPassword": {"value": "x"}}),
}  # fmt: skip


@pytest.mark.parametrize("says", PODS)
def test_our_own_rules_of_pods(says: str) -> None:
    assert says in told("RayJob", lambda _, spec: PODS[says](spec))


def test_a_gate_that_is_on_is_no_fault() -> None:
    found = changed("RayCluster", lambda _, spec: spec.update(tlsOptions={"enabled": True}))
    assert "RayClusterMTLS" in texts_of(check_objects(found, HERE))
    assert texts_of(check_objects(found, Against(root=ROOT, gates=("RayClusterMTLS",)))) == ""
    assert "kind: needs the operator's feature gate RayCronJob" in texts_of(check_objects(of_kind("RayCronJob"), HERE))
    assert texts_of(check_objects(of_kind("RayCronJob"), Against(root=ROOT, gates=("RayCronJob",)))) == ""


def test_a_secret_in_a_file_is_told() -> None:
    found = of_kind("RayJob")
    found[1].data.update(kind="Secret", stringData={"auth_token": "x"})
    assert "stringData: a secret in a file" in texts_of(check_objects(found, HERE))


def test_the_same_object_twice_is_told() -> None:
    found = of_kind("RayJob")
    assert "RayJob ratchet is here twice" in texts_of(check_objects([*found, found[0]], HERE))


@pytest.mark.parametrize(
    ("image", "says"),
    [
        ("registry.example:5000/ratchet:0.1.0-gpu", ""),
        ("registry.example/ratchet@sha256:" + "a" * 64, ""),
        ("redis:7.4.2", ""),
        ("registry.example:5000/ratchet", "has no tag"),
        ("ratchet:0.1.01", "is not of this Ratchet"),
        ("ratchet@sha256:abc", "is no digest"),
        ("", "no image is named"),
    ],
)
def test_images_have_a_version(image: str, says: str) -> None:
    assert (says in image_fault(image)) if says else not image_fault(image)


JUNK = st.sampled_from([None, 3, -1.5, True, "x", "", [], {}, [None], [[]], {"a": None}])


@given(kind=st.sampled_from(list(CLUSTERS)), junk=JUNK, data=st.data())
def test_rules_stand_whatever_a_manifest_holds(kind: str, junk: Any, data: st.DataObject) -> None:
    document = of_kind(kind)[0]
    paths = [path for path in document.places if len(path) > 1 and not isinstance(path[-1], int)]
    path = data.draw(st.sampled_from(paths if kind != "RayService" else [("spec", "rayClusterConfig")]))
    holder = at(document.data, *path[:-1])
    holder[path[-1]] = junk
    for faults in (operator_faults, security_faults, house_faults):
        list(faults(document))
    check_objects([document], HERE)
