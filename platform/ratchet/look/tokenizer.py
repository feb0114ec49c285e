"""The tokenizer and chat template of a plan's model, where they are on this machine: nothing is fetched, no torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ratchet.documents.data_report import DataVerdict
from ratchet.errors import ModelError
from ratchet.look.limits import fault_line
from ratchet.pairs.chat import chat_template_of
from ratchet.pairs.hub import cached_file
from ratchet.pairs.render import Style, find_style
from ratchet.pairs.tokenizer import load_tokenizer
from ratchet.plan.model import ModelSpec
from ratchet.store.files import at_home

_SHOWN = "lengths are in characters, and texts are shown by turn"


@dataclasses.dataclass(frozen=True)
class FoundTokenizer:
    """A tokenizer with its template's style, or None of both; `said` says which, or why there is none."""

    said: str
    tokenizer: Any = None
    style: Style | None = None
    faults: tuple[DataVerdict, ...] = ()


def find_tokenizer(spec: ModelSpec | None) -> FoundTokenizer:
    """Return a model's tokenizer, if it is on this machine. One that a run could not use is a fault."""
    if spec is None:
        return FoundTokenizer(f"no model is named (--model), so {_SHOWN}")
    if spec.scratch is not None:
        return FoundTokenizer(f"the model and its tokenizer are made by the run, so {_SHOWN}")
    if spec.path is not None:
        folder: Path | None = at_home(spec.path).absolute()
    else:
        file = cached_file("model", str(spec.name), spec.revision, "tokenizer_config.json")
        folder = None if file is None else file.parent
    if folder is None:
        return FoundTokenizer(f"{spec.name} is not on this machine, so {_SHOWN}; download it to see tokens")
    try:
        tokenizer = load_tokenizer(folder, chat_template_of(spec))
        style = find_style(tokenizer)
    except ModelError as error:
        return FoundTokenizer(f"{spec.path or spec.name} cannot be used, so {_SHOWN}", faults=(fault_line(error, ""),))
    return FoundTokenizer(f"tokens of {spec.path or spec.name}, by its chat template", tokenizer, style)
