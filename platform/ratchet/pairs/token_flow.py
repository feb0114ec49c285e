"""A source's tokens: pairs stream through the tokenizer, in order, into memory-mapped files.

Ray Data spreads the work and one batch at a time reaches the driver, so memory stays flat. A source
too small to be worth a Ray job is tokenised in the calling process, and so is every source without a
Ray. What is computed lies in `tokens`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from ratchet.errors import DataError
from ratchet.pairs.chat import ChatTemplate, template_identity
from ratchet.pairs.left_out import check_written
from ratchet.pairs.pair_table import SIDES
from ratchet.pairs.style import Style, find_style
from ratchet.pairs.tokenizer import digest_tokenizer, load_tokenizer
from ratchet.pairs.tokens import VERSION, Policy, TokenWriter, tokenise
from ratchet.store import warned
from ratchet.store.fingerprint import digest_once
from ratchet.store.layout import Layout
from ratchet.store.lease import SILENTLY, Wait
from ratchet.store.machine import on_ray
from ratchet.store.made import Product, ensure
from ratchet.store.record import checked

SMALL_ROWS = 5000
"""Up to this many pairs are tokenised in the calling process: starting a Ray Data job takes as long."""
# Fast tokenizers work on a batch in parallel; beyond some hundreds of texts that gains nothing more.
_BATCH = 256


def tokens_identity(
    pairs_fp: str, model_folder: Path, policy: Policy, chat_template: ChatTemplate | None
) -> dict[str, Any]:
    """Return what tokens are made from: pairs, tokenizer, template and what it reads, length policy, code version.

    Raises ModelError where there is no tokenizer.
    """
    return {
        "kind": "tokens",
        "version": VERSION,
        "pairs": pairs_fp,
        "tokenizer": digest_tokenizer(model_folder),
        **_rendering(model_folder, chat_template, _marks(model_folder)),
        "max_length": policy.max_length,
        "overlong": policy.overlong,
    }


def _marks(model_folder: Path) -> tuple[str, ...]:
    """Return digests of all files of a model folder that a tokenizer or its template is read from."""
    # Not all below: a model's folder may hold data sets and outputs. The second folder is transformers' for templates.
    found = (path for place in ("*", "additional_chat_templates/*") for path in model_folder.glob(place))
    small = (path for path in found if path.suffix in {".json", ".jinja", ".model", ".txt"})
    return tuple(f"{path.name} {digest_once(path)}" for path in sorted(small) if path.is_file())


# Loading a tokenizer takes longer than all else of an identity, and one plan asks for each source and stage.
@functools.lru_cache(maxsize=256)
def _rendering(model_folder: Path, chat_template: ChatTemplate | None, marks: tuple[str, ...]) -> dict[str, Any]:
    return template_identity(load_tokenizer(model_folder, chat_template))


@dataclasses.dataclass(frozen=True)
class PairTokens:
    """The tokens of a source's pairs, under a tokenizer, a template and a length policy."""

    pairs_folder: Path
    pairs_fp: str
    model_folder: Path
    policy: Policy
    chat_template: ChatTemplate | None
    small_rows: int = SMALL_ROWS
    kind: ClassVar[str] = "tokens"

    @property
    def what(self) -> str:
        return f"tokens of the pairs {self.pairs_fp}"

    @functools.cached_property
    def identity(self) -> Mapping[str, Any]:
        return tokens_identity(self.pairs_fp, self.model_folder, self.policy, self.chat_template)

    def make(self, folder: Path, look: Callable[[], None]) -> Product:
        """Tokenise both sides in order. Raises ModelError, DataError."""
        # Here first: its errors are raised here, and not wrapped by a worker.
        find_style(load_tokenizer(self.model_folder, self.chat_template))
        work = _Work(self.model_folder, self.chat_template, self.policy, warned.destination())
        files = [checked(self.pairs_folder / f"{side}.parquet") for side in SIDES]
        rows = [pq.read_metadata(file).num_rows for file in files]
        with TokenWriter(folder) as writer:
            for side, file, count in zip(SIDES, files, rows, strict=True):
                here = count <= self.small_rows or not on_ray()
                for table in _here(file, work) if here else _on_ray(file, work):
                    look()
                    writer.write(side, table)
        counts = writer.counts()
        _prove(counts, sum(rows), self.pairs_folder)
        return Product(counts, {"pairs": self.pairs_fp}, writer.facts())


def prepare_tokens(
    pairs_folder: Path,
    pairs_fp: str,
    model_folder: Path,
    layout: Layout,
    *,
    max_length: int,
    overlong: Literal["drop", "trim_prompt"],
    chat_template: ChatTemplate | None,
    small_rows: int = SMALL_ROWS,
    wait: Wait = SILENTLY,
) -> tuple[str, Path]:
    """Return fingerprint and folder of a source's tokens, making them where the store has none.

    Where this process has a Ray, it takes a side of more than `small_rows` pairs. `wait.look` is called while it works,
    too. Raises ModelError where the tokenizer or its template cannot be used, DataError where no pair is left to train
    on, StorageError.
    """
    tokens = PairTokens(pairs_folder, pairs_fp, model_folder, Policy(max_length, overlong), chat_template, small_rows)
    made = ensure(layout, tokens, wait)
    return made.fingerprint, made.folder


def _prove(counts: dict[str, Any], rows: int, pairs_folder: Path) -> None:
    skipped = sum(counts["skipped"].values())
    if not counts["read"] == rows == counts["kept"] + skipped:
        raise DataError(
            f"{rows} pairs went in, {counts['kept']} came out and {skipped} were skipped",
            where=str(pairs_folder),
            fix="run again; if it stays so, delete the folder",
        )
    check_written(counts["train"], counts["skipped"], str(pairs_folder))


@dataclasses.dataclass(frozen=True)
class _Work:
    """What a process needs to tokenise."""

    model_folder: Path
    chat_template: ChatTemplate | None
    policy: Policy
    warnings: str | None


def _tokenised(table: pa.Table, work: _Work) -> pa.Table:
    warned.send(work.warnings)
    tokenizer, style = _tokenizer(work.model_folder, work.chat_template)
    return tokenise(table, tokenizer, style, work.policy)


# Loading takes seconds, and a worker gets one call for each batch.
@functools.lru_cache(maxsize=2)
def _tokenizer(model_folder: Path, chat_template: ChatTemplate | None) -> tuple[Any, Style]:
    tokenizer = load_tokenizer(model_folder, chat_template)
    return tokenizer, find_style(tokenizer)


def _here(file: Path, work: _Work) -> Iterator[pa.Table]:
    for batch in pq.ParquetFile(file).iter_batches(_BATCH):
        yield _tokenised(pa.Table.from_batches([batch]), work)


def _on_ray(file: Path, work: _Work) -> Iterator[pa.Table]:
    import ray.data

    pairs = ray.data.read_parquet(str(file))
    tables = pairs.map_batches(_tokenised, fn_args=(work,), batch_size=_BATCH, batch_format="pyarrow")
    tables.context.execution_options.preserve_order = True
    tables.context.enable_progress_bars = False
    yield from tables.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
