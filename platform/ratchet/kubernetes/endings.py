"""What happens to a job's pods after its end: what KubeRay v1.7.0 refuses there, and what would hold GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from ratchet.kubernetes.manifests import at
from ratchet.kubernetes.ray_parts import RayPart, autoscales
from ratchet.plan.document import Problem

_LONGEST_IDLE = 600
"""Seconds that an ended job may hold its GPUs, so that its pods can be looked into."""
_FREEING = {"DeleteWorkers", "DeleteCluster", "DeleteSelf"}
_ORDER = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")


def deletion_faults(job: RayPart, cluster: RayPart | None) -> Iterator[Problem]:
    """Yield what KubeRay refuses in a `deletionStrategy`."""
    if "deletionStrategy" not in job.data:
        return
    strategy, ends = job.part("deletionStrategy"), bool(job.data.get("shutdownAfterJobFinishes"))
    rules = strategy.parts("deletionRules")
    endings: list[str] = [key for key in ("onSuccess", "onFailure") if key in strategy.data]
    policies = {key: at(strategy.data, key, "policy") for key in endings}
    policies |= {f"deletionRules[{n}]": rule.data.get("policy") for n, rule in enumerate(rules)}
    yield from strategy.problems(
        (rules and ends, "does not go with shutdownAfterJobFinishes: keep one", "deletionRules"),
        (rules and endings, f"does not go with {' and '.join(endings)}", "deletionRules"),
        (not rules and len(endings) != 2, "needs deletionRules, or both onSuccess and onFailure"),
        *((policy is None, f"{key} has no policy") for key, policy in policies.items()),
    )
    scaled, selected = cluster is not None and autoscales(cluster), bool(job.data.get("clusterSelector"))
    clashes = {
        "DeleteWorkers": {"the autoscaler": scaled, "clusterSelector": selected},
        "DeleteCluster": {"clusterSelector": selected},
        "DeleteNone": {"shutdownAfterJobFinishes": ends},
    }
    for key, policy in policies.items():
        for other, there in clashes.get(str(policy), {}).items():
            yield from strategy.problems((there, f"{key}: {policy} does not go with {other}"))
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


def idle_faults(job: RayPart) -> Iterator[Problem]:
    """Yield what would hold GPUs after a job's end, when nothing runs on them.

    KubeRay deletes the pods of an ended job only where it is asked to, and after the time that it is given.

    `rayjob_controller.go` of v1.7.0: `handleDeletionRules` (line 1411), `handleShutdownAfterJobFinishes` (line 1515).
    """
    ttl, soonest = job.data.get("ttlSecondsAfterFinished") or 0, dict[str, tuple[int, RayPart]]()
    for rule in job.part("deletionStrategy").parts("deletionRules"):
        condition = rule.part("condition").data
        after, ending = condition.get("ttlSeconds") or 0, str(condition.get("jobStatus"))
        # Of several rules for one ending the first to come frees the GPUs.
        if rule.data.get("policy") in _FREEING and isinstance(after, int):
            soonest[ending] = min(soonest.get(ending, (after, rule)), (after, rule), key=lambda one: one[0])
    for after, rule in soonest.values():
        if after > _LONGEST_IDLE:
            yield rule.problem(_held(after), "condition", "ttlSeconds")
    if job.data.get("shutdownAfterJobFinishes"):
        if isinstance(ttl, int) and ttl > _LONGEST_IDLE:
            yield job.problem(_held(ttl), "ttlSecondsAfterFinished")
    elif "deletionStrategy" not in job.data:
        yield job.problem("holds its GPUs for ever after the job's end: say shutdownAfterJobFinishes: true")


def _held(seconds: int) -> str:
    return f"holds the GPUs for {seconds} s after the job's end, when nothing runs on them: {_LONGEST_IDLE} s at most"
