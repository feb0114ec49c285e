"""Output that every terminal takes: signs that it lacks become the nearest ones, and a reader that left is no fault."""

from __future__ import annotations

import codecs
import io
import os
import select
import sys

LOOKALIKES = "lookalikes"
_NEAREST = {
    "●": "*",
    "◐": "~",
    "○": "o",
    "·": ".",
    "│": "|",
    "├": "|",
    "└": "`",
    "─": "-",
    "≈": "~",
    "±": "+/-",
    "→": "->",
    "−": "-",
    "–": "-",
    "…": "...",
    "×": "x",
    "≥": ">=",
    "≤": "<=",
    "’": "'",
    "β": "beta",
    "γ": "gamma",
    "λ": "lambda",
}


def _instead(error: UnicodeError) -> tuple[str, int]:
    """Return what stands for the signs that cannot be written, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_NEAREST.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


codecs.register_error(LOOKALIKES, _instead)


def take_every_sign() -> None:
    """Let nothing that this process writes fail for the signs in it, whatever the terminal's encoding."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=LOOKALIKES)


def nobody_reads() -> bool:
    """Whether standard output or standard error is a pipe whose reader has gone, as that of `| head` does."""
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        poll.register(stream.fileno(), 0)
    return any(found & (select.POLLERR | select.POLLHUP) for _, found in poll.poll(0))


def let_go() -> None:
    """Send what is still to be written to nowhere."""
    # Python writes what is left when it ends, and would fail for it.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
