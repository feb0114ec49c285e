"""Commands on one plan: `ratchet check`, `show`, `run`, `score` and `prove`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ratchet import redact
from ratchet.commands.arguments import add_here, add_overrides, add_plan, begin
from ratchet.errors import CorruptError, DataError, ModelError, PlanError, TrainingError, some
from ratchet.pipeline.paths import path_problems
from ratchet.plan.load import file_kind, load_file, load_plan, refuse_plan_here
from ratchet.plan.schema import Plan
from ratchet.plan.stage_kinds import trains
from ratchet.track.progress import Console

if TYPE_CHECKING:
    from ratchet.pipeline.state import Size, SourceState, StepState
    from ratchet.prove.plan import Proof

_MARKS = {"done": "●", "begun": "◐", "ready": "○", "waiting": "·", "changed": "!"}


def check_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `ratchet check`."""
    parser.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="a plan, an evaluation suite or a sweep space; or a model's folder, to see its parts",
    )
    add_overrides(parser, "every file, such as stages.align.beta=0.3")


def check_command(arguments: argparse.Namespace) -> int:
    """Write a line for each good file to stdout, below a plan's what its tokens come to, and each problem to stderr.

    A model's folder is described: its parts, what becomes of each, and what default adapters reach.
    Returns the exit status of the last problem: 2 of a file, 3 of the data that a plan names, 4 of a model.
    """
    status = 0
    for path in arguments.files:
        if path.is_dir():
            status = _describe(path) or status
            continue
        try:
            loaded = load_file(path, arguments.overrides, path_problems)
        except PlanError as error:
            sys.stderr.write(f"{error}\n")
            status = error.exit_code
        else:
            faults = faults_of(loaded) if isinstance(loaded, Plan) else []
            if faults:
                sys.stderr.write("".join(f"{path}: {fault}\n" for fault in faults))
                status = faults[-1].exit_code
                continue
            lines = advice_lines(loaded) if isinstance(loaded, Plan) else []
            sys.stdout.write("\n".join([f"{path}: {file_kind(loaded)}", *lines]) + "\n")
    return status


def _describe(folder: Path) -> int:
    """Write a model's passport to stdout, and what forbids training it to stderr; return the exit status."""
    # Inside, as files are checked without what reads models.
    from ratchet.documents.passport import passport_in_words, reach_in_words
    from ratchet.model.check import check_model
    from ratchet.model.passport import passport_of

    try:
        passport = passport_of(folder)
        sys.stdout.write("\n".join([f"{folder}: model", *(f"  {one}" for one in passport_in_words(passport))]) + "\n")
        if passport.refused:
            return ModelError.exit_code
        check_model(folder, None)

        from ratchet.model.lora import default_reach

        sys.stdout.write(f"  default adapters (lora: {{}}) reach {reach_in_words(default_reach(folder))}\n")
    except (ModelError, CorruptError) as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


def faults_of(plan: Plan) -> list[DataError | PlanError | ModelError]:
    """Return what is wrong with the start model and the sources of a plan."""
    # Inside: a suite or a space is checked without the libraries that read rows.
    from ratchet.pairs.lean import tokenizers_alone
    from ratchet.pipeline.source_faults import model_faults, source_faults

    with tokenizers_alone():
        return [*model_faults(plan), *source_faults(plan)]


def advice_lines(plan: Plan) -> list[str]:
    """Return what the tokens of a plan's stages come to, and which keys would save some, indented."""
    # Inside: a suite or a space is checked without the libraries that read rows.
    from ratchet.documents.token_use import use_in_words
    from ratchet.pairs.lean import tokenizers_alone
    from ratchet.pipeline.advice import advise

    with tokenizers_alone():
        advice = advise(plan)
    uses = (line for use in advice.uses for line in use_in_words(use))
    return [f"  {line}" for line in (*uses, *advice.uncounted, *advice.losses)]


def show_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_plan(parser)


def show_command(arguments: argparse.Namespace) -> int:
    """Draw the plan; nothing is run and nothing written."""
    plan = load_plan(arguments.plan, arguments.overrides, path_problems)

    # Inside: `ratchet check` is of this module too, and loads less.
    from ratchet.documents.passport import passport_in_words
    from ratchet.pairs.lean import tokenizers_alone
    from ratchet.pipeline.state import base_passport, plan_state

    with tokenizers_alone():
        sources, steps = plan_state(plan)
        advice, passport = advice_lines(plan), base_passport(plan)
    lines = draw_plan(plan.name, sources, steps)
    if passport is not None:
        lines += ["", "base", *(f"  {line}" for line in passport_in_words(passport))]
    if advice:
        lines += ["", "tokens", *advice]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def draw_plan(name: str, sources: list[SourceState], steps: list[StepState]) -> list[str]:
    """Return the lines of the drawing: sources, then steps below the model that they start from."""
    lines = [f"plan {name}", "", "sources"]
    for source in sources:
        mark, about = ("●", "") if source.read else ("○", "≈ ")
        lines.append(
            f"  {mark} {source.name:<22} {about}{source.pairs:,} pairs{'' if source.read else ', not read yet'}"
        )
    lines += ["", "models", "  base"]
    lines += _branch(steps, "base", "  ")
    shown = [mark for mark in _MARKS if any(state.status == mark for state in steps)]
    return [*lines, "", "  ".join(f"{_MARKS[status]} {status}" for status in shown)]


def _branch(steps: list[StepState], start: str, indent: str) -> list[str]:
    children = [state for state in steps if state.step.start == start]
    lines = []
    for number, state in enumerate(children, 1):
        last = number == len(children)
        lines.append(f"{indent}{'└─' if last else '├─'} {_line(state)}")
        lines += _branch(steps, state.step.name, indent + ("   " if last else "│  "))
    return lines


def _line(state: StepState) -> str:
    step = state.step
    what = f"{_MARKS[state.status]} {step.name}  {step.kind}"
    if not trains(step.settings):
        what += f" of {', '.join(step.settings.of)}"
    if step.chunk.shares:
        what += f" on {_named(state)}"
    if isinstance(step.reference, str) and step.reference != step.start:
        what += f", against {step.reference}"
    parts = [what, _sized(state.size), f"{state.status} {state.why}".strip()]
    return "  │  ".join(part for part in parts if part)


def _named(state: StepState) -> str:
    """Return what a step trains on, with each source's pairs where they are not simply all that there are."""
    step, size = state.step, state.size
    mixed = trains(step.settings) and (step.settings.mix is not None or {*step.chunk.shares.values()} != {1.0})
    if size is None or not size.of_source or not mixed:
        return step.chunk.label
    names = " + ".join(f"{name} ({count:,})" for name, count in size.of_source.items())
    return step.chunk.label.replace(" + ".join(step.chunk.shares), names)


def _sized(size: Size | None) -> str:
    if size is None:
        return ""
    if not size.steps:
        return f"{size.bytes / 1e6:,.1f} MB" if size.bytes else ""
    about = "≈ " if size.estimated else ""
    tokens = f", {size.tokens:,} tokens" if size.tokens else ""
    written = f", {size.bytes / 1e6:,.1f} MB" if size.bytes else ""
    return f"{about}{size.pairs:,} pairs{tokens}, {size.steps:,} steps{written}"


def run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_plan(parser)
    add_here(parser)
    parser.add_argument("--fresh", action="store_true", help="put aside what the run folder holds and start over")


def run_command(arguments: argparse.Namespace) -> int:
    """Run the plan; the last line on standard output names the report."""
    # Inside, as in `show`.
    from ratchet.pipeline.answered import answer_of_run, plan_question

    plan, text = _read(arguments), arguments.plan.read_text(encoding="utf-8")
    # What is there is put aside: nothing of it is looked at, as it may be damaged.
    asked = None if arguments.fresh else plan_question("run", plan, text, here=arguments.here)
    if (said := answer_of_run(plan, asked)) is not None:
        Console().say(f"{plan.name:<20} nothing to do: steps, scores and the report are there")
        sys.stdout.write(f"report: {said['report']}\n")
        return 0
    begin(plan.name, "running the plan")

    from ratchet.pipeline.runner import run_plan

    report = run_plan(plan, text, fresh=arguments.fresh, here=arguments.here, asked=asked)
    sys.stdout.write(f"report: {report}\n")
    return 0


def score_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_plan(parser)
    add_here(parser)


def score_command(arguments: argparse.Namespace) -> int:
    """Score; the last line on standard output says how many pairs have scores, and what waits for a model."""
    from ratchet.pipeline.answered import answer_of_run, plan_question

    plan = _read(arguments)
    asked = plan_question("score", plan, "", here=arguments.here)
    if (said := answer_of_run(plan, asked)) is not None:
        Console().say(f"{plan.name:<20} nothing to do: the scores are there")
        pairs, waiting = int(said["pairs"]), said["waiting"].split()
    else:
        begin(plan.name, "scoring references")

        from ratchet.pipeline.runner import score_plan

        pairs, waiting = score_plan(plan, here=arguments.here, asked=asked)
    later = f"; {some(waiting)} can be scored once the model before is trained" if waiting else ""
    sys.stdout.write(f"scored: {pairs:,} pairs{later}\n")
    return 0


def _read(arguments: argparse.Namespace) -> Plan:
    """Return the plan that is to be run or scored."""
    plan = load_plan(arguments.plan, arguments.overrides, path_problems)
    if arguments.here:
        refuse_plan_here(plan)
    return plan


def prove_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_plan(parser)
    parser.add_argument("--updates", type=int, default=3, metavar="N", help="updates of each stage (3)")


def prove_command(arguments: argparse.Namespace) -> int:
    """Write the table to standard output. Raises TrainingError where a number leaves its tolerance."""
    if arguments.updates < 1:
        raise PlanError(f"{arguments.updates} updates prove nothing", where="--updates", fix="give 1 or more")
    plan = load_plan(arguments.plan, arguments.overrides)

    from ratchet.prove.plan import proof_lines, prove_plan

    proof = prove_plan(plan, arguments.updates)
    sys.stdout.write(redact.words("\n".join(proof_lines(proof))) + "\n")
    # The table first: the error names one number alone.
    refuse_proof(proof)
    return 0


def refuse_proof(proof: Proof) -> None:
    """Raise TrainingError that names the first number outside its tolerance, where there is one."""
    for first in proof.outside[:1]:
        raise TrainingError(
            f"{first.name} of update {first.update} is {first.trainer:.8g}, and a plain float64 implementation gives "
            f"{first.plain:.8g}: a difference of {first.difference:.2g}, where {first.allowed:.2g} is allowed",
            where=f"step {first.step}",
            fix="do not train with these settings before the cause is known; docs/prove.md says what each number tells",
            code="training.not-proved",
        )
