"""What KubeRay v1.7.0 refuses in the spec of a cluster (`utils/validation.go`), reported before the operator sees it.

The schema of the CRDs lets these through; the operator finds them after the object was created, and
says so in an event. Rules of tokens, Redis, networks and TLS are here; those of jobs in `operator_job`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from ratchet.kubernetes.manifests import at, mapping, object_kind
from ratchet.kubernetes.ray_parts import RayPart, autoscales, environment, groups, ray_container, ray_pods
from ratchet.plan.document import Problem

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


def cluster_faults(cluster: RayPart, gates: Collection[str]) -> Iterator[Problem]:
    """Yield what an operator with these feature gates on refuses in a cluster."""
    for part in (cluster.part("headGroupSpec"), *groups(cluster)):
        yield from _group_faults(part)
    for group in groups(cluster):
        yield from _size_faults(cluster, group)
    yield from _autoscaler_faults(cluster)
    yield from _auth_faults(cluster)
    yield from _redis_faults(cluster)
    yield from _network_faults(cluster)
    yield from _tls_faults(cluster)
    gated: dict[tuple[str, ...], str] = {(field,): gate for field, gate in _GATED.items()}
    if at(cluster.data, "gcsFaultToleranceOptions", "backend") == "rocksdb":
        gated["gcsFaultToleranceOptions", "backend"] = "GCSFaultToleranceEmbeddedStorage"
    for path, gate in gated.items():
        if at(cluster.data, *path) is not None and (what := gate_fault(gate, gates)):
            yield cluster.problem(what, *path)


def gate_fault(gate: str, gates: Collection[str]) -> str:
    """Return what is wrong where a feature gate is needed that is off by default: nothing, or a sentence."""
    if gate in gates:
        return ""
    return f"needs the operator's feature gate {gate}, which is off by default: --gates {gate} if it is on"


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
    fewest, most = group.data.get("minReplicas"), group.data.get("maxReplicas")
    for key in ("minReplicas", "maxReplicas"):
        value = group.data.get(key)
        if isinstance(value, int) and value < 0:
            yield group.problem(f"{value} is below 0", key)
    if isinstance(fewest, int) and isinstance(most, int) and fewest > most:
        yield group.problem(f"{fewest} is more than maxReplicas, {most}", "minReplicas")
    idle, priority = group.data.get("idleTimeoutSeconds"), group.data.get("priority")
    ranked = priority not in (None, 0)
    for key, asked in (("idleTimeoutSeconds", idle is not None), ("priority", ranked)):
        if asked and not _autoscaler_v2(cluster):
            yield group.problem("needs autoscalerOptions.version: v2", key)
    number = _ray_version(cluster)
    if ranked and number is not None and number < (2, 56):
        yield group.problem(f"needs Ray 2.56.0 or later, and rayVersion is {cluster.data['rayVersion']}", "priority")
    if isinstance(idle, int) and idle < 0:
        yield group.problem(f"{idle} is below 0", "idleTimeoutSeconds")
    if group.data.get("suspend") is True and autoscales(cluster):
        yield group.problem("a group cannot be suspended where the autoscaler runs", "suspend")


def _ray_version(cluster: RayPart) -> tuple[int, int] | None:
    """Return the first two numbers of `rayVersion`; None where it has none."""
    match = re.match(r"v?(\d{1,9})\.(\d{1,9})", str(cluster.data.get("rayVersion")), re.ASCII)
    return (int(match[1]), int(match[2])) if match else None


def _autoscaler_v2(cluster: RayPart) -> bool:
    """Tell whether groups may have what only autoscaler v2 knows; KubeRay does not ask whether it is on."""
    entry = environment(ray_container(cluster.part("headGroupSpec", "template", "spec")), _V2)
    by_variable = entry is not None and entry.data.get("value") in ("1", "true")
    return by_variable or at(cluster.data, "autoscalerOptions", "version") == "v2"


def _autoscaler_faults(cluster: RayPart) -> Iterator[Problem]:
    entry = environment(ray_container(cluster.part("headGroupSpec", "template", "spec")), _V2)
    if entry is not None and autoscales(cluster) and at(cluster.data, "autoscalerOptions", "version"):
        yield entry.problem(f"{_V2} and autoscalerOptions.version say the same: keep the latter")
    if entry is not None and not autoscales(cluster) and entry.data.get("value") in ("1", "true"):
        yield entry.problem(f"{_V2} without enableInTreeAutoscaling")
    idle = at(cluster.data, "autoscalerOptions", "idleTimeoutSeconds")
    if isinstance(idle, int) and idle < 0:
        yield cluster.problem(f"{idle} is below 0", "autoscalerOptions", "idleTimeoutSeconds")
    owned = environment(cluster.part("autoscalerOptions"), "KUBERAY_GEN_AUTOSCALER_START_CMD")
    if owned is not None:
        yield owned.problem("KUBERAY_GEN_AUTOSCALER_START_CMD is KubeRay's own: leave it out")
    by_version = autoscales(cluster) and at(cluster.data, "autoscalerOptions", "version") == "v2"
    for name, pod in ray_pods(cluster) if by_version else ():
        if pod.data.get("restartPolicy") not in (None, "", "Never"):
            yield pod.problem(f"{name} must have restartPolicy Never, or none, beside autoscaler v2", "restartPolicy")


def _auth_faults(cluster: RayPart) -> Iterator[Problem]:
    auth, version = cluster.part("authOptions"), cluster.data.get("rayVersion")
    delegated = auth.data.get("enableK8sTokenAuth") is True
    if auth.data.get("mode") != "token":
        if delegated:
            yield auth.problem("needs mode: token", "enableK8sTokenAuth")
        return
    number = _ray_version(cluster)
    if number is None:
        yield cluster.problem(f"token mode needs rayVersion, 2.52.0 or later, and it says {version}", "rayVersion")
        return
    if number < (2, 52):
        yield cluster.problem(f"{version}: token mode needs Ray 2.52.0 or later", "rayVersion")
    if delegated and number < (2, 55):
        yield cluster.problem(f"{version}: enableK8sTokenAuth needs Ray 2.55.0 or later", "rayVersion")
    if delegated and auth.data.get("secretName"):
        yield auth.problem("does not go with enableK8sTokenAuth", "secretName")


def _redis_faults(cluster: RayPart) -> Iterator[Problem]:
    head = cluster.part("headGroupSpec")
    container = ray_container(head.part("template", "spec"))
    options = cluster.part("gcsFaultToleranceOptions")
    passed_on = object_kind(cluster.document) != "RayCronJob"  # KubeRay looks at its job without any
    annotations = mapping(cluster.document.data, "metadata", "annotations") if passed_on else {}
    if mapping(head.data, "rayStartParams").get("redis-username"):
        yield head.problem("use gcsFaultToleranceOptions.redisUsername", "rayStartParams", "redis-username")
    if (user := environment(container, "REDIS_USERNAME")) is not None:
        yield user.problem("use gcsFaultToleranceOptions.redisUsername")
    address = environment(container, _REDIS_ADDRESS)
    if "gcsFaultToleranceOptions" not in cluster.data:
        if address is not None and str(annotations.get("ray.io/ft-enabled")).lower() != "true":
            yield address.problem(f"{_REDIS_ADDRESS} without gcsFaultToleranceOptions")
        return
    if mapping(head.data, "rayStartParams").get("redis-password"):
        yield head.problem("use gcsFaultToleranceOptions.redisPassword", "rayStartParams", "redis-password")
    for name in ("REDIS_PASSWORD", _REDIS_ADDRESS):
        if (entry := environment(container, name)) is not None:
            yield entry.problem(f"{name} is said by gcsFaultToleranceOptions: leave it out")
    for name in ("ray.io/ft-enabled", "ray.io/external-storage-namespace"):
        if annotations.get(name):
            yield cluster.document.problem(
                ("metadata", "annotations", name), "is said by gcsFaultToleranceOptions: leave it out"
            )
    yield from _backend_faults(options, container)


def _backend_faults(options: RayPart, container: RayPart) -> Iterator[Problem]:
    if options.data.get("backend", "redis") != "rocksdb":
        if "storage" in options.data:
            yield options.problem("is for backend: rocksdb", "storage")
        return
    for key in ("redisAddress", "redisUsername", "redisPassword", "externalStorageNamespace"):
        if options.data.get(key):
            yield options.problem("does not go with backend: rocksdb", key)
    storage = options.part("storage")
    for key in ("size", "storageClassName", "accessModes"):
        if storage.data.get("claimName") and storage.data.get(key):
            yield storage.problem("does not go with claimName", key)
    for name in ("RAY_gcs_storage", "RAY_gcs_storage_path"):
        if (entry := environment(container, name)) is not None:
            yield entry.problem(f"{name} is KubeRay's own beside backend: rocksdb")
    for mount in container.parts("volumeMounts"):
        if mount.data.get("mountPath") == _GCS_FOLDER:
            yield mount.problem(f"KubeRay mounts its own volume at {_GCS_FOLDER} beside backend: rocksdb", "mountPath")


def _network_faults(cluster: RayPart) -> Iterator[Problem]:
    policy = cluster.part("networkPolicy")
    if "networkPolicy" not in cluster.data:
        return
    names = {str(group.data.get("groupName")) for group in groups(cluster)}
    open_way = {"DenyAllEgress": "ingressRules", "DenyAllIngress": "egressRules"}.get(str(policy.data.get("mode")))
    for part in (policy.part("head"), policy.part("worker"), *policy.parts("workerGroups")):
        if open_way and part.data.get(open_way):
            yield part.problem(f"mode {policy.data['mode']} leaves that way open: no rules for it", open_way)
    for part in policy.parts("workerGroups"):
        if str(part.data.get("groupName")) not in names:
            yield part.problem(f"no group is named {part.data.get('groupName')}", "groupName")
    for group in groups(cluster):
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", str(group.data.get("groupName"))):
            yield group.problem("must be a DNS label beside networkPolicy", "groupName")


def _tls_faults(cluster: RayPart) -> Iterator[Problem]:
    if at(cluster.data, "tlsOptions", "enabled") is not True:
        return
    owners = [ray_container(pod) for _, pod in ray_pods(cluster)] + [cluster.part("autoscalerOptions")]
    for owner in owners:
        for name in _TLS:
            if (entry := environment(owner, name)) is not None:
                yield entry.problem(f"{name} is KubeRay's own beside tlsOptions: leave it out")
