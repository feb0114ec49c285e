"""A model's passport: its parts, their storage and what becomes of them, from headers and the configuration class.

No weights are loaded, and torch is not needed. Parts are known by the names that tensors have on the hub; what a run
freezes and keeps follows from the model's modules (`parts.py`), and a test holds the two together for each family.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ratchet.documents.passport import Fate, ModelPart, Passport
from ratchet.errors import ModelError
from ratchet.model.check import text_settings
from ratchet.model.companions import companions
from ratchet.model.folder import SCALES, UNDONE, Stored, scales_undone, storage_of, stored_tensors
from ratchet.model.part_names import HELD, KINDS, SPARE, UNREAD, purpose_of
from ratchet.pairs.tokenizer import read_json

_TIED = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight", "embeddings.weight")


def passport_of(folder: Path) -> Passport:
    """Return the passport of a model folder. Raises ModelError, CorruptError."""
    fields, text = read_json(folder / "config.json"), text_settings(folder)
    method = storage_of(folder)
    kept, left = companions(folder)
    longest = text.get("max_position_embeddings") or text.get("n_positions")
    tensors = stored_tensors(folder).values()
    of: dict[str, list[Stored]] = {kind: [] for kind in KINDS}
    for tensor in tensors:
        layers, crossing = int(text.get("num_hidden_layers") or 0), text.get("cross_attention_layers") or ()
        of[purpose_of(tensor.name, layers, crossing)].append(tensor)
    tied = bool(text.get("tie_word_embeddings", False))
    return Passport(
        architecture=next(iter(fields.get("architectures") or ()), ""),
        kind=str(fields.get("model_type", "")),
        vocabulary=int(text.get("vocab_size") or 0),
        longest=None if longest is None else int(longest),
        tied=tied,
        shared=_shared(of) if tied else (),
        storage=UNDONE.get(method, method) if method else None,
        refused=_refusal(method),
        parts=tuple(_part(name, some, _fate(name, method, some)) for name, some in of.items() if some),
        files=tuple(kept),
        left=tuple(left),
    )


def check_trainable(folder: Path) -> Passport:
    """Return the passport of a model that is to be trained. Raises ModelError where its storage forbids that."""
    check_storage(folder)
    return passport_of(folder)


def check_storage(folder: Path) -> None:
    """Raise ModelError where the storage of a model's weights forbids training; only config.json is read."""
    if refused := _refusal(storage_of(folder)):
        raise ModelError(
            refused,
            where=str(folder),
            fix="give the folder of the same model in bfloat16 or float16; lora.quantise holds it in 4 or 8 bits",
            code="model.storage",
        )


def _refusal(method: str | None) -> str | None:
    if method is None or method in UNDONE:
        return None
    return f"its weights are stored quantised ({method}), which loading does not undo: nothing could be published"


def _shared(of: Mapping[str, Sequence[Stored]]) -> tuple[str, ...]:
    """Return the stored tensors that are one weight where the head is the embeddings; some folders store it twice."""
    heads = [one.name for one in of["head"] if one.name.endswith(".weight")]
    return (*(one.name for one in of["embeddings"] if one.name.endswith(_TIED)), *heads)


def _fate(name: str, method: str | None, tensors: Sequence[Stored]) -> Fate:
    if name in UNREAD:
        return "kept"
    if name in HELD:
        return "held"
    if name != SPARE:
        return "trained"
    if method is None:
        return "kept"
    # Scales mean nothing beside weights that are no longer quantised.
    return "undone" if scales_undone(method, {one.name: one for one in tensors}) else "lost"


def _part(name: str, tensors: Iterable[Stored], fate: Fate) -> ModelPart:
    some = list(tensors)
    precisions = sorted({one.dtype for one in some if not SCALES.search(one.name)})
    size = sum(one.end - one.start for one in some)
    return ModelPart(name, len(some), sum(map(_parameters, some)), size, tuple(precisions), fate)


def _parameters(tensor: Stored) -> int:
    if SCALES.search(tensor.name):
        return 0
    packed = tensor.dtype == "U8" and tensor.name.endswith("_blocks")  # two to a byte
    return math.prod(tensor.shape) * (2 if packed else 1)
