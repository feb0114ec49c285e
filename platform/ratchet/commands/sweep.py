"""`ratchet sweep`: run a plan at many points of a space, and compare what comes of it."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from ratchet.commands.arguments import add_plan, begin
from ratchet.errors import PlanError
from ratchet.pipeline.answered import answer_in
from ratchet.store.layout import layout_at
from ratchet.track.progress import Console
from ratchet.tune.definition import Sweep, open_sweep, sweep_question

JOBS = Path("jobs")


def sweep_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_plan(parser)
    parser.add_argument("space", type=Path, help="space file, such as tune_spaces/beta.yaml")
    parser.add_argument("--fresh", action="store_true", help="put aside what the sweep's folder holds and start over")
    other = parser.add_mutually_exclusive_group()
    other.add_argument(
        "--dry-run", action="store_true", help="print how much work it is and what is shared; run nothing"
    )
    other.add_argument(
        "--wandb-config",
        action="store_true",
        help="print a configuration for `wandb sweep`, whose agents run the trials",
    )
    other.add_argument(
        "--trial",
        nargs="+",
        metavar="KEY=VALUE",
        help="run the one trial with these values, as wandb's agents ask for it",
    )
    other.add_argument(
        "--promote",
        nargs="?",
        const="",
        metavar="POINT",
        help="then write the best point, or the one that is named, as a plan into jobs/",
    )


def sweep_command(arguments: argparse.Namespace) -> int:
    """Run the sweep; the last line on standard output names its page, or the plan that it wrote."""
    sweep = open_sweep(arguments.plan, arguments.space, arguments.overrides)
    if arguments.fresh and (arguments.dry_run or arguments.wandb_config or arguments.trial):
        raise PlanError("--fresh starts a sweep over, and this runs none", fix="leave it out")
    if arguments.promote == "" and len(sweep.space.objectives) > 1:
        raise PlanError(
            "with several objectives there is no one best point", fix="name it: --promote POINT", code="plan.no-best"
        )
    if arguments.wandb_config:
        return _write_wandb_config(arguments, sweep)
    if arguments.dry_run:
        return _write_forecast(sweep)
    asked, layout = sweep_question(sweep), layout_at(sweep.plan.cluster.storage)
    if not (arguments.fresh or arguments.trial or arguments.promote is not None) and (
        said := answer_in(layout, sweep.folder, asked)
    ):
        Console().say(f"{sweep.name:<20} nothing to do: trials and the report are there")
        sys.stdout.write(f"report: {said['report']}\n")
        return 0
    begin(sweep.name, "running the sweep")

    from ratchet.tune.sweep import promote_point, refuse_nothing, run_one, run_sweep

    if arguments.trial:
        from ratchet.tune.wandb_config import values_of_arguments

        values, seed = values_of_arguments(arguments.trial, sweep.space)
        report = run_one(sweep, values, seed)
        sys.stdout.write(f"report: {report}\n")
        return 0
    page, outcome = run_sweep(sweep, fresh=arguments.fresh, asked=asked)
    sys.stdout.write(f"report: {page}\n")
    # After the page is named: a sweep of which nothing came has one too.
    refuse_nothing(outcome)
    if arguments.promote is not None:
        command = shlex.join(["ratchet", *sys.argv[1:]])
        path = promote_point(sweep, outcome, arguments.promote or None, JOBS, command)
        sys.stdout.write(f"plan: {path}\n")
    return 0


def _write_wandb_config(arguments: argparse.Namespace, sweep: Sweep) -> int:
    from ratchet.tune.wandb_config import wandb_yaml

    wandb = sweep.plan.track.wandb
    sys.stdout.write(wandb_yaml(arguments.plan, arguments.space, sweep.space, arguments.overrides, wandb))
    return 0


def _write_forecast(sweep: Sweep) -> int:
    from ratchet.tune.dry_run import dry_run

    sys.stdout.write(dry_run(sweep))
    return 0
