"""The `ratchet` command. A command's module is imported only when it is the one to run."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence

from ratchet import __version__, redact
from ratchet.commands.terminal import let_go, nobody_reads, take_every_sign
from ratchet.errors import RatchetError
from ratchet.plan.plugins import broken_unsaid
from ratchet.store import warned

_log = logging.getLogger("ratchet.cli")  # in a job this module is `__main__`, which no handler of ours hears

COMMANDS = {
    "check": ("ratchet.commands.plans", "say what is wrong with plans and suites"),
    "show": ("ratchet.commands.plans", "show the steps of a plan, and what is done"),
    "data": ("ratchet.commands.data", "look at a plan's data, or at files, before money is spent"),
    "run": ("ratchet.commands.plans", "run a plan, or go on with it"),
    "prove": ("ratchet.commands.plans", "hold a plan's first updates against a plain float64 implementation"),
    "score": ("ratchet.commands.plans", "score the references of a plan, and train nothing"),
    "evaluate": ("ratchet.commands.evaluate", "put models through a suite, and compare them"),
    "sweep": ("ratchet.commands.sweep", "run a plan at many points of a space, and compare what comes of it"),
    "submit": ("ratchet.commands.submit", "run a plan as a job of a Ray cluster, and follow it"),
    "report": ("ratchet.commands.upkeep", "write the report of a run"),
    "doctor": ("ratchet.commands.upkeep", "say what a cluster lacks or leaves open, and what to do about it"),
    "fsck": ("ratchet.commands.upkeep", "look through a store, and mend what is damaged or left over"),
    "k8s": ("ratchet.commands.k8s", "write Kubernetes manifests for a plan, and check manifests"),
}
"""Name → (module, help). A module has `<name>_arguments(parser)` and `<name>_command(arguments) -> exit status`."""

INTERRUPTED = 130
UNREAD = 141
"""Status of a command whose output is closed by its reader, as a shell gives it for SIGPIPE."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command and return the exit status; `errors` lists what each number means."""
    take_every_sign()
    redact.guard_process()
    warned.send(None)
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments = _parser(words).parse_args(words)
        status: int = arguments.main(arguments)
        sys.stdout.flush()
    except RatchetError as error:
        return _told(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        if not nobody_reads():  # a connection broke, not the pipe that `| head` makes
            raise
        let_go()
        return UNREAD
    finally:  # also after `--help`, which ends by SystemExit
        for fault in broken_unsaid():
            _log.warning("%s", fault)
    return status


def _told(error: RatchetError) -> int:
    try:
        sys.stderr.write(f"error: {error}\n")
        sys.stderr.flush()
    except BrokenPipeError:
        let_go()
    return error.exit_code


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser, with the arguments of the one sub-command that `words` name."""
    parser = argparse.ArgumentParser(prog="ratchet", description="Align language models, step by step.")
    parser.add_argument("--version", action="version", version=f"ratchet {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen = next((word for word in words if not word.startswith("-")), None)
    for name, (module_name, words_of_help) in COMMANDS.items():
        command = commands.add_parser(name, help=words_of_help, description=words_of_help)
        if name == chosen:
            module = importlib.import_module(module_name)
            getattr(module, f"{name}_arguments")(command)
            command.set_defaults(main=getattr(module, f"{name}_command"))
    return parser


if __name__ == "__main__":  # a job runs `python -m ratchet.cli`, which needs no installed script
    sys.exit(main())
