"""What must not be sent: everything that goes along with a job can be read by all who reach its cluster.

`GET /api/jobs/` shows the command, `runtime_env` and metadata of every job, Ray writes them into its logs, and the
files lie unpacked on every node. So known secrets of this process and things in the shape of one stop a submission.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ratchet import redact
from ratchet.errors import PlanError
from ratchet.redact import SHORTEST, looks_secret, shapes_in
from ratchet.submit.files import StagedFile
from ratchet.submit.job import KEEP_OUT

_PLACE = re.compile(r"(?i)(.+)_(?:PATH|FILE)")
"""Variables that hold the place of a secret, and not the secret."""
_LARGEST_SECRET = 1 << 16


def known_secrets(environment: Mapping[str, str], more: Sequence[str] = ()) -> dict[str, str]:
    """Return the secrets that this process knows, by where they are from.

    They are the values of variables that are named as secrets are, and of `more`; the contents of files that such
    variables name (`RAY_AUTH_TOKEN_PATH`); and what `redact.in_files` finds in the files of Ray, the hub, wandb,
    netrc, git and AWS.
    """
    found = {name: environment[name] for name in [*more, "RAY_JOB_HEADERS"] if name in environment}
    found |= {
        path if number == 0 else f"{path} ({number + 1})": value
        for path, secrets in redact.in_files().items()
        for number, value in enumerate(secrets)
    }
    places = []
    for name, value in environment.items():
        if looks_secret(name):
            found[name] = value
        elif (stem := _PLACE.fullmatch(name)) and looks_secret(stem[1]):
            places.append(Path(value))
    for place in places:
        # No token is as large; a key store may be, and is not read whole.
        if place.is_file() and place.stat().st_size <= _LARGEST_SECRET and os.access(place, os.R_OK):
            found[str(place)] = place.read_text(encoding="utf-8", errors="replace")
    return {name: value.strip() for name, value in found.items() if len(value.strip()) >= SHORTEST}


def refuse_secrets(texts: Mapping[str, str], files: Sequence[StagedFile], secrets: Mapping[str, str]) -> None:
    """Raise PlanError where a text or file that would be sent holds a secret; `texts` are by where they stand.

    Known secrets are looked for in everything, also as a URL, JSON or basic authentication spells them. Shapes of
    secrets are looked for in the texts and in YAML files.
    """
    problems = [f"{where}: holds the value of {name}" for where, name in _known(texts, files, secrets)]
    # Not in other files: rows of data may speak of secrets.
    shaped = dict(texts) | {
        file.name: file.content.decode(errors="replace") for file in files if file.name.endswith((".yaml", ".yml"))
    }
    for where, text in shaped.items():
        problems += [f"{where}: holds {what}" for what in shapes_in(text)]
    if problems:
        raise PlanError("\n".join(problems), fix=KEEP_OUT, code="plan.secret")


def _known(
    texts: Mapping[str, str], files: Sequence[StagedFile], secrets: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    parts = [(where, text.encode()) for where, text in texts.items()] + [(file.name, file.content) for file in files]
    for name, value in secrets.items():
        spelled = [one.encode() for one in redact.spellings(frozenset({value}))]
        for where, content in parts:
            if any(one in content for one in spelled):
                yield where, name
