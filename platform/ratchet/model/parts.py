"""The parts of a model: those that text reaches are trained, and the others stay as the start folder has them.

A model that also sees or hears has towers and projectors beside its decoder, and some have layers that predict more
than one token. No answer's probability depends on them: they get no gradient, no decay, no adapter and no optimiser.
"""

from __future__ import annotations

import itertools
from typing import Any

from torch import Tensor, nn

from ratchet.model.part_names import HELD, UNREAD, purpose_of


def class_for(config: Any) -> Any:
    """Return the class of transformers that loads all of a model: the one that its folder names, if there are two."""
    from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM
    from transformers.models.auto import modeling_auto as known

    whole = known.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.get(config.model_type)
    texts = known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    if whole is not None and (texts is None or whole in (config.architectures or ())):
        return AutoModelForMultimodalLM
    return AutoModelForCausalLM


def decoder_of(causal: Any) -> Any:
    """Return the module that makes hidden states of token ids."""
    found = causal.get_decoder()
    if found is causal.get_output_embeddings():  # a head that bears the name `decoder`
        return causal.base_model
    # Llama 4 says that its language model with its head is the decoder.
    return found.model if found.get_output_embeddings() is not None and hasattr(found, "model") else found


def freeze_unread(model: Any) -> None:
    """Take from training what no token reaches, and what is no weight though it is held as one.

    No gradient comes to it (`part_names.HELD`), but weight decay would.
    """
    read = _read_by_text(model)
    for name, weight in model.named_parameters():
        if id(weight) not in read or _is_held(model, name):
            weight.requires_grad_(False)


def _is_held(model: Any, name: str) -> bool:
    return purpose_of(name, 0, getattr(model.config.get_text_config(), "cross_attention_layers", None) or ()) in HELD


def held_modules(model: Any) -> list[str]:
    """Return the modules of weights to which no gradient comes, by name."""
    names = (name.rpartition(".")[0] for name, _ in model.named_parameters() if _is_held(model, name))
    return list(dict.fromkeys(names))


def unread_tensors(model: Any) -> dict[str, Tensor]:
    """Return what of a plain model's state dict lies outside decoder and head, by name."""
    read = _read_by_text(model)
    return {name: tensor for name, tensor in model.state_dict(keep_vars=True).items() if id(tensor) not in read}


def unread_modules(model: Any) -> list[str]:
    """Return the largest modules of which text reaches nothing, by name."""
    read, found = _read_by_text(model), list[str]()
    for name, module in model.named_modules():
        weights = list(module.parameters())
        within = any(name.startswith(f"{other}.") for other in found)
        if weights and not within and not any(id(weight) in read for weight in weights):
            found.append(name)
    return found


def _read_by_text(model: Any) -> set[int]:
    """Return the identities of the tensors that an answer's probability may depend on."""
    head = model.get_output_embeddings()
    # Without a head of its own a model is not scored, and none of its parts is known to be of no use.
    parts: tuple[nn.Module, ...] = (model,) if head is None else (decoder_of(model), head)
    read = {id(tensor) for part in parts for tensor in (*part.parameters(), *part.buffers())}
    # Some decoders hold the tower that sees.
    named = itertools.chain(model.named_parameters(), model.named_buffers())
    return read - {id(tensor) for name, tensor in named if purpose_of(name, 0) in UNREAD}
