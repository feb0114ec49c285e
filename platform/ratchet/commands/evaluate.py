"""`ratchet evaluate`: put models through a suite, and compare them."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ratchet.commands.arguments import add_here, add_overrides, begin
from ratchet.errors import PlanError
from ratchet.pipeline.answered import evaluation_question, find_answer
from ratchet.pipeline.paths import path_fault, path_problems
from ratchet.plan.base import url_fault
from ratchet.plan.cluster import Cluster
from ratchet.plan.load import load_suite, refuse_suite_here
from ratchet.plan.loose import model_named
from ratchet.plan.model import DAY, ModelSpec, is_commit
from ratchet.plan.naming import NamedPath
from ratchet.plan.reading import parse
from ratchet.plan.schema import Wandb
from ratchet.store.layout import layout_at
from ratchet.store.lease import holder_of
from ratchet.store.made import HELD
from ratchet.track.progress import Console


def evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="folder, or hub name with @revision; NAME=MODEL names it. All are held against the first",
    )
    parser.add_argument("suite", type=Path, metavar="SUITE", help="suite file, such as eval/quick.yaml")
    add_overrides(parser, "the suite")
    add_here(parser)
    parser.add_argument("--actors", type=int, default=1, metavar="N", help="processes; no score depends on it")
    parser.add_argument("--gpus", type=float, default=0.0, metavar="G", help="GPUs of each process")
    parser.add_argument("--tensor-parallel", type=int, default=1, metavar="N", help="GPUs that hold one vLLM engine")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="precision of the weights; left out: bfloat16 on GPUs, else float32",
    )
    parser.add_argument("--chat-template", metavar="FILE", help="Jinja file in place of the model's own, or `plain`")
    parser.add_argument("--named-template", metavar="NAME", help="which of a model's named chat templates is taken")
    parser.add_argument(
        "--template-argument",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="template_arguments",
        help="hand the chat template an argument, such as enable_thinking=false",
    )
    parser.add_argument("--date", metavar="DAY", help=f"what a chat template takes for today; left out: {DAY}")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that comes with a hub model")
    parser.add_argument("--storage", default="outputs", metavar="DIR", help="folder for what is asked and found")
    parser.add_argument("--wandb", metavar="PROJECT", help="send scores and tables to this project")
    parser.add_argument("--wandb-offline", action="store_true", help="write for wandb to disk; `wandb sync` sends it")


def evaluate_command(arguments: argparse.Namespace) -> int:
    """Evaluate; the last line on standard output names the report. Raises what kept single tasks from being asked."""
    suite = load_suite(arguments.suite, arguments.overrides, path_problems)
    if arguments.actors < 1 or arguments.gpus < 0 or arguments.tensor_parallel < 1:
        raise PlanError("--actors and --tensor-parallel start at 1, --gpus at 0")
    dtype = arguments.dtype or ("bfloat16" if arguments.gpus else "float32")
    models = read_models(arguments, dtype)
    cluster = Cluster(
        score_actors=arguments.actors,
        gpus_per_worker=arguments.gpus,
        tensor_parallel=arguments.tensor_parallel if arguments.gpus else 1,
        storage=arguments.storage,
    )
    if arguments.here:
        refuse_suite_here(str(arguments.suite), suite)
    wandb = None
    if arguments.wandb:
        wandb = Wandb(project=arguments.wandb, mode="offline" if arguments.wandb_offline else "online")
    ways = arguments.template_arguments, arguments.date, arguments.named_template
    specs = {name: rendered(spec, *ways) for name, spec in models.items()}
    asked = evaluation_question(specs, arguments.suite, suite, cluster, wandb, here=arguments.here)
    said = find_answer(layout_at(cluster.storage, "--storage "), asked)
    if said is not None and holder_of(Path(said["report"]).with_name(HELD)) is None:
        Console().say(f"{arguments.suite.stem:<20} nothing to do: answers, scores and the report are there")
        sys.stdout.write(f"report: {said['report']}\n")
        return 0
    begin(arguments.suite.stem, "evaluating models")

    from ratchet.pipeline.standalone_evaluation import EvaluationRequest, evaluate_models

    requests = [EvaluationRequest(name, spec) for name, spec in specs.items()]
    evaluated = evaluate_models(requests, arguments.suite, suite, cluster, wandb, here=arguments.here, asked_as=asked)
    sys.stdout.write(f"report: {evaluated.report}\n")
    # After the report is named, which has what all other tasks found.
    if (error := evaluated.error()) is not None:
        raise error
    return 0


def read_models(arguments: argparse.Namespace, dtype: str) -> dict[str, ModelSpec]:
    """Return the models that are asked for, by name. Raises a PlanError that lists all wrong paths at once."""
    wrong, found = [], {}
    for option, part in (("storage", Cluster), ("chat_template", ModelSpec)):
        text = getattr(arguments, option) or ""
        if text and (what := url_fault(text) or path_fault(NamedPath(part, option, (), text))):
            wrong.append(f"--{option.replace('_', '-')}: {what}")
    # What is wrong with it would be said again for each model.
    template = None if wrong else arguments.chat_template
    for words in arguments.models:
        try:
            name, spec = read_model(words, dtype, template, trust=arguments.trust_remote_code)
        except PlanError as error:
            wrong.append(str(error))
            continue
        if spec.path and (what := path_fault(NamedPath(ModelSpec, "path", (), spec.path))):
            wrong.append(f"{words}: {what}")
        if name in found:
            wrong.append(f"two models are named {name}: name one: NAME=MODEL")
        found[name] = spec
    if wrong:
        raise PlanError("\n".join(wrong))
    return found


def read_model(words: str, dtype: str, chat_template: str | None, *, trust: bool) -> tuple[str, ModelSpec]:
    """Return the name and the spec that `[NAME=]MODEL` says. Raises PlanError where it says none."""
    named = re.fullmatch(r"(\w[\w.-]{0,63})=(.+)", words)
    place = named[2] if named else words
    keys = {"dtype": dtype, "chat_template": chat_template}
    if _exists(place) or place.startswith((".", "/", "~")):
        spec = model_named({"path": place, **keys})
        return named[1] if named else Path(place).resolve().name, spec
    found = re.fullmatch(r"([\w.-]+(?:/[\w.-]+)?)(?:@([\w./-]+))?", place)
    if what := url_fault(place):
        raise PlanError(what)
    if found is None:
        raise PlanError(f"{place!r} is neither a folder nor a hub name", fix="give FOLDER, or OWNER/NAME@REVISION")
    if trust and not is_commit(found[2] or ""):
        raise PlanError(
            f"{place}: --trust-remote-code runs code from the hub",
            fix="pin its revision, a commit's 40 hex digits: OWNER/NAME@REVISION",
        )
    spec = model_named({"name": found[1], "revision": found[2], "trust_remote_code": trust, **keys})
    return named[1] if named else found[1].rpartition("/")[2], spec


def rendered(spec: ModelSpec, arguments: Sequence[str], date: str | None, template: str | None) -> ModelSpec:
    """Return a spec with arguments of its chat template, each NAME=VALUE, its day, and its name. Raises PlanError."""
    found = {}
    for words in arguments:
        name, sign, text = words.partition("=")
        read = parse(text, "--template-argument")
        if not sign or read.problems or not isinstance(read.data, bool | int | float | str):
            raise PlanError(f"{words!r} is no argument of a chat template", fix="give NAME=VALUE")
        found[name] = read.data
    asked = {"date": date, "named_template": template}
    given = {key: value for key, value in asked.items() if value}
    return model_named({**spec.model_dump(exclude_unset=True), "template_arguments": found, **given})


def _exists(place: str) -> bool:
    try:
        return Path(place).exists()
    except (OSError, ValueError):  # longer than any name may be, or with a NUL in it
        return False
