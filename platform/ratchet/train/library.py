"""What libraries raise for a model, as an error of Ratchet's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ratchet.errors import ModelError
from ratchet.model.export import LIBRARY_ERRORS
from ratchet.store.machine import out_of_memory


@contextlib.contextmanager
def library_faults(model: str) -> Iterator[None]:
    """Turn what libraries raise for a model that they cannot save, merge or load into a ModelError.

    Other workers wait in `agree`, and it would come again. Faults of disk and memory are left as they are.
    """
    try:
        yield
    except LIBRARY_ERRORS as error:
        if isinstance(error, OSError) or out_of_memory(f"{type(error).__name__}: {error}"):
            raise
        said = str(error).strip().splitlines() or ["no message"]
        raise ModelError(
            f"it could not be published: {type(error).__name__}: {said[0]}",
            where=model,
            fix="report this with the model's config.json; other lora.targets or another model.dtype may do",
            code="model.unpublishable",
        ) from error
