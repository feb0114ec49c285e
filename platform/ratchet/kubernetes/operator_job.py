"""What KubeRay v1.7.0 refuses in names, jobs, services and cron jobs (`utils/validation.go`)."""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Collection, Iterator
from itertools import pairwise

from ratchet.kubernetes.manifests import at, name_of, object_kind
from ratchet.kubernetes.operator_cluster import cluster_faults, gate_fault
from ratchet.kubernetes.ray_parts import CLUSTERS, RayPart, autoscales, cluster_of, job_of, runtime_env_of
from ratchet.plan.document import Document, Problem

LONGEST_NAMES = {"RayCluster": 53, "RayJob": 47, "RayService": 47, "RayCronJob": 36}
"""Characters that a name may have: KubeRay makes longer ones of it, which Kubernetes allows 63 of."""
_ORDER = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")
_GENERATED = "x" * 5
"""What an API server appends to `generateName`."""
_CRON = (
    ("minute", 0, 59, ""),
    ("hour", 0, 23, ""),
    ("day", 1, 31, ""),
    ("month", 1, 12, "jan feb mar apr may jun jul aug sep oct nov dec"),
    ("weekday", 0, 6, "sun mon tue wed thu fri sat"),
)
"""Fields of a schedule: what each is, its lowest and highest number, and the names of these, from the lowest on."""
_DAILY = {"@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"}


def operator_faults(document: Document, gates: Collection[str] = ()) -> Iterator[Problem]:
    """Yield what an operator with these feature gates on refuses in an object of its kinds; nothing for others."""
    kind = object_kind(document)
    if kind not in CLUSTERS:
        return
    yield from _name_faults(document, kind)
    if (cluster := cluster_of(document)) is not None:
        yield from cluster_faults(cluster, gates)
        if kind != "RayCluster" and at(cluster.data, "authOptions", "enableK8sTokenAuth") is True:
            yield cluster.problem(f"is not for a {kind}", "authOptions", "enableK8sTokenAuth")
        if kind != "RayCluster" and at(cluster.data, "upgradeStrategy", "type") is not None:
            yield cluster.problem(f"is not for the cluster of a {kind}", "upgradeStrategy", "type")
    if (job := job_of(document)) is not None:
        yield from _job_faults(job, cluster)
        yield from _deletion_faults(job, cluster)
    if kind == "RayCronJob":
        if what := gate_fault("RayCronJob", gates):
            yield document.problem(("kind",), what)
        yield from _cron_faults(RayPart(document, (), document.data).part("spec"))
    if kind == "RayService":
        yield from _service_faults(RayPart(document, (), document.data).part("spec"))


def name_fault(name: str, longest: int) -> str:
    """Return what is wrong with the name of an object of KubeRay: nothing, or a sentence."""
    if len(name) > longest:
        return f"{name!r} has {len(name)} characters, and KubeRay allows {longest}"
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        return f"{name!r}: lower-case letters, digits and hyphens, a letter first and no hyphen last"
    return ""


def _name_faults(document: Document, kind: str) -> Iterator[Problem]:
    made = at(document.data, "metadata", "generateName")
    if not name_of(document) and made:
        if what := name_fault(f"{made}{_GENERATED}", LONGEST_NAMES[kind]):
            yield document.problem(("metadata", "generateName"), what)
    elif what := name_fault(name_of(document), LONGEST_NAMES[kind]):
        yield document.problem(("metadata", "name"), what)


def _job_faults(job: RayPart, cluster: RayPart | None) -> Iterator[Problem]:
    mode, data = job.data.get("submissionMode", "K8sJobMode"), job.data
    selected = bool(data.get("clusterSelector"))
    if data.get("suspend") is True and not data.get("shutdownAfterJobFinishes"):
        yield job.problem("needs shutdownAfterJobFinishes: true", "suspend")
    if data.get("suspend") is True and selected:
        yield job.problem("does not go with clusterSelector", "suspend")
    if cluster is None and not selected:
        yield job.problem("has neither rayClusterSpec nor clusterSelector")
    if selected and not at(data, "clusterSelector", "ray.io/cluster"):
        yield job.problem("names no cluster: ray.io/cluster: NAME", "clusterSelector")
    if selected and mode == "SidecarMode":
        yield job.problem("SidecarMode does not go with clusterSelector", "submissionMode")
    retries = data.get("backoffLimit")
    if isinstance(retries, int) and retries > 0 and (selected or mode == "InteractiveMode"):
        other = "clusterSelector" if selected else "InteractiveMode"
        yield job.problem(f"does not go with {other}", "backoffLimit")
    if isinstance(retries, int) and retries < 0:
        yield job.problem(f"{retries} is below 0", "backoffLimit")
    for key in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        value = data.get(key)
        if isinstance(value, int) and value <= 0:
            yield job.problem(f"{value} is not above 0", key)
    yield from _mode_faults(job, cluster, mode)
    if what := runtime_env_of(job)[1]:
        yield job.problem(what, "runtimeEnvYAML")


def _mode_faults(job: RayPart, cluster: RayPart | None, mode: object) -> Iterator[Problem]:
    for key in ("submitterPodTemplate", "submitterConfig"):
        if mode == "SidecarMode" and key in job.data:
            yield job.problem("does not go with SidecarMode", key)
    policy = at(cluster.data, "headGroupSpec", "template", "spec", "restartPolicy") if cluster else None
    if mode == "SidecarMode" and policy not in (None, "", "Never"):
        yield job.problem("SidecarMode needs restartPolicy Never, or none, on the head", "submissionMode")


def _deletion_faults(job: RayPart, cluster: RayPart | None) -> Iterator[Problem]:
    shutdown, ttl = bool(job.data.get("shutdownAfterJobFinishes")), job.data.get("ttlSecondsAfterFinished")
    if isinstance(ttl, int) and ttl < 0:
        yield job.problem(f"{ttl} is below 0", "ttlSecondsAfterFinished")
    if isinstance(ttl, int) and ttl > 0 and not shutdown:
        yield job.problem("needs shutdownAfterJobFinishes: true", "ttlSecondsAfterFinished")
    if "deletionStrategy" not in job.data:
        return
    strategy = job.part("deletionStrategy")
    rules = strategy.parts("deletionRules")
    endings: list[str] = [key for key in ("onSuccess", "onFailure") if key in strategy.data]
    if rules and shutdown:
        yield strategy.problem("does not go with shutdownAfterJobFinishes: keep one", "deletionRules")
    if rules and endings:
        yield strategy.problem(f"does not go with {endings[0]}", "deletionRules")
    if not rules and len(endings) != 2:
        yield strategy.problem("needs deletionRules, or both onSuccess and onFailure")
    policies = {key: at(strategy.data, key, "policy") for key in endings}
    policies |= {f"deletionRules[{n}]": rule.data.get("policy") for n, rule in enumerate(rules)}
    for key, policy in policies.items():
        if policy is None:
            yield strategy.problem(f"{key} has no policy")
        if policy == "DeleteWorkers" and cluster is not None and autoscales(cluster):
            yield strategy.problem(f"{key}: DeleteWorkers does not go with the autoscaler")
        if policy in ("DeleteWorkers", "DeleteCluster") and job.data.get("clusterSelector"):
            yield strategy.problem(f"{key}: {policy} does not go with clusterSelector")
        if policy == "DeleteNone" and shutdown:
            yield strategy.problem(f"{key}: DeleteNone does not go with shutdownAfterJobFinishes")
    yield from _rule_faults(rules)


def _rule_faults(rules: list[RayPart]) -> Iterator[Problem]:
    seen: dict[tuple[str, str], dict[str, int]] = {}
    for rule in rules:
        condition = rule.part("condition")
        given = [key for key in ("jobStatus", "jobDeploymentStatus") if condition.data.get(key)]
        ttl, policy = condition.data.get("ttlSeconds", 0), str(rule.data.get("policy"))
        if len(given) != 1:
            yield condition.problem("needs exactly one of jobStatus and jobDeploymentStatus")
            continue
        if not isinstance(ttl, int) or ttl < 0:
            yield condition.problem(f"{ttl} is below 0", "ttlSeconds")
            continue
        times = seen.setdefault((given[0], str(condition.data[given[0]])), {})
        if policy in times:
            yield rule.problem(f"{policy} is asked for twice at {condition.data[given[0]]}", "policy")
        times[policy] = ttl
        for first, then in pairwise(one for one in _ORDER if one in times):
            if times[then] < times[first]:
                yield condition.problem(f"{then} would come before {first}", "ttlSeconds")


def _cron_faults(spec: RayPart) -> Iterator[Problem]:
    schedule, zone = str(spec.data.get("schedule") or ""), spec.data.get("timeZone")
    if "TZ" in schedule:
        yield spec.problem("say the time zone in timeZone", "schedule")
    elif what := _cron_fault(schedule):
        yield spec.problem(what, "schedule")
    if zone is not None and zone != "Local" and str(zone) not in zoneinfo.available_timezones():
        yield spec.problem(f"{zone!r} is no time zone", "timeZone")


def _cron_fault(schedule: str) -> str:
    if schedule in _DAILY or re.fullmatch(r"@every ((\d+(\.\d*)?|\.\d+)(h|ms|us|ns|m|s))+", schedule):
        return ""
    fields = schedule.split()
    if len(fields) != len(_CRON):
        return f"{schedule!r} has {len(fields)} fields, and five are needed: minute hour day month weekday"
    faults = (_field_fault(text, *field) for text, field in zip(fields, _CRON, strict=True))
    return next((what for what in faults if what), "")


def _field_fault(text: str, what: str, low: int, high: int, names: str) -> str:
    numbers = {name: number for number, name in enumerate(names.split(), low)}
    for piece in text.split(","):
        match = re.fullmatch(r"(?:\*|\?|(\w{1,9})(?:-(\w{1,9}))?)(?:/[1-9]\d*)?", piece, re.ASCII)
        words = [word.lower() for word in match.groups() if word] if match else [""]
        ends = [int(word) if word.isdigit() else numbers.get(word, -1) for word in words]
        if not all(low <= end <= high for end in ends):
            return f"{piece!r} is no {what} ({low} to {high})"
        if ends != sorted(ends):
            return f"{piece!r} begins after its end"
    return ""


def _service_faults(spec: RayPart) -> Iterator[Problem]:
    if at(spec.data, "rayClusterConfig", "headGroupSpec", "headService", "metadata", "name"):
        yield spec.problem("must have no name", "rayClusterConfig", "headGroupSpec", "headService")
    kind = at(spec.data, "upgradeStrategy", "type")
    if kind not in (None, "NewCluster", "None", "NewClusterWithIncrementalUpgrade"):
        yield spec.problem(f"{kind} is none", "upgradeStrategy", "type")
    delay = spec.data.get("rayClusterDeletionDelaySeconds")
    if isinstance(delay, int) and delay < 0:
        yield spec.problem(f"{delay} is below 0", "rayClusterDeletionDelaySeconds")
