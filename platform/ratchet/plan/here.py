"""What of a plan or a suite needs a Ray or vLLM, and so cannot be had in one process (`--here`)."""

from __future__ import annotations

from collections.abc import Iterator

from ratchet.errors import PlanError
from ratchet.plan.judge import ModelJudge
from ratchet.plan.load import planned_suites
from ratchet.plan.schema import Plan
from ratchet.plan.suite import Suite

_TRAINER = "set it to trainer, which is in this process"


def refuse_plan_here(plan: Plan) -> None:
    """Raise PlanError with all that keeps a plan from running in one process, and what to set instead.

    The rest of `cluster` says where a run goes and how it is spread. It has no meaning here: `score_actors`,
    `max_restarts`, `collective_timeout`, `ray`.
    """
    found = list(_needs_of_cluster(plan))
    if plan.reference.engine == "vllm":
        found.append(f"reference.engine: vllm has processes of its own: {_TRAINER}")
    for one in planned_suites(plan):
        found += _needs_of_suite(one.name, one.suite)
    _refuse(found)


def refuse_suite_here(name: str, suite: Suite) -> None:
    """Raise PlanError with all that keeps a suite from being asked in one process, and what to set instead."""
    _refuse(list(_needs_of_suite(name, suite)))


def _needs_of_cluster(plan: Plan) -> Iterator[str]:
    cluster = plan.cluster
    if cluster.fewest_workers > 1:
        yield f"cluster.workers: {cluster.fewest_workers} are as many processes: set it to 1"
    if cluster.deepspeed.zero:
        yield f"cluster.deepspeed.zero: {cluster.deepspeed.zero} divides a model by DeepSpeed: set it to 0"


def _needs_of_suite(name: str, suite: Suite) -> Iterator[str]:
    for task_name, task in suite.tasks.items():
        where = f"{name}: tasks.{task_name}"
        if getattr(task, "engine", "trainer") == "vllm":
            yield f"{where}.engine: vllm has processes of its own: {_TRAINER}"
        judge = getattr(task, "judge", None)
        if isinstance(judge, ModelJudge) and judge.engine == "vllm":
            yield f"{where}.judge.engine: vllm has processes of its own: {_TRAINER}"


def _refuse(found: list[str]) -> None:
    if found:
        raise PlanError("\n".join(found), where="--here", fix="or run it without --here")
