"""Ratchet's own rules: what lets a run end well, what pods may do, and where secrets must not be.

A run ends well where its driver stays, it is warned before it is killed, and all its pods see the store. Pod Security
`restricted` lets in what keeps these rules.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence

from ratchet import __version__
from ratchet.kubernetes.endings import idle_faults
from ratchet.kubernetes.forms import MOST, folder_fault, image_form_fault, quantity, size_fault, volume_fault
from ratchet.kubernetes.manifests import at, mapping, mappings, object_kind, texts, texts_in
from ratchet.kubernetes.ray_parts import (
    RayPart,
    autoscales,
    cluster_of,
    containers,
    environment,
    groups,
    job_of,
    mounts_of,
    ray_container,
    ray_pods,
    runtime_env_of,
    shared_mounts,
)
from ratchet.plan.document import Document, Problem
from ratchet.redact import looks_secret, shapes_in

DRAIN = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"
GPU = "nvidia.com/gpu"
_RAY_DRAIN, _KUBERNETES_GRACE, _SHORTEST_STOP = 30.0, 30.0, 30.0
"""Seconds: the defaults of Ray and Kubernetes, and the least that a checkpoint may take."""
SHARED_MEMORY = "/dev/shm"  # noqa: S108
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_WORKLOADS = {"Deployment", "StatefulSet", "DaemonSet", "Job"}


def house_faults(document: Document) -> Iterator[Problem]:
    """Yield what would cost a run its driver, its warning or its store."""
    cluster, job = cluster_of(document), job_of(document)
    if job is not None:
        yield from _job_faults(job, cluster)
    if cluster is None:
        return
    yield from _head_faults(cluster)
    for name, pod in ray_pods(cluster):
        yield from _pod_faults(name, pod)
    yield from _store_faults(cluster)


def network_faults(objects: Sequence[Document]) -> Iterator[Problem]:
    """Yield clusters whose pods no NetworkPolicy among the objects has to do with."""
    policies = [mapping(one.data, "spec") for one in objects if object_kind(one) == "NetworkPolicy"]
    for document in objects:
        cluster = cluster_of(document)
        # Beside `networkPolicy` KubeRay makes a policy for the cluster.
        if cluster is None or "networkPolicy" in cluster.data:
            continue
        for part in (cluster.part("headGroupSpec"), *groups(cluster)):
            labels = mapping(part.data, "template", "metadata", "labels")
            if not any(_selects(policy, labels) for policy in policies):
                what = "no NetworkPolicy here selects these pods, and metrics and health answer without the token"
                yield part.problem(what, "template", "metadata", "labels")


def _selects(policy: object, labels: dict[str, object]) -> bool:
    wanted = mapping(policy, "podSelector", "matchLabels")
    # Without policyTypes a NetworkPolicy is one of ingress.
    inward = "Ingress" in texts_in(at(policy, "policyTypes")) or at(policy, "policyTypes") is None
    return inward and all(labels.get(key) == value for key, value in wanted.items())


def _job_faults(job: RayPart, cluster: RayPart | None) -> Iterator[Problem]:
    for key in ("entrypointNumCpus", "entrypointNumGpus", "entrypointResources"):
        if job.data.get(key):
            yield job.problem("would let the driver run on a worker, which may be taken away: leave it out", key)
    for key in ("submitterPodTemplate", "submitterConfig"):
        if job.data.get("submissionMode") == "HTTPMode" and key in job.data:
            yield job.problem("HTTPMode has no submitter: it would be passed over", key)
    if cluster is not None and any(_has_gpus(pod) for _, pod in ray_pods(cluster)):
        yield from idle_faults(job)
    found, fault = runtime_env_of(job)
    if fault:
        return  # the operator's rules report it
    wait = quantity(mapping(found, "env_vars").get(STOP_WAIT))
    if wait is None or wait < _SHORTEST_STOP:
        what = f'env_vars: {{{STOP_WAIT}: "120"}}: `ray job stop` kills after 3 s otherwise, without a checkpoint'
        yield job.problem(what, "runtimeEnvYAML")
    if cluster is not None and "gcsFaultToleranceOptions" in cluster.data:
        what = "saves no job: the driver is gone with the head. Leave it to clusters that stay"
        yield cluster.problem(what, "gcsFaultToleranceOptions")


def _has_gpus(pod: RayPart) -> bool:
    return bool(quantity(at(ray_container(pod).data, "resources", "limits", GPU)))


def _head_faults(cluster: RayPart) -> Iterator[Problem]:
    head = cluster.part("headGroupSpec")
    if str(at(head.data, "rayStartParams", "num-cpus")) != "0" and str(at(head.data, "resources", "CPU")) != "0":
        yield head.problem('must be "0": nothing runs on the head beside the driver', "rayStartParams", "num-cpus")
    resources = mapping(head.data, "template", "spec", "containers", 0, "resources")
    for key in ("cpu", "memory"):
        asked, limit = quantity(at(resources, "requests", key)), quantity(at(resources, "limits", key))
        if asked is None or asked != limit:
            what = f"{key}: request and limit of the head must be the same, or a full node takes the head first"
            yield ray_container(head.part("template", "spec")).problem(what, "resources")


def _pod_faults(name: str, pod: RayPart) -> Iterator[Problem]:
    container = ray_container(pod)
    entry = environment(container, DRAIN)
    drain = (quantity(entry.data.get("value")) if entry else None) or _RAY_DRAIN
    # The kubelet kills after the grace period, whatever Ray still drains.
    grace = pod.data.get("terminationGracePeriodSeconds", _KUBERNETES_GRACE)
    if not isinstance(grace, int | float) or grace <= drain:
        what = f"{grace:g} s" if isinstance(grace, int | float) else repr(grace)
        yield pod.problem(
            f"{name} is killed after {what}, while Ray drains it for {drain:g} s ({DRAIN}): make it longer",
            "terminationGracePeriodSeconds",
        )
    for key in _PROBES:
        if key in container.data:
            yield container.problem("KubeRay sets its own, which know Ray's ports: leave it out", key)
    for limit, kind in itertools.product(("requests", "limits"), MOST):
        if what := size_fault(kind, at(container.data, "resources", limit, kind)):
            yield container.problem(what, "resources", limit, kind)
    for folder, _ in sorted(shared_mounts(pod)):
        if what := volume_fault(folder):
            yield container.problem(what, "volumeMounts")
    gpus = quantity(at(container.data, "resources", "limits", GPU)) or 0
    if gpus and not _shared_memory(pod):
        what = "workers on GPUs exchange through /dev/shm, which has 64 MB: mount an emptyDir with medium: Memory"
        yield container.problem(what, "volumeMounts")


def _shared_memory(pod: RayPart) -> bool:
    mounted = {str(one.get("name")) for one in mounts_of(pod) if one.get("mountPath") == SHARED_MEMORY}
    return any(
        str(volume.get("name")) in mounted and at(volume, "emptyDir", "medium") == "Memory"
        for volume in mappings(pod.data, "volumes")
    )


def _store_faults(cluster: RayPart) -> Iterator[Problem]:
    pods = list(ray_pods(cluster))
    on_head = shared_mounts(pods[0][1])
    if not on_head:
        yield ray_container(pods[0][1]).problem(
            "no persistent volume: what a run made is gone with the pod", "volumeMounts"
        )
    for name, pod in pods[1:]:
        there = shared_mounts(pod)
        # Both ways: a claim that only workers see is as lost to the driver.
        for folder, claim in sorted(on_head ^ there):
            who = "the head" if (folder, claim) in on_head else name
            what = f"only {who} sees {claim} at {folder}: head and workers must see the same"
            yield ray_container(pod).problem(what, "volumeMounts")


def security_faults(document: Document) -> Iterator[Problem]:
    """Yield pods that may do more than they need, secrets in the clear, and images that are not pinned."""
    whole, cluster = RayPart(document, (), document.data), cluster_of(document)
    pods = [whole.part("spec", "template", "spec")] if object_kind(document) in _WORKLOADS else []
    if cluster is not None:
        yield from _auth_faults(cluster)
        for n, (_, pod) in enumerate(ray_pods(cluster)):
            # The autoscaler runs on the head, and asks Kubernetes for pods.
            yield from _token_faults(pod, needs_token=n == 0 and autoscales(cluster))
            yield from _guard_faults(pod)
    if (job := job_of(document)) is not None:
        yield from _sent_faults(job)
        if "submitterPodTemplate" in job.data:
            pods.append(job.part("submitterPodTemplate", "spec"))
    for pod in pods:
        yield from _token_faults(pod, needs_token=False)
        yield from _guard_faults(pod)
    yield from _secret_faults(whole)


def _auth_faults(cluster: RayPart) -> Iterator[Problem]:
    auth = cluster.part("authOptions")
    if auth.data.get("mode") != "token":
        yield cluster.problem(
            "must be {mode: token, secretName: …}: reaching Ray's ports is running code", "authOptions"
        )
    elif not auth.data.get("secretName"):
        yield auth.problem("names no Secret: the token would be one that KubeRay makes", "secretName")
    for _, pod in ray_pods(cluster):
        mode = environment(pod.part("containers", 0), "RAY_AUTH_MODE")
        if mode is not None and mode.data.get("value") != "token":
            yield mode.problem("RAY_AUTH_MODE must be token")


def _token_faults(pod: RayPart, *, needs_token: bool) -> Iterator[Problem]:
    given = pod.data.get("automountServiceAccountToken")
    if needs_token and given is False:
        yield pod.problem("the autoscaler on the head needs the token", "automountServiceAccountToken")
    if not needs_token and given is not False:
        what = "must be false: no process here talks to the Kubernetes API"
        yield pod.problem(what, "automountServiceAccountToken")


def _guard_faults(pod: RayPart) -> Iterator[Problem]:
    context = mapping(pod.data, "securityContext")
    if context.get("runAsNonRoot") is not True:
        yield pod.problem("must be true", "securityContext", "runAsNonRoot")
    if context.get("runAsUser") == 0:
        yield pod.problem("is root", "securityContext", "runAsUser")
    if at(context, "seccompProfile", "type") not in ("RuntimeDefault", "Localhost"):
        yield pod.problem("must be {type: RuntimeDefault}", "securityContext", "seccompProfile")
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.data.get(key):
            yield pod.problem("opens the node to the pod", key)
    for n, volume in enumerate(mappings(pod.data, "volumes")):
        if "hostPath" in volume:
            yield pod.problem("opens the node's files to the pod", "volumes", n, "hostPath")
    for container in containers(pod):
        yield from _container_faults(container)


def _container_faults(container: RayPart) -> Iterator[Problem]:
    context = mapping(container.data, "securityContext")
    if context.get("allowPrivilegeEscalation") is not False:
        yield container.problem("must be false", "securityContext", "allowPrivilegeEscalation")
    if "ALL" not in texts_in(at(context, "capabilities", "drop")):
        yield container.problem("must drop [ALL]", "securityContext", "capabilities")
    if at(context, "capabilities", "add"):
        yield container.problem("adds what was dropped", "securityContext", "capabilities", "add")
    if context.get("privileged"):
        yield container.problem("must not be", "securityContext", "privileged")
    for n, mount in enumerate(mappings(container.data, "volumeMounts")):
        if what := folder_fault(mount.get("mountPath")):
            yield container.problem(what, "volumeMounts", n, "mountPath")
    if what := image_fault(str(container.data.get("image") or "")):
        yield container.problem(what, "image")


def image_fault(image: str) -> str:
    """Return what is wrong with an image's name: nothing, or a sentence. Asks no registry."""
    name, _, digest = image.partition("@")
    # A colon before the last slash is that of a registry's port.
    path, _, tag = name.rpartition("/")[2].partition(":")
    if digest:
        pinned = re.fullmatch(r"sha256:[0-9a-f]{64}", digest)
        return image_form_fault(image) if pinned else f"{digest!r} is no digest"
    if not path:
        return "no image is named"
    if not tag:
        return f"{image} has no tag, which is `latest`: name a version, or a digest"
    if tag == "latest":
        return f"{image}: `latest` is another image tomorrow: name a version, or a digest"
    if path == "ratchet" and not re.match(rf"v?{re.escape(__version__)}(?![\w.])", tag):
        return f"{image} is not of this Ratchet, {__version__}: a tag begins with the version"
    return image_form_fault(image)


def _sent_faults(job: RayPart) -> Iterator[Problem]:
    if job.data.get("submissionMode", "K8sJobMode") == "K8sJobMode" and "submitterPodTemplate" not in job.data:
        yield job.problem(
            "is missing: KubeRay's own is not let in under Pod Security `restricted`", "submitterPodTemplate"
        )
    for name in mapping(runtime_env_of(job)[0], "env_vars"):
        if looks_secret(str(name)):
            what = f"{name}: anybody who reaches the dashboard can read it: take it from a Secret, in the pods"
            yield job.problem(what, "runtimeEnvYAML")


def _secret_faults(whole: RayPart) -> Iterator[Problem]:
    if object_kind(whole.document) == "Secret":
        for key in ("data", "stringData"):
            if mapping(whole.data, key):
                yield whole.problem("a secret in a file: make it with `kubectl create secret`", key)
        return
    for path, text in texts(whole.data):
        if shapes_in(text):
            yield whole.problem("looks like a secret in the clear: take it from a Secret", *path)
        elif path[-1] == "value" and "env" in path and looks_secret(str(at(whole.data, *path[:-1], "name"))):
            what = f"{at(whole.data, *path[:-1], 'name')} in the clear: valueFrom: {{secretKeyRef: …}}"
            yield whole.problem(what, *path)
        elif path[-2:] == ("redisPassword", "value") or path[-1] == "redis-password":
            yield whole.problem("a password in the clear: valueFrom: {secretKeyRef: …}", *path)
