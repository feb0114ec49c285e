"""How transformers and pyarrow are used without what nobody here needs of them.

They look which other libraries are installed, and import some of them for functions that Ratchet never calls. Where
lm-eval is installed, these are scikit-learn, scipy and pandas: a second and 1,200 modules in each process.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pyarrow as pa

_PROBES = ("is_sklearn_available", "is_scipy_available")
_READERS = ("transformers.generation.candidate_generator", "transformers.loss.loss_utils")
"""What asks the probes when it is imported: drafts that a second model writes, and losses of detectors."""
_ALONE: ContextVar[bool] = ContextVar("tokenizers alone", default=False)


@functools.cache
def lean_transformers() -> None:
    """Import what models need of transformers, without scikit-learn, scipy and pandas.

    Call it before any other part of transformers is imported. Who asks the probes later gets the truth.
    """
    places = [importlib.import_module(name) for name in ("transformers.utils", "transformers.utils.import_utils")]
    told = [(place, name, getattr(place, name)) for place in places for name in _PROBES]
    try:
        for place, name, _ in told:
            # No library is hidden, so that another thread can import it meanwhile.
            setattr(place, name, lambda: False)
        for reader in _READERS:
            importlib.import_module(reader)
    finally:
        for place, name, probe in told:
            setattr(place, name, probe)


@functools.cache
def lean_arrow() -> None:
    """Let pyarrow make arrays of lists without pandas, which it imports with the first one to know its types.

    Once pandas is imported, by `to_pandas` or by anybody's code, pyarrow knows its types as ever. Before that there are
    no objects of them.
    """
    if "pandas" in sys.modules:
        return
    sys.meta_path.insert(0, _NoPandas)
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(_NoPandas)
    sys.meta_path.insert(0, _PandasForArrow)


class _NoPandas:
    """A finder that finds no pandas."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        """Let the finders after it look for anything else."""
        if name == "pandas":
            raise ModuleNotFoundError(name, name=name)


class _PandasForArrow:
    """A finder of pandas, by which pyarrow looks for it once more when it has been imported.

    pyarrow looks by itself only once. It would then take a Series for any sequence: NaN would be no null.
    """

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return what the finders after it find of pandas, with a loader that tells pyarrow; nothing of all else."""
        if name != "pandas":
            return None
        others = [finder for finder in sys.meta_path if finder is not cls]
        spec = next((found for one in others if (found := one.find_spec(name, path, target)) is not None), None)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_tell(module: ModuleType) -> None:
                load(module)
                _ = importlib.import_module("pyarrow.lib")._pandas_api.pd  # to read it is to look again

            # Of this object alone: it stays a loader of its class, for who asks it for sources or resources.
            spec.loader.exec_module = load_and_tell  # type: ignore[method-assign]
        return spec


@contextlib.contextmanager
def tokenizers_alone() -> Iterator[None]:
    """Take transformers without torch, for a command that loads no model; one that is loaded already stays as it is.

    transformers has that mode, for machines without torch: tokenizers and their ids are the same.
    """
    if {"transformers", "torch"} & sys.modules.keys():
        yield
        return
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)
        # It remembers that there is no torch: who needs models later imports it again.
        for name in [name for name in sys.modules if name.partition(".")[0] == "transformers"]:
            del sys.modules[name]


def tokenizer_class() -> Any:
    """Return transformers' AutoTokenizer; within `tokenizers_alone` no torch is loaded for it."""
    return _of_transformers("AutoTokenizer")


def tokenizer_base() -> Any:
    """Return transformers' class of fast tokenizers that have no class of their own, as `tokenizer_class` does."""
    return _of_transformers("PreTrainedTokenizerFast")


def _of_transformers(name: str) -> Any:
    if not _ALONE.get():
        lean_transformers()
        return getattr(importlib.import_module("transformers"), name)
    if "transformers" in sys.modules:
        return getattr(importlib.import_module("transformers"), name)
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # else it warns that there is no torch
    sys.modules["torch"] = None  # type: ignore[assignment]  # Python's own mark of a module that is not there
    try:
        return getattr(importlib.import_module("transformers"), name)
    finally:
        del sys.modules["torch"]
