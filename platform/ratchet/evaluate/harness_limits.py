"""What one's own lm-eval definitions may hold, looked at before lm-eval reads them."""

from __future__ import annotations

from pathlib import Path

from ratchet.errors import PlanError
from ratchet.plan.document import Problem
from ratchet.plan.reading import read

_OWN_TAGS = ("!function", "!include")
"""Tags of lm-eval. `!function` runs Python that lies beside the definition: who names the folder trusts it."""


def check_definitions(folder: Path) -> None:
    """Hold every YAML file below `folder` to the limits of plans: size, depth, values once aliases are written out.

    Raises PlanError, with the file and line.
    """
    for path in sorted(folder.rglob("*.yaml")):
        refused = [problem for problem in read(path).problems if not _is_own(problem)]
        if refused:
            raise PlanError("\n".join(map(str, refused)))


def _is_own(problem: Problem) -> bool:
    return any(f"the tag {tag} " in problem.what for tag in _OWN_TAGS)
