"""Results on disk: a folder with `result.json` and `items.parquet`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ratchet.errors import CorruptError
from ratchet.evaluate.results import Item, Score, TaskResult
from ratchet.store.files import write_json
from ratchet.store.sound import checked

RESULT, ITEMS = "result.json", "items.parquet"
_TEXTS = ("item", "cluster", "group", "question", "answer", "reference", "problem")
_SCHEMA = pa.schema([*((name, pa.string()) for name in _TEXTS), ("values", pa.map_(pa.string(), pa.float64()))])


def write_result(folder: Path, result: TaskResult) -> None:
    """Write a result into `folder`. Raises StorageError."""
    columns: dict[str, list[Any]] = {name: [getattr(item, name) for item in result.items] for name in _TEXTS}
    columns["values"] = [sorted(item.values.items()) for item in result.items]
    pq.write_table(pa.table(columns, _SCHEMA), folder / ITEMS, compression="zstd")
    fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(result) if field.name != "items"}
    write_json(folder / RESULT, {**fields, "scores": [dataclasses.asdict(score) for score in result.scores]})


def read_result(folder: Path) -> TaskResult:
    """Return the result that `write_result` wrote. Raises CorruptError."""
    try:
        fields = json.loads(checked(folder / RESULT).read_text(encoding="utf-8"))
        rows = pq.read_table(checked(folder / ITEMS)).to_pylist()
        return TaskResult(
            **{
                **fields,
                "scores": tuple(Score(**score) for score in fields["scores"]),
                "items": tuple(Item(**{**row, "values": dict(row["values"])}) for row in rows),
                "warnings": tuple(fields["warnings"]),
            }
        )
    except (OSError, ValueError, TypeError, KeyError, pa.ArrowException) as error:
        raise CorruptError(
            f"not a result: {error}", where=str(folder), fix="delete the folder; it is made again"
        ) from error
