"""Whether a model's family has a router loss in transformers, by the source of its code: torch is not needed."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

from ratchet.errors import ModelError
from ratchet.pairs.tokenizer import read_json

FUNCTION = "load_balancing_loss_func"
ARGUMENTS = ["gate_logits", "num_experts", "top_k", "attention_mask"]
"""What that function takes where it is the usual loss."""


def check_router_loss(folder: Path, where: str) -> None:
    """Raise ModelError, naming the key at `where`, where the family of a folder's model has no router loss.

    Of a model with code of its own nothing is known before it is loaded.
    """
    from transformers.models.auto.configuration_auto import model_type_to_module_name

    kind = str(read_json(folder / "config.json").get("model_type", ""))
    module = model_type_to_module_name(kind)
    found = find_spec(f"transformers.models.{module}") and find_spec(f"transformers.models.{module}.modeling_{module}")
    if not found or found.origin is None:
        return
    code = ast.parse(Path(found.origin).read_text(encoding="utf-8"))
    functions = [one for one in code.body if isinstance(one, ast.FunctionDef) and one.name == FUNCTION]
    if not any([argument.arg for argument in one.args.args] == ARGUMENTS for one in functions):
        raise no_router_loss(kind, where)


def no_router_loss(name: str, where: str, more: str = "") -> ModelError:
    """Return the error that a model's family has no router loss."""
    return ModelError(
        f"{name} has no router loss in transformers{more}",
        where=where,
        fix="set router_loss: off; families that balance by a bias of their routers, as DeepSeek-V3 does, have none, "
        "and their biases stay as they are",
        code="model.router-loss",
    )
