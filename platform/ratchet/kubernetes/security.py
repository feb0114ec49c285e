"""Ratchet's own rules of what pods may do, and of secrets. Pod Security `restricted` lets in what keeps them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ratchet import __version__
from ratchet.kubernetes.manifests import at, mapping, mappings, object_kind, texts, texts_in
from ratchet.kubernetes.names import folder_fault, image_form_fault
from ratchet.kubernetes.ray_parts import (
    RayPart,
    autoscales,
    cluster_of,
    containers,
    environment,
    job_of,
    ray_pods,
    runtime_env_of,
)
from ratchet.plan.document import Document, Problem
from ratchet.redact import looks_secret, shapes_in

_WORKLOADS = {"Deployment", "StatefulSet", "DaemonSet", "Job"}


def security_faults(document: Document) -> Iterator[Problem]:
    """Yield pods that may do more than they need, secrets in the clear, and images that are not pinned."""
    whole, cluster = RayPart(document, (), document.data), cluster_of(document)
    pods = [whole.part("spec", "template", "spec")] if object_kind(document) in _WORKLOADS else []
    if cluster is not None:
        yield from _auth_faults(cluster)
        for n, (_, pod) in enumerate(ray_pods(cluster)):
            yield from _token_faults(pod, needs_token=n == 0 and autoscales(cluster))
            yield from _pod_faults(pod)
    if (job := job_of(document)) is not None:
        yield from _job_faults(job)
        if "submitterPodTemplate" in job.data:
            pods.append(job.part("submitterPodTemplate", "spec"))
    for pod in pods:
        yield from _token_faults(pod, needs_token=False)
        yield from _pod_faults(pod)
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


def _pod_faults(pod: RayPart) -> Iterator[Problem]:
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


def _job_faults(job: RayPart) -> Iterator[Problem]:
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
