"""Which files a part of a plan or suite reads, and whether these say all that it reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ratchet.model.folder import model_folder
from ratchet.pairs.chat import shipped_templates
from ratchet.pairs.files import source_files
from ratchet.plan.base import is_url
from ratchet.plan.data import HeldOutRows, Source, held_out_source
from ratchet.plan.model import ModelSpec, is_commit
from ratchet.plan.naming import NAMING, TEMPLATE
from ratchet.plan.suite import Suite
from ratchet.plan.tasks import BUILT_IN, Harness
from ratchet.store.files import at_home

_OF_MODELS = {".json", ".jinja", ".model", ".txt", ".py", ".safetensors"}
"""Files that a model is read from: weights, settings, tokenizer, templates, code."""


def told_by_files(part: Any) -> bool:
    """Say whether files and values alone decide what a part of a plan or suite reads."""
    hub, at_url = getattr(part, "hub", None), any(map(is_url, getattr(part, "paths", ())))
    if at_url or (hub is not None and not is_commit(hub.revision or "")):
        return False
    if isinstance(part, ModelSpec) and part.name is not None and not is_commit(part.revision or ""):
        return False
    if not isinstance(part, Suite):
        return True
    harness = [task for task in part.tasks.values() if isinstance(task, Harness)]
    # A definition of lm-eval may name files anywhere, and reads from the hub without a mirror. So may a package's task.
    mirrored = not harness or (part.data_root is not None and not any(task.include for task in harness))
    return mirrored and all(task.kind in BUILT_IN for task in part.tasks.values())


def named_by(part: Any) -> Iterator[Path]:
    """Yield the files and folders whose content a part of a plan or suite reads."""
    if isinstance(part, Source):
        # With the files that it holds out: how these are looked for depends on the source.
        for one in (held_out_source(part), part):
            yield from (Path(file.path) for file in (source_files(one) if one is not None and one.path else ()))
        return
    if isinstance(part, HeldOutRows):
        return
    if isinstance(part, ModelSpec) and part.scratch is None:
        folder = model_folder(part)
        found = (path for place in ("*", "additional_chat_templates/*") for path in folder.glob(place))
        yield from sorted(path for path in found if path.suffix in _OF_MODELS and path.is_file())
    for key in NAMING.get(type(part), ()):
        value = getattr(part, key)
        for name in [value] if isinstance(value, str) else value or ():
            whole = isinstance(part, ModelSpec) and key == "path"
            if not (whole or (key == TEMPLATE and name in shipped_templates())):
                yield at_home(name).absolute()
