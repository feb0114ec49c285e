"""What KubeRay v1.7.0 refuses in its objects (`utils/validation.go`), reported before the operator sees them.

The schema of the CRDs lets these through. The operator finds them after the object was created, and says so in an
event.
"""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Collection, Iterator

from ratchet.kubernetes.endings import deletion_faults
from ratchet.kubernetes.forms import LONGEST_NAMES, cron_fault, label_fault, name_fault
from ratchet.kubernetes.manifests import at, mapping, name_of, object_kind
from ratchet.kubernetes.ray_parts import (
    CLUSTERS,
    RayPart,
    autoscales,
    cluster_of,
    environment,
    groups,
    job_of,
    ray_container,
    ray_pods,
    runtime_env_of,
    variables_among,
)
from ratchet.plan.document import Document, Problem

_V2 = "RAY_enable_autoscaler_v2"
_REDIS_ADDRESS = "RAY_REDIS_ADDRESS"
_TLS = ("RAY_USE_TLS", "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")
_START = ("num-cpus", "num-gpus", "memory", "resources")
_GATED = {
    "networkPolicy": "RayClusterNetworkPolicy",
    "tlsOptions": "RayClusterMTLS",
    "historyServerOptions": "RayClusterHistoryServer",
}
"""Fields that need a feature gate of the operator that is off by default."""
_GCS_FOLDER = "/data/gcs"
"""Where KubeRay mounts the volume of backend rocksdb (Ray's guide to embedded RocksDB with KubeRay)."""
_LABEL = re.compile(r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_VALUE = re.compile(r"|[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_GENERATED = "x" * 5
"""What an API server appends to `generateName`."""


def operator_faults(document: Document, gates: Collection[str] = ()) -> Iterator[Problem]:
    """Yield what an operator with these feature gates on refuses in an object of its kinds; nothing for others."""
    kind, whole = object_kind(document), RayPart(document, (), document.data)
    if kind not in CLUSTERS:
        return
    made = at(document.data, "metadata", "generateName")
    generated = made if made and not name_of(document) else None
    if what := name_fault(f"{generated}{_GENERATED}" if generated else name_of(document), LONGEST_NAMES[kind]):
        yield document.problem(("metadata", "generateName" if generated else "name"), what)
    if (cluster := cluster_of(document)) is not None:
        yield from _cluster_faults(cluster, gates)
        if kind != "RayCluster" and at(cluster.data, "authOptions", "enableK8sTokenAuth") is True:
            yield cluster.problem(f"is not for a {kind}", "authOptions", "enableK8sTokenAuth")
        if kind != "RayCluster" and at(cluster.data, "upgradeStrategy", "type") is not None:
            yield cluster.problem(f"is not for the cluster of a {kind}", "upgradeStrategy", "type")
    if (job := job_of(document)) is not None:
        yield from _job_faults(job, cluster)
        yield from deletion_faults(job, cluster)
    if kind == "RayCronJob":
        yield from _gate_faults(whole, "RayCronJob", gates, "kind")
        yield from _cron_faults(whole.part("spec"))
    if kind == "RayService":
        yield from _service_faults(whole.part("spec"))


def _too_low(part: RayPart, *keys: str, zero: bool = True) -> Iterator[Problem]:
    for key in keys:
        value = part.data.get(key)
        if isinstance(value, int) and (value < 0 or (value == 0 and not zero)):
            yield part.problem(f"{value} is {'below' if zero else 'not above'} 0", key)


def _apart(part: RayPart, what: str, *keys: str) -> Iterator[Problem]:
    """Yield those of `keys` that say something, and do not go with `what`."""
    for key in keys:
        if part.data.get(key):
            yield part.problem(f"does not go with {what}", key)


def _gate_faults(part: RayPart, gate: str, gates: Collection[str], *below: str) -> Iterator[Problem]:
    if gate not in gates and at(part.data, *below) is not None:
        what = f"needs the operator's feature gate {gate}, which is off by default: --gates {gate} if it is on"
        yield part.problem(what, *below)


def _cluster_faults(cluster: RayPart, gates: Collection[str]) -> Iterator[Problem]:
    for part in (cluster.part("headGroupSpec"), *groups(cluster)):
        yield from _group_faults(part)
    for group in groups(cluster):
        yield from _size_faults(cluster, group)
    yield from _autoscaler_faults(cluster)
    yield from _auth_faults(cluster)
    yield from _redis_faults(cluster)
    yield from _network_faults(cluster)
    if at(cluster.data, "tlsOptions", "enabled") is True:
        owners = [ray_container(pod) for _, pod in ray_pods(cluster)] + [cluster.part("autoscalerOptions")]
        for name, entry in (found for owner in owners for found in variables_among(owner, _TLS)):
            yield entry.problem(f"{name} is KubeRay's own beside tlsOptions: leave it out")
    for field, gate in _GATED.items():
        yield from _gate_faults(cluster, gate, gates, field)
    if at(cluster.data, "gcsFaultToleranceOptions", "backend") == "rocksdb":
        path = ("gcsFaultToleranceOptions", "backend")
        yield from _gate_faults(cluster, "GCSFaultToleranceEmbeddedStorage", gates, *path)


def _group_faults(group: RayPart) -> Iterator[Problem]:
    if not at(group.data, "template", "spec", "containers"):
        yield group.problem("has no container", "template", "spec")
    start, own = mapping(group.data, "rayStartParams"), mapping(group.data, "resources")
    for key in (key for key in _START if start.get(key) and own):
        yield group.problem("is said in rayStartParams and in resources of the group: keep one", "rayStartParams", key)
    if "labels" in start:
        yield group.problem("labels belong into `labels` of the group", "rayStartParams", "labels")
    for key, value in mapping(group.data, "labels").items():
        if not (_LABEL.fullmatch(key) and _VALUE.fullmatch(str(value))):
            yield group.problem(f"{key}: {value} is no label of Kubernetes", "labels", key)


def _size_faults(cluster: RayPart, group: RayPart) -> Iterator[Problem]:
    yield from _too_low(group, "minReplicas", "maxReplicas", "idleTimeoutSeconds")
    fewest, most = group.data.get("minReplicas"), group.data.get("maxReplicas")
    idles, ranked = group.data.get("idleTimeoutSeconds") is not None, group.data.get("priority") not in (None, 0)
    by_v2, number, version = _autoscaler_v2(cluster), _ray_version(cluster), cluster.data.get("rayVersion")
    crossed = isinstance(fewest, int) and isinstance(most, int) and fewest > most
    suspended = group.data.get("suspend") is True and autoscales(cluster)
    old = number is not None and number < (2, 56)
    yield from group.problems(
        (crossed, f"{fewest} is more than maxReplicas, {most}", "minReplicas"),
        (idles and not by_v2, "needs autoscalerOptions.version: v2", "idleTimeoutSeconds"),
        (ranked and not by_v2, "needs autoscalerOptions.version: v2", "priority"),
        (ranked and old, f"needs Ray 2.56.0 or later, and rayVersion is {version}", "priority"),
        (suspended, "a group cannot be suspended where the autoscaler runs", "suspend"),
    )


def _ray_version(cluster: RayPart) -> tuple[int, int] | None:
    """Return the first two numbers of `rayVersion`; None where it has none."""
    match = re.match(r"v?(\d{1,9})\.(\d{1,9})", str(cluster.data.get("rayVersion")), re.ASCII)
    return (int(match[1]), int(match[2])) if match else None


def _autoscaler_v2(cluster: RayPart) -> bool:
    """Tell whether groups may have what only autoscaler v2 knows."""
    entry = environment(ray_container(cluster.part("headGroupSpec", "template", "spec")), _V2)
    by_variable = entry is not None and entry.data.get("value") in ("1", "true")
    # KubeRay does not ask whether the autoscaler is on.
    return by_variable or at(cluster.data, "autoscalerOptions", "version") == "v2"


def _autoscaler_faults(cluster: RayPart) -> Iterator[Problem]:
    options, scales = cluster.part("autoscalerOptions"), autoscales(cluster)
    for name, entry in variables_among(ray_container(cluster.part("headGroupSpec", "template", "spec")), (_V2,)):
        twice, idle = scales and options.data.get("version"), entry.data.get("value") in ("1", "true") and not scales
        yield from entry.problems(
            (twice, f"{name} and autoscalerOptions.version say the same: keep the latter"),
            (idle, f"{name} without enableInTreeAutoscaling"),
        )
    yield from _too_low(options, "idleTimeoutSeconds")
    for name, owned in variables_among(options, ("KUBERAY_GEN_AUTOSCALER_START_CMD",)):
        yield owned.problem(f"{name} is KubeRay's own: leave it out")
    for name, pod in ray_pods(cluster) if scales and options.data.get("version") == "v2" else ():
        if pod.data.get("restartPolicy") not in (None, "", "Never"):
            yield pod.problem(f"{name} must have restartPolicy Never, or none, beside autoscaler v2", "restartPolicy")


def _auth_faults(cluster: RayPart) -> Iterator[Problem]:
    auth, version = cluster.part("authOptions"), cluster.data.get("rayVersion")
    # KubeRay looks at versions only where tokens are on.
    token, delegated = auth.data.get("mode") == "token", auth.data.get("enableK8sTokenAuth") is True
    number = _ray_version(cluster) if token else None
    yield from cluster.problems(
        (delegated and not token, "needs mode: token", "authOptions", "enableK8sTokenAuth"),
        (
            token and number is None,
            f"token mode needs rayVersion, 2.52.0 or later, and it says {version}",
            "rayVersion",
        ),
        (number and number < (2, 52), f"{version}: token mode needs Ray 2.52.0 or later", "rayVersion"),
        (
            number and delegated and number < (2, 55),
            f"{version}: enableK8sTokenAuth needs Ray 2.55.0 or later",
            "rayVersion",
        ),
    )
    if number and delegated:
        yield from _apart(auth, "enableK8sTokenAuth", "secretName")


def _redis_faults(cluster: RayPart) -> Iterator[Problem]:
    head = cluster.part("headGroupSpec")
    container, start = ray_container(head.part("template", "spec")), mapping(head.data, "rayStartParams")
    passed_on = object_kind(cluster.document) != "RayCronJob"  # KubeRay looks at its job without any
    annotations = mapping(cluster.document.data, "metadata", "annotations") if passed_on else {}
    tolerant = "gcsFaultToleranceOptions" in cluster.data
    for key, field in (("redis-username", "redisUsername"), ("redis-password", "redisPassword")):
        if start.get(key) and (tolerant or key == "redis-username"):
            yield head.problem(f"use gcsFaultToleranceOptions.{field}", "rayStartParams", key)
    for _, user in variables_among(container, ("REDIS_USERNAME",)):
        yield user.problem("use gcsFaultToleranceOptions.redisUsername")
    if not tolerant:
        if str(annotations.get("ray.io/ft-enabled")).lower() != "true":
            for name, address in variables_among(container, (_REDIS_ADDRESS,)):
                yield address.problem(f"{name} without gcsFaultToleranceOptions")
        return
    for name, entry in variables_among(container, ("REDIS_PASSWORD", _REDIS_ADDRESS)):
        yield entry.problem(f"{name} is said by gcsFaultToleranceOptions: leave it out")
    for name in ("ray.io/ft-enabled", "ray.io/external-storage-namespace"):
        if annotations.get(name):
            what = "is said by gcsFaultToleranceOptions: leave it out"
            yield cluster.document.problem(("metadata", "annotations", name), what)
    yield from _backend_faults(cluster.part("gcsFaultToleranceOptions"), container)


def _backend_faults(options: RayPart, container: RayPart) -> Iterator[Problem]:
    if options.data.get("backend", "redis") != "rocksdb":
        if "storage" in options.data:
            yield options.problem("is for backend: rocksdb", "storage")
        return
    redis = ("redisAddress", "redisUsername", "redisPassword", "externalStorageNamespace")
    yield from _apart(options, "backend: rocksdb", *redis)
    storage = options.part("storage")
    if storage.data.get("claimName"):
        yield from _apart(storage, "claimName", "size", "storageClassName", "accessModes")
    for name, entry in variables_among(container, ("RAY_gcs_storage", "RAY_gcs_storage_path")):
        yield entry.problem(f"{name} is KubeRay's own beside backend: rocksdb")
    for mount in container.parts("volumeMounts"):
        if mount.data.get("mountPath") == _GCS_FOLDER:
            yield mount.problem(f"KubeRay mounts its own volume at {_GCS_FOLDER} beside backend: rocksdb", "mountPath")


def _network_faults(cluster: RayPart) -> Iterator[Problem]:
    if "networkPolicy" not in cluster.data:
        return
    policy = cluster.part("networkPolicy")
    names = {str(group.data.get("groupName")) for group in groups(cluster)}
    open_way = {"DenyAllEgress": "ingressRules", "DenyAllIngress": "egressRules"}.get(str(policy.data.get("mode")))
    for part in (policy.part("head"), policy.part("worker"), *policy.parts("workerGroups")):
        if open_way and part.data.get(open_way):
            yield part.problem(f"mode {policy.data['mode']} leaves that way open: no rules for it", open_way)
    for part in policy.parts("workerGroups"):
        if str(part.data.get("groupName")) not in names:
            yield part.problem(f"no group is named {part.data.get('groupName')}", "groupName")
    for group in groups(cluster):
        if label_fault(str(group.data.get("groupName"))):
            yield group.problem("must be a DNS label beside networkPolicy", "groupName")


def _job_faults(job: RayPart, cluster: RayPart | None) -> Iterator[Problem]:
    mode, selected = job.data.get("submissionMode", "K8sJobMode"), bool(job.data.get("clusterSelector"))
    nameless = selected and not at(job.data, "clusterSelector", "ray.io/cluster")
    suspended, ends = job.data.get("suspend") is True, bool(job.data.get("shutdownAfterJobFinishes"))
    retried, kept = (job.above_zero(key) for key in ("backoffLimit", "ttlSecondsAfterFinished"))
    policy = at(cluster.data, "headGroupSpec", "template", "spec", "restartPolicy") if cluster else None
    sidecar, restarts = mode == "SidecarMode", policy not in (None, "", "Never")
    yield from job.problems(
        (suspended and not ends, "needs shutdownAfterJobFinishes: true", "suspend"),
        (kept and not ends, "needs shutdownAfterJobFinishes: true", "ttlSecondsAfterFinished"),
        (suspended and selected, "does not go with clusterSelector", "suspend"),
        (cluster is None and not selected, "has neither rayClusterSpec nor clusterSelector"),
        (nameless, "names no cluster: ray.io/cluster: NAME", "clusterSelector"),
        (sidecar and selected, "SidecarMode does not go with clusterSelector", "submissionMode"),
        (sidecar and restarts, "SidecarMode needs restartPolicy Never, or none, on the head", "submissionMode"),
        (sidecar and "submitterPodTemplate" in job.data, "does not go with SidecarMode", "submitterPodTemplate"),
        (sidecar and "submitterConfig" in job.data, "does not go with SidecarMode", "submitterConfig"),
        (retried and selected, "does not go with clusterSelector", "backoffLimit"),
        (retried and mode == "InteractiveMode", "does not go with InteractiveMode", "backoffLimit"),
    )
    yield from _too_low(job, "backoffLimit", "ttlSecondsAfterFinished")
    yield from _too_low(job, "activeDeadlineSeconds", "preRunningDeadlineSeconds", zero=False)
    if what := runtime_env_of(job)[1]:
        yield job.problem(what, "runtimeEnvYAML")


def _cron_faults(spec: RayPart) -> Iterator[Problem]:
    schedule, zone = str(spec.data.get("schedule") or ""), spec.data.get("timeZone")
    if what := "say the time zone in timeZone" if "TZ" in schedule else cron_fault(schedule):
        yield spec.problem(what, "schedule")
    if zone is not None and zone != "Local" and str(zone) not in zoneinfo.available_timezones():
        yield spec.problem(f"{zone!r} is no time zone", "timeZone")


def _service_faults(spec: RayPart) -> Iterator[Problem]:
    if at(spec.data, "rayClusterConfig", "headGroupSpec", "headService", "metadata", "name"):
        yield spec.problem("must have no name", "rayClusterConfig", "headGroupSpec", "headService")
    kind = at(spec.data, "upgradeStrategy", "type")
    if kind not in (None, "NewCluster", "None", "NewClusterWithIncrementalUpgrade"):
        yield spec.problem(f"{kind} is none", "upgradeStrategy", "type")
    yield from _too_low(spec, "rayClusterDeletionDelaySeconds")
