"""What a stored tensor is for, by the name that it has on the hub. No torch."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

SPARE = "more tokens"
"""Layers that predict several tokens at a time: transformers leaves them in the folder."""
UNREAD = {"vision", "audio", "projector"}
"""Parts of which an answer of texts reads nothing."""
HELD = {"buffers", "choice of keys", "cross-attention"}
"""Parts to which no gradient comes, though text may reach them: weight decay alone would change them.

They are biases by which a router chooses, indexers that choose each row's keys, and attention to another model."""
_TOWERS = (
    "vision_tower|vision_model|visual|vision_encoder|vision_embedder|embed_vision|image_tower|video_tower|vit"
    "|image_encoder"
)
_BETWEEN = (
    "multi_modal_projector|mm_projector|connector|aligner|vision_projector|vision_projection|vision_adapter"
    "|visual_projection"
)
_BRIDGES = "projector|merger|image_to_text_projection|vit_large_projector|patch_merge_mlp|mlp_AR"
_CHOICE = "e_score_correction_bias|expert_bias|balancing_biases|tid2eid"
_DECAY = "slope_rate|query_decay|key_decay|diagonal_decay"
_PATTERNS = (
    ("vision", rf"(^|\.)({_TOWERS}|vision_embed_tokens|visual_embeddings_table)\."),
    ("audio", r"(^|\.)(audio_tower|audio_model|audio_encoder|embed_audio)\."),
    ("projector", rf"(^|\.)({_BETWEEN}|{_BRIDGES})\.|^mlp1\.|(^|\.)image_newline$"),
    (SPARE, r"(^|\.)mtp(_layers|_block)?\."),
    ("buffers", rf"(^|\.)({_CHOICE}|{_DECAY}|inv_freq|layer_scalar|act_fn\.(beta|eps)|attn(ention)?\.(masked_)?bias)$"),
    ("choice of keys", r"\.indexer\."),
    ("cross-attention", r"\.(encoder_attn|encoder_attn_layer_norm|crossattention|cross_attn)\."),
    ("experts", r"\.experts\."),
    ("router", r"\.(gate|router)\.[^.]+$"),
    ("embeddings", r"(^|\.)(embed_tokens|wte|wpe|word_embeddings|embed_in|embed_positions|embeddings)\."),
    ("head", r"(^|\.)(lm_head|embed_out)\."),
    ("text", ""),
)
"""Kinds of parts, each with a pattern of its tensors' names; the first that matches counts."""
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
KINDS = tuple(kind for kind, _ in _PATTERNS)


def purpose_of(name: str, layers: int, crossing: Collection[int] = ()) -> str:
    """Return the part that a tensor belongs to, in a text model of so many layers (0: not known).

    The layers that `crossing` numbers look at pictures alone, and a text passes them by.
    """
    found = next(kind for kind, pattern in _PATTERNS if re.search(pattern, name))
    number = _LAYER.search(name)
    if number is None or found in UNREAD:
        return found
    if int(number[1]) in crossing:
        return "cross-attention"
    return SPARE if layers and int(number[1]) >= layers else found


def is_spare(name: str, config: Any) -> bool:
    """Say whether a tensor is of a layer for several tokens, of which the configuration of a model says how many.

    Without that, a layer beyond the last one is no such layer: config.json may be another model's.
    """
    text = config.get_text_config()
    layers, more = (getattr(text, key, None) or 0 for key in ("num_hidden_layers", "num_nextn_predict_layers"))
    number = _LAYER.search(name)
    return purpose_of(name, layers) == SPARE and (number is None or int(number[1]) < layers + more)
