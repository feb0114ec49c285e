"""Publishing tried before training: what could fail at the end fails at the start. Writes no weights."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ratchet.errors import ModelError
from ratchet.model.digest import VOLATILE
from ratchet.model.export import copy_companions, published_settings
from ratchet.model.load import is_dropout
from ratchet.pairs.tokenizer import load_tokenizer
from ratchet.pairs.trust import load_config

_FIX = "give a model folder that transformers itself can load and save, such as one in bfloat16 or float32"
_LIBRARY = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, NotImplementedError, ImportError)
"""What transformers raises for a model that it cannot save; which one is no promise of it."""


def try_saving(model: Any, source: Path, *, trust_remote_code: bool = False, chat_template: str | None = None) -> None:
    """Go through all of `save_model` and a load of what it would write, with weights that have no content.

    `model` is plain, as `load_model` gave it from `source`. Raises ModelError where settings, tokenizer or chat
    template do not come back, or weights would be absent, foreign or of another shape.
    """
    if getattr(model, "hf_quantizer", None) is not None:
        raise ModelError("its weights are stored quantised, and stay so when loaded", where=str(source), fix=_FIX)
    try:
        _try_weights(model, source)
        with tempfile.TemporaryDirectory(prefix="ratchet-") as folder:
            _try_folder(model, source, Path(folder), chat_template, trust_remote_code=trust_remote_code)
    except _LIBRARY as error:
        raise ModelError(
            f"it could not be published: {str(error).strip().splitlines()[0]}", where=str(source), fix=_FIX
        ) from error


def written_tensors(model: Any) -> dict[str, Tensor]:
    """Return what saving a plain model writes, by name, without content."""
    from transformers.core_model_loading import revert_weight_conversion
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    kept = {name: tensor.to("meta") for name, tensor in model.state_dict().items()}
    return dict(revert_weight_conversion(model, remove_tied_weights_from_state_dict(kept, model)))


def _try_weights(model: Any, source: Path) -> None:
    from transformers.utils import logging

    written = written_tensors(model)
    logging.disable_progress_bar()
    said = logging.get_verbosity()
    logging.set_verbosity_error()  # what is wrong is raised below
    try:
        _, info = type(model).from_pretrained(
            None,
            config=model.config,
            state_dict=written,
            dtype=model.dtype,
            device_map="meta",
            output_loading_info=True,
        )
    finally:
        logging.set_verbosity(said)
    for key, what in (("missing_keys", "absent"), ("unexpected_keys", "foreign"), ("mismatched_keys", "misshapen")):
        if names := sorted(map(str, info.get(key) or ())):
            raise ModelError(
                f"what would be published is not what was loaded: {what} weights {', '.join(names[:5])}",
                where=str(source),
                fix=_FIX,
            )


def _try_folder(model: Any, source: Path, folder: Path, chat_template: str | None, *, trust_remote_code: bool) -> None:
    copy_companions(source, folder, with_config=False)
    (folder / "config.json").write_text(json.dumps(published_settings(model, source)), encoding="utf-8")
    if chat_template is not None:
        (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
    if (folder / "tokenizer_config.json").exists():  # weights alone have none to lose; a plan's models all have one
        load_tokenizer(folder, None)
    found = load_config(folder, trust_remote_code=trust_remote_code)
    before, after = _telling(model.config.to_dict()), _telling(found.to_dict())
    if type(found) is not type(model.config):
        raise ModelError(f"its settings come back as {type(found).__name__}", where=str(source), fix=_FIX)
    if changed := sorted(key for key in {*before, *after} if before.get(key) != after.get(key)):
        shown = ", ".join(changed[:5])
        raise ModelError(f"its settings do not come back as they were: {shown}", where=str(source), fix=_FIX)


def _telling(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without those that say nothing of a computation, at any depth: dropout here is always 0."""
    return {
        key: _telling(value) if isinstance(value, Mapping) else value
        for key, value in ((str(key), value) for key, value in fields.items())
        if key not in VOLATILE and key not in {"architectures", "quantization_config"} and not is_dropout(key, value)
    }
