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

    What needs pandas itself, as `to_pandas` does, imports it all the same.
    """
    if "pandas" in sys.modules:
        return
    sys.meta_path.insert(0, _NoPandas)
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(_NoPandas)


class _NoPandas:
    """A finder that finds no pandas."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        """Let the finders after it look for anything else."""
        if name == "pandas":
            raise ModuleNotFoundError(name, name=name)


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
    if not _ALONE.get():
        lean_transformers()
        return importlib.import_module("transformers").AutoTokenizer
    if "transformers" in sys.modules:
        return importlib.import_module("transformers").AutoTokenizer
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # else it warns that there is no torch
    sys.modules["torch"] = None  # type: ignore[assignment]  # Python's own mark of a module that is not there
    try:
        return importlib.import_module("transformers").AutoTokenizer
    finally:
        del sys.modules["torch"]
