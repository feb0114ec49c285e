"""What ended a task of lm-eval, in words: its definitions are programs, which fail in every way that programs do."""

from __future__ import annotations

import importlib.metadata
import logging
import re

from ratchet.errors import DataError, PlanError, RatchetError

_log = logging.getLogger(__name__)
_LONGEST = 300


def failure_of(error: Exception, task: str) -> RatchetError:
    """Return the error of Ratchet's that says what a task of lm-eval, or a library that it uses, failed with."""
    if isinstance(error, RatchetError):
        return error
    _log.debug("%s failed", task, exc_info=error)
    if isinstance(error, ImportError):
        name = (error.name or _missing(str(error)) or "").partition(".")[0]
        return PlanError(
            f"{task} needs the Python package {name or '?'}, which is not installed: {_line(error)}",
            fix=f"pip install {_requirement(name)}" if name else "install it beside lm-eval",
        )
    if isinstance(error, LookupError) and "nltk" in str(error).lower():
        resource = re.search(r"download\('([\w.-]+)'\)", str(error))
        return DataError(
            f"{task} needs data of NLTK that are not on this machine: {resource[1] if resource else _line(error)}",
            fix=f"python -m nltk.downloader {resource[1] if resource else '…'}",
        )
    return DataError(
        f"{task} failed inside lm-eval: {_line(error)}",
        fix="look at the task's definition and its data, or leave the task out; the other tasks are asked all the same",
    )


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:_LONGEST]}"


def _missing(said: str) -> str | None:
    found = re.search(r"['\"`]([A-Za-z][\w.-]*)['\"`]", said)
    return found[1] if found else None


def _requirement(module: str) -> str:
    """Return what pip is asked for: the extra of lm-eval that lists the package, or the package."""
    wanted = _plain(module)
    for line in importlib.metadata.requires("lm_eval") or ():
        found = re.match(r"([\w.-]+).*;\s*extra == \"([\w-]+)\"", line)
        if found and _plain(found[1]) == wanted and found[2] not in {"dev", "api"}:
            return f"'lm-eval[{found[2]}]'"
    return module.replace("_", "-")


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
