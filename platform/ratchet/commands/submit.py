"""`ratchet submit`: run a plan as a job of a Ray cluster, and follow it to its end."""

from __future__ import annotations

import argparse
import functools
import os
import shlex
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ratchet.commands.arguments import add_plan
from ratchet.pipeline.paths import key_variables, path_problems
from ratchet.plan.base import is_url
from ratchet.plan.load import load_plan
from ratchet.plan.schema import Plan
from ratchet.store.files import bytes_text
from ratchet.submit import files, secrets
from ratchet.submit.follow import follow_job, stop
from ratchet.submit.job import (
    Submission,
    check_plan,
    digest_of_job,
    entrypoint,
    exit_status,
    find_address,
    job_runtime_env,
    submit_once,
    variables,
)
from ratchet.track.progress import Console

if TYPE_CHECKING:
    from ratchet.submit.client import RayJobs

INTERRUPTED = 130
STOP_WAIT_SECONDS = 120
PATIENCE_SECONDS = 600.0


def submit_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_plan(parser)
    parser.add_argument("--address", metavar="URL", help="the cluster's dashboard, such as http://127.0.0.1:8265")
    parser.add_argument("--ca", metavar="FILE", help="certificates to trust, for https")
    parser.add_argument("--id", metavar="ID", help="name of the job; left out: made from the plan's name and content")
    parser.add_argument("--fresh", action="store_true", help="put aside what the run folder holds and start over")
    parser.add_argument("--ship-code", action="store_true", help="send this library along; else the cluster has it")
    parser.add_argument("--ignored", action="store_true", help="send files too that git ignores")
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="set a variable of the job; no secrets"
    )
    parser.add_argument(
        "--stop-wait",
        type=int,
        default=STOP_WAIT_SECONDS,
        metavar="SECONDS",
        help=f"time that a stop gives the run to commit a checkpoint (default {STOP_WAIT_SECONDS})",
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=PATIENCE_SECONDS,
        metavar="SECONDS",
        help=f"time to wait, while following, for a cluster that gives no answer (default {PATIENCE_SECONDS:g})",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--no-wait", action="store_true", help="submit, and do not follow the job")
    what.add_argument("--stop", action="store_true", help="stop the plan's running job, and wait for its end")


def submit_command(arguments: argparse.Namespace) -> int:
    """Submit, attach or stop; return the exit status of the run."""
    address = find_address(arguments.address, os.environ)
    if arguments.stop:  # a plan that could not be submitted any more, or is gone, still has a job that costs money
        name = str(arguments.plan) if arguments.id else load_plan(arguments.plan, arguments.overrides).name
        return stop(_connect(address, arguments), name, arguments.id, sys.stdout, patience=arguments.patience)
    plan = load_plan(arguments.plan, arguments.overrides, functools.partial(path_problems, sent=True))
    check_plan(plan)
    job_id, jobs = _submit(arguments, plan, address)
    if arguments.no_wait:
        return 0
    try:
        return exit_status(follow_job(jobs, job_id, sys.stdout, patience=arguments.patience))
    except KeyboardInterrupt:
        again, to_stop = _commands(arguments, address, job_id)
        Console().say(f"\n{job_id} goes on.\nto follow it again: {again}\nto stop it: {to_stop}")
        return INTERRUPTED


def _commands(arguments: argparse.Namespace, address: str, job_id: str) -> tuple[str, str]:
    """Return the commands that follow a job again and that stop it, as a shell takes them."""
    job = ["ratchet", "submit", str(arguments.plan), "--address", address, "--id", job_id]
    job += ["--ca", arguments.ca] if arguments.ca else []
    switches = [f"--{key.replace('_', '-')}" for key in ("fresh", "ship_code", "ignored") if getattr(arguments, key)]
    settings = [word for one in arguments.overrides for word in ("--set", one)]
    settings += [word for one in arguments.env for word in ("--env", one)]
    settings += ["--stop-wait", str(arguments.stop_wait)] if arguments.stop_wait != STOP_WAIT_SECONDS else []
    return shlex.join([*job, *settings, *switches]), shlex.join([*job, "--stop"])


def _submit(arguments: argparse.Namespace, plan: Plan, address: str) -> tuple[str, RayJobs]:
    """Stage, check and submit; return the job's name, and where to ask for it."""
    console = Console()
    staged = files.stage(arguments.plan, plan)
    library = files.library() if arguments.ship_code else ()
    values = variables(arguments.env, plan.cluster, arguments.stop_wait)
    command = entrypoint(staged.plan, arguments.overrides, fresh=arguments.fresh)
    texts = {"the command": command, "--id": arguments.id or ""} | {f"--env {name}": values[name] for name in values}
    known = secrets.known_secrets(os.environ, [one.text for one in key_variables(plan)])
    # Before the cluster is spoken to at all.
    secrets.refuse_secrets(texts, [*staged.files, *library], known)
    if not arguments.ignored:
        files.refuse_ignored(staged.files)
    _say_what_goes(console, staged, library)
    jobs = _connect(address, arguments)
    digest = digest_of_job(staged.digest, files.digest_of_files(library), command, values)
    with tempfile.TemporaryDirectory(prefix="ratchet-submit-") as folder:
        archive, shipped = Path(folder, "files.zip"), Path(folder, "ratchet")
        files.pack(staged.files, archive)
        files.unpack(library, Path(folder))
        environment = job_runtime_env(str(archive), str(shipped) if library else None, values)
        job_id, new = submit_once(jobs, Submission(plan.name, digest, command, environment), arguments.id)
    sys.stdout.write(f"job: {job_id}\n")
    # Into a pipe it would otherwise come only with the end of the job.
    sys.stdout.flush()
    console.say(f"{job_id}: {'submitted' if new else 'is there already: attached to it'}")
    return job_id, jobs


def _say_what_goes(console: Console, staged: files.Staged, library: tuple[files.StagedFile, ...]) -> None:
    console.say(files.listing(staged.files, "sent"))
    if library:
        total = bytes_text(sum(len(file.content) for file in library))
        console.say(f"{total:>10}  library: {len(library)} files, sha256 {files.digest_of_files(library)[:16]}")
    for path in staged.elsewhere:
        console.say(f"{path} is not sent: every node of the cluster must {'reach' if is_url(path) else 'see'} it")


def _connect(address: str, arguments: argparse.Namespace) -> RayJobs:
    from ratchet.submit.client import connect_jobs

    return connect_jobs(address, arguments.ca)
