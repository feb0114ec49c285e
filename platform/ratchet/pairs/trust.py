"""What a model's folder from outside may not decide here: code to run, kernels to fetch, another model to load.

transformers has had ways around `trust_remote_code=False` that began in config.json (CVE-2026-5241, CVE-2026-4372). So
where code is not trusted, settings are read from a copy that names no code and no kernels, alone in its folder.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from ratchet.errors import ModelError
from ratchet.pairs.lean import lean_transformers
from ratchet.pairs.tokenizer import read_json

_CODE = {"auto_map", "trust_remote_code", "code_revision", "custom_generate", "custom_pipelines", "configuration_files"}
_KERNELS = {"use_kernels", "kernel_config", "attn_implementation", "experts_implementation"}
_KERNEL_HEADS = ("_attn_implementation", "_experts_implementation")


def without_code(value: Any) -> Any:
    """Return settings without every key that could bring code or kernels, at any depth."""
    if isinstance(value, dict):
        return {key: without_code(item) for key, item in value.items() if not _brings_code(key)}
    return [without_code(item) for item in value] if isinstance(value, list) else value


def code_keys(value: Any, at: str = "") -> list[str]:
    """Return the dotted names of the keys that `without_code` leaves out."""
    if isinstance(value, list):
        return [found for item in value for found in code_keys(item, at)]
    if not isinstance(value, dict):
        return []
    return [
        found
        for key, item in value.items()
        for found in ([f"{at}{key}"] if _brings_code(key) else code_keys(item, f"{at}{key}."))
    ]


def load_config(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """Return the transformers configuration of a model folder, whose own code is run only where it is trusted.

    Raises ModelError where there is none that this transformers knows, or where trusted code is not in the folder.
    """
    lean_transformers()
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    fields = read_json(folder / "config.json")
    refuse_adapter(folder)
    try:
        if trust_remote_code:
            _refuse_code_elsewhere(folder, fields)
            return AutoConfig.from_pretrained(str(folder), trust_remote_code=True, local_files_only=True)
        # transformers also looks for code and kernels beside config.json, so the copy lies alone.
        with tempfile.TemporaryDirectory(prefix="ratchet-") as alone:
            (Path(alone) / "config.json").write_text(json.dumps(without_code(fields)), encoding="utf-8")
            config = AutoConfig.from_pretrained(alone, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, StrictDataclassError) as error:
        unrun = f", and its code ({', '.join(code_keys(fields))}) is not run" if code_keys(fields) else ""
        raise ModelError(
            f"its settings cannot be used: {first_words(error)}{unrun}",
            where=str(folder / "config.json"),
            fix="give a model that this version of transformers knows, or one whose code you have read: "
            "name, revision (a commit) and trust_remote_code",
            code="model.settings",
        ) from error
    # Else it would name the folder that is gone, and messages and published models would repeat that.
    config._name_or_path = str(folder)
    return config


def first_words(error: Exception) -> str:
    """Return the first line of an error of a library; where that ends in a colon the next line is the fault."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(line.strip() for line in lines[: 2 if lines[0].endswith(":") else 1])


def refuse_code(folder: Path, reader: str) -> None:
    """Raise ModelError where a folder's settings name code and `reader`, which reads them itself, might run it."""
    if found := code_keys(read_json(folder / "config.json")):
        raise ModelError(
            f"config.json names code or kernels ({', '.join(found)}), and {reader} reads it itself",
            where=str(folder),
            fix="use the trainer's engine, or take these keys out of a copy of the folder and give that as path",
            code="model.code",
        )


def refuse_adapter(folder: Path) -> None:
    """Raise ModelError where a model's folder is an adapter's: transformers would load whatever base that names."""
    if (folder / "adapter_config.json").exists():
        raise ModelError(
            "adapter_config.json makes it an adapter of another model",
            where=str(folder),
            fix="merge the adapter into its model first, and give the folder of that",
            code="model.is-adapter",
        )


def _refuse_code_elsewhere(folder: Path, fields: dict[str, Any]) -> None:
    """A revision pins the code of its own repository alone: `owner/name--module.Class` is of another repository."""
    for said in (fields.get("auto_map") or {}).values():
        named = said if isinstance(said, list) else [said]
        if any("--" in str(one) for one in named):
            raise ModelError(
                f"its code lies in another repository ({named[0]}), which no revision pins",
                where=str(folder / "config.json"),
                fix="download that code beside the model, read it, and publish both as one revision",
                code="model.unpinned-code",
            )


def _brings_code(key: str) -> bool:
    return key in _CODE or key in _KERNELS or key.startswith(_KERNEL_HEADS)
