"""The tokenizer and chat template of a plan's model, where they are on this machine: nothing is fetched, no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ratchet.documents.data_report import DataVerdict
from ratchet.errors import ModelError, some
from ratchet.look.limits import fault_line
from ratchet.model.scratch_tokenizer import write_scratch_tokenizer
from ratchet.pairs.chat import chat_template_of
from ratchet.pairs.hub import cached_file
from ratchet.pairs.style import Style, find_style
from ratchet.pairs.tokenizer import load_tokenizer
from ratchet.pipeline.prepare import scratch_texts
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


def find_tokenizer(spec: ModelSpec | None, pairs: Mapping[str, Path], scratch: Path) -> FoundTokenizer:
    """Return a model's tokenizer, if it is on this machine. One that a run could not use is a fault.

    That of a model from scratch is trained here, as a run does it, on the folders of `pairs`, in the folder `scratch`.
    """
    if spec is None:
        return FoundTokenizer(f"no model is named (--model), so {_SHOWN}")
    if spec.scratch is not None:
        missing = [name for name in spec.scratch.tokenizer_from if name not in pairs]
        if missing:
            return FoundTokenizer(f"the tokenizer is trained on {some(missing)}, which cannot be read, so {_SHOWN}")
        write_scratch_tokenizer(
            spec.scratch, scratch_texts([pairs[name] for name in spec.scratch.tokenizer_from]), scratch
        )
        return _loaded(scratch, spec, "tokens of the plan's own tokenizer, trained here as a run does it")
    if spec.path is not None:
        folder: Path | None = at_home(spec.path).absolute()
    else:
        file = cached_file("model", str(spec.name), spec.revision, "tokenizer_config.json")
        folder = None if file is None else file.parent
    if folder is None:
        return FoundTokenizer(f"{spec.name} is not on this machine, so {_SHOWN}; download it to see tokens")
    return _loaded(folder, spec, f"tokens of {spec.path or spec.name}, by its chat template")


def _loaded(folder: Path, spec: ModelSpec, said: str) -> FoundTokenizer:
    try:
        tokenizer = load_tokenizer(folder, chat_template_of(spec))
        style = find_style(tokenizer)
    except ModelError as error:
        named = spec.path or spec.name or "the plan's model"
        return FoundTokenizer(f"{named} cannot be used, so {_SHOWN}", faults=(fault_line(error, ""),))
    return FoundTokenizer(said, tokenizer, style)
