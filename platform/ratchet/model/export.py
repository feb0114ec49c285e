"""A model as a Hugging Face folder: tried before training, written after it, and compared with what was in memory."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ratchet.errors import ModelError
from ratchet.model import memory
from ratchet.model.carried import as_saved, carried_tensors, write_carried
from ratchet.model.companions import copy_companions
from ratchet.model.folder import settings_without
from ratchet.model.forward import PairScorer, SideScores, score
from ratchet.model.load import is_dropout, load_model
from ratchet.pairs.pair import TokenisedPair
from ratchet.pairs.tokenizer import load_tokenizer, read_json
from ratchet.pairs.trust import load_config, without_code

_CPU = torch.device("cpu")
_BESIDE = 1.5
"""Free memory of a device, in sizes of the plain model, from which on that is scored there."""
_DTYPE_KEYS = {"dtype", "torch_dtype"}
_FIX = "give a model folder that transformers itself can load and save, such as one in bfloat16 or float32"
LIBRARY_ERRORS = (
    OSError,
    ValueError,
    RuntimeError,
    KeyError,
    TypeError,
    AttributeError,
    NotImplementedError,
    ImportError,
)
"""What transformers raises for a model that it cannot save; which one is no promise of it."""


def save_model(
    model: Any,
    source: Path,
    out: Path,
    card: str,
    *,
    chat_template: str | None = None,
) -> None:
    """Write a plain causal language model as a whole folder, with `card` as README.md.

    All else is as it is in `source`, which the model was loaded from: parts that text does not reach, tokenizer,
    processor and generation settings; the text of a `chat_template` that replaced the tokenizer's own goes along.
    Raises ModelError, OSError.
    """
    from transformers import GenerationConfig
    from transformers.utils import logging

    out.mkdir(parents=True, exist_ok=True)
    logging.disable_progress_bar()
    settings = model.generation_config
    model.generation_config = GenerationConfig.from_model_config(model.config)  # a hub model's own may not validate
    try:
        carried, left_out = carried_tensors(model, source)
        made = {name: tensor for name, tensor in model.state_dict().items() if name not in left_out}
        model.save_pretrained(str(out), state_dict=made)
        write_carried(out, carried)
    finally:
        model.generation_config = settings
    settings_file = json.dumps(published_settings(model, source), indent=2, ensure_ascii=False)
    (out / "config.json").write_text(settings_file + "\n", encoding="utf-8")
    copy_companions(source, out, with_config=False)
    if chat_template is not None:
        (out / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
    (out / "README.md").write_text(card, encoding="utf-8")
    for file in out.glob("*.safetensors"):
        file.chmod(0o644)  # safetensors makes files that only their owner may read


def published_settings(model: Any, source: Path) -> dict[str, Any]:
    """Return the config.json of a model that was loaded from `source`: that folder's own, dropout included.

    Only what the weights themselves decide is new: their class and precision, and that they are not quantised.
    Where the model is a part of what `source` holds (the text model of one that sees), its part is kept.
    """
    told = read_json(source / "config.json")
    fields = told if model.is_remote_code() else without_code(told)
    if fields.get("model_type") != model.config.model_type:
        fields = {**model.config.to_diff_dict(), **_dropouts(fields.get("text_config", {}))}
        fields["model_type"] = model.config.model_type
    fields = {key: value for key, value in fields.items() if key != "quantization_config"}
    dtype = str(model.dtype).removeprefix("torch.")
    if not fields.keys() & _DTYPE_KEYS:
        fields["dtype"] = dtype
    fields = _with_dtype(fields, dtype)
    return {**fields, "architectures": [type(model).__name__]}


def _dropouts(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if is_dropout(key, value)}


def _with_dtype(fields: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """Return settings in which every part that names a precision names `dtype`."""
    return {
        key: _with_dtype(value, dtype) if isinstance(value, Mapping) else dtype if key in _DTYPE_KEYS else value
        for key, value in fields.items()
    }


def reload_check(
    out: Path,
    model: Any,
    pairs: Sequence[TokenisedPair],
    dtype: str,
    *,
    device: torch.device = _CPU,
    trust_remote_code: bool = False,
) -> None:
    """Load `out`, compare every byte of its weights with the `model` in memory, and the scores of `pairs` on `device`.

    The weights are read once. From then on the model holds them as they were read, on the CPU before and after.
    Raises ModelError unless all is equal to the bit.
    """
    loaded, held = load_model(out, dtype, trust_remote_code=trust_remote_code), model.state_dict()
    for name, tensor in loaded.state_dict().items():
        if name not in held or not _same_bytes(held[name], tensor):
            raise _unlike(out, f"holds other bytes for {name} than the model in memory")
    # Merged experts may lie in memory the other way round, and equal numbers then give other last bits.
    model.load_state_dict(loaded.state_dict(), strict=False, assign=True)
    model.tie_weights()
    found = [score_plain(one, pairs, device) for one in (model, loaded)]
    for side in ("chosen", "rejected"):
        ours, theirs = (getattr(one, f"{side}_B").nan_to_num() for one in found)
        if not torch.equal(ours, theirs):
            off = float((ours - theirs).abs().max())
            raise _unlike(out, f"scores {side} answers otherwise than the model in memory (by {off:.3g} nats)")


@torch.no_grad()
def score_plain(
    model: Any, pairs: Sequence[TokenisedPair], device: torch.device, *, chosen_only: bool = False
) -> SideScores:
    """Score a plain model on `device`, where that has room for it beside what is there; else on the CPU.

    The model is on the CPU before and after.
    """
    size = sum(weight.nbytes for weight in model.parameters())
    if device.type != "cpu" and memory.available(device) < _BESIDE * size:
        device = torch.device("cpu")
    try:
        return score(PairScorer(model.to(device)).eval(), pairs, device, chosen_only=chosen_only)
    finally:
        model.to("cpu")


def _same_bytes(ours: Tensor, theirs: Tensor) -> bool:
    if ours.dtype != theirs.dtype or ours.shape != theirs.shape:
        return False
    # As bytes, because a weight that is no number is equal to none.
    flat = [tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for tensor in (ours, theirs)]
    return torch.equal(*flat)


def _unlike(out: Path, what: str) -> ModelError:
    return ModelError(
        f"the saved model {what}",
        where=str(out),
        fix="the folder cannot be trusted: look at the disk, and run the step again",
        code="model.unlike-saved",
    )


def try_saving(model: Any, source: Path, *, trust_remote_code: bool = False, chat_template: str | None = None) -> None:
    """Go through all of `save_model` and a load of what it would write, with weights that have no content.

    `model` is plain, as `load_model` gave it from `source`. Raises ModelError where settings, tokenizer or chat
    template do not come back, or weights would be absent, foreign or of another shape.
    """
    if getattr(model, "hf_quantizer", None) is not None:
        raise ModelError(
            "its weights are stored quantised, and stay so when loaded",
            where=str(source),
            fix=_FIX,
            code="model.unpublishable",
        )
    try:
        _try_weights(model, source)
        with tempfile.TemporaryDirectory(prefix="ratchet-") as folder:
            _try_folder(model, source, Path(folder), chat_template, trust_remote_code=trust_remote_code)
    except LIBRARY_ERRORS as error:
        raise ModelError(
            f"it could not be published: {str(error).strip().splitlines()[0]}",
            where=str(source),
            fix=_FIX,
            code="model.unpublishable",
        ) from error


def _try_weights(model: Any, source: Path) -> None:
    from transformers.utils import logging

    written = as_saved(model, model.state_dict())
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
                code="model.unpublishable",
            )


def _try_folder(model: Any, source: Path, folder: Path, chat_template: str | None, *, trust_remote_code: bool) -> None:
    copy_companions(source, folder, with_config=False)
    (folder / "config.json").write_text(json.dumps(published_settings(model, source)), encoding="utf-8")
    if chat_template is not None:
        (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
    if (folder / "tokenizer_config.json").exists():  # weights alone have none to lose; a plan's models all have one
        load_tokenizer(folder, None)
    found = load_config(folder, trust_remote_code=trust_remote_code)
    before, after = (settings_without(one.to_dict(), _unwritten) for one in (model.config, found))
    if type(found) is not type(model.config):
        raise ModelError(
            f"its settings come back as {type(found).__name__}", where=str(source), fix=_FIX, code="model.unpublishable"
        )
    if changed := sorted(key for key in {*before, *after} if before.get(key) != after.get(key)):
        shown = ", ".join(changed[:5])
        raise ModelError(
            f"its settings do not come back as they were: {shown}",
            where=str(source),
            fix=_FIX,
            code="model.unpublishable",
        )


def _unwritten(key: str, value: object) -> bool:
    """Whether a setting need not come back: dropout here is always 0, and these two are written from the model."""
    return key in {"architectures", "quantization_config"} or is_dropout(key, value)
