"""`ratchet data`: a look at a plan's data, or at files, before anything is trained."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ratchet import redact
from ratchet.errors import DataError, PlanError
from ratchet.pipeline.paths import path_problems
from ratchet.plan.load import load_plan
from ratchet.plan.loose import loose_model, loose_sources
from ratchet.store.files import write_text

_PLANS = (".yaml", ".yml")
_MAX_LENGTH = 1024
"""The limit of a stage that names none."""


def data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = "Exit status: 0 nothing would stop a run, 3 its data would."
    parser.add_argument(
        "files", nargs="+", metavar="PLAN|FILE", help="one plan (.yaml), or files, folders or globs of rows"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="set a dotted key of the plan; beside files, a key of each one's source, such as layout=pair",
    )
    parser.add_argument("--model", metavar="MODEL", help="beside files: a model's folder or hub name, for its tokens")
    parser.add_argument("--max-length", type=int, metavar="N", help=f"beside files: a stage's limit ({_MAX_LENGTH})")
    parser.add_argument("--rows", type=int, metavar="N", help="look at about N rows of each source, from all over it")
    parser.add_argument("--json", action="store_true", help="write the report as JSON")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write a page (.html), too")


def data_command(arguments: argparse.Namespace) -> int:
    """Write the report to standard output; return 3 where a run would stop for its data, else 0."""
    if arguments.rows is not None and arguments.rows < 1:
        raise PlanError(f"{arguments.rows} rows show nothing", where="--rows", fix="give 1 or more")
    if arguments.max_length is not None and arguments.max_length < 1:
        raise PlanError(f"{arguments.max_length} tokens hold nothing", where="--max-length", fix="give 1 or more")
    if arguments.page is not None and (arguments.page.is_dir() or not arguments.page.absolute().parent.is_dir()):
        raise PlanError(
            f"{arguments.page} cannot be written", where="--page", fix="give a file in a folder that is there"
        )
    names = arguments.files
    plans = [name for name in names if name.lower().endswith(_PLANS)]
    if plans and len(names) > 1:
        raise PlanError("a plan is looked at alone", where=plans[0], fix="give one plan, or files of rows")
    for flag, given in (("--model", arguments.model), ("--max-length", arguments.max_length)):
        if plans and given is not None:
            raise PlanError(
                f"{flag} goes with files, and {plans[0]} is a plan", fix="leave it out, or set the plan's key by --set"
            )
    plan = load_plan(Path(plans[0]), arguments.overrides, path_problems) if plans else None

    # Inside, as these load the libraries that read rows.
    from ratchet.look.whole import look_at_files, look_at_plan
    from ratchet.look.words import report_lines
    from ratchet.pairs.lean import tokenizers_alone
    from ratchet.pairs.tokens import Policy
    from ratchet.store.codec import to_values

    with tokenizers_alone():
        if plan is not None:
            report = look_at_plan(plan, arguments.rows)
        else:
            sources, model = loose_sources(names, arguments.overrides), loose_model(arguments.model)
            policy = Policy(arguments.max_length or _MAX_LENGTH, "drop")
            report = look_at_files(sources, model, policy, arguments.rows)
    if arguments.json:
        told: Any = redact.tree(to_values(report))
        sys.stdout.write(json.dumps(told, indent=2, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(redact.words("\n".join(report_lines(report, colour=sys.stdout.isatty()))) + "\n")
    if arguments.page is not None:
        # Inside, as it loads the library that draws charts.
        from ratchet.report.data_page import data_page
        from ratchet.report.render import html

        write_text(arguments.page, redact.words(html(data_page(report))))
    return DataError.exit_code if report.stops else 0
