"""Output that every terminal takes: a sign that it does not know becomes the nearest one that it does."""

from __future__ import annotations

import codecs
import io
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
