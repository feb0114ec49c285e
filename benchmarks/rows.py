"""Rows of a user as pairs of token ids, and the lengths of public rows, which the shapes are drawn from.

    python -m benchmarks.rows AlpacaEval FILE … --tokenizer FOLDER --source 'where the rows come from'

counts a set and writes its lengths into `lengths.json`: lengths alone, and no text. Of each prompt it
keeps the tokens of the prompt, of the chosen answer and of each rejected one, and how many tokens each
rejected answer has in common with the chosen one, at the beginning and at the end.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ratchet.model.scratch import make_scratch
from ratchet.pairs.assemble import assemble
from ratchet.pairs.pair import Ids, PreferencePair, Skipped, TokenisedPair, Turn
from ratchet.pairs.source import read_source
from ratchet.pairs.table import open_table
from ratchet.pairs.token_flow import prepare_tokens
from ratchet.plan.data import Source
from ratchet.plan.model import Scratch
from ratchet.store.layout import Layout
from ratchet.train.batches import epoch_order

LENGTHS = Path(__file__).parent / "lengths.json"
MOST_PROMPTS = 400
"""Prompts of a set that are kept: enough for any mean that is measured, and a small file."""


@dataclasses.dataclass(frozen=True)
class Group:
    """The lengths of a prompt's pairs with one chosen answer, in tokens; `rejected` has a row for each pair.

    A row is the length of the rejected answer, and how much it has in common with the chosen one at the
    beginning and at the end.
    """

    prompt: int
    chosen: int
    rejected: tuple[tuple[int, int, int], ...]


def tokenise_rows(source: Source, tokenizer: Path | None, vocab: int, max_length: int, folder: Path) -> Path:
    """Write the pairs of `source` as the product tokenises them; return the token file.

    Without a folder with a `tokenizer`, a byte-level BPE of at most `vocab` tokens is trained on the rows
    themselves. Pairs of more than `max_length` tokens are left out. Raises DataError, ModelError, PlanError.
    """
    return _tokenised(read_source(source), source, tokenizer, vocab, max_length, folder)


def _tokenised(
    items: Iterable[PreferencePair | Skipped],
    source: Source,
    tokenizer: Path | None,
    vocab: int,
    max_length: int,
    folder: Path,
) -> Path:
    pairs = folder / "pairs"
    pairs.mkdir(parents=True)
    kept = list(items)
    assemble(kept, pairs, source)
    if tokenizer is None:
        tokenizer = folder / "tokenizer"
        # The smallest model that there is: its tokenizer alone is wanted.
        scratch = Scratch(
            tokenizer_from=("rows",),
            vocab_size=min(vocab, 65536),
            hidden_size=8,
            layers=1,
            heads=1,
            key_value_heads=1,
            intermediate_size=8,
        )
        make_scratch(scratch, _texts(kept), tokenizer)
    _, tokens = prepare_tokens(
        pairs,
        "0" * 20,
        tokenizer,
        Layout(folder / "store"),
        max_length=max_length,
        overlong="drop",
        chat_template=None,
        small_rows=1 << 40,
    )
    return tokens / "train.arrow"


def _texts(items: Iterable[PreferencePair | Skipped]) -> Iterator[str]:
    for item in items:
        if isinstance(item, PreferencePair):
            turns = (*item.prompt, item.chosen, item.rejected)
            yield from (turn.content for turn in turns if turn is not None)


def rows_of(file: Path, count: int, seed: int) -> list[TokenisedPair]:
    """Return `count` pairs of a token file, in an order that `seed` decides; the pairs of a prompt come together.

    Raises ValueError where the file has fewer.
    """
    table = open_table([file], [1.0], 0)
    if len(table) < count:
        raise ValueError(f"{count} pairs are asked for, and the rows give {len(table)}: fewer --rounds or --batch")
    return [table[int(row)] for row in epoch_order(len(table), seed, 1, table.prompt_of_N)[:count]]


def groups_of(pairs: Sequence[TokenisedPair]) -> list[Group]:
    """Return the lengths of pairs, those that share prompt and chosen answer as one group."""
    held: dict[bytes, list[TokenisedPair]] = {}
    for pair in pairs:
        held.setdefault(pair.prompt.tobytes() + b"|" + pair.chosen.tobytes(), []).append(pair)
    return [
        Group(
            len(some[0].prompt),
            len(some[0].chosen),
            tuple((len(pair.rejected), *_shared(pair.chosen, pair.rejected)) for pair in some),
        )
        for some in held.values()
    ]


def _shared(chosen: Ids, rejected: Ids) -> tuple[int, int]:
    """Return the tokens that two answers have in common at the beginning, and behind those at the end."""
    room = min(len(chosen), len(rejected))
    start = int(np.argmin(np.append(chosen[:room] == rejected[:room], False)))
    room -= start
    tails = chosen[::-1][:room] == rejected[::-1][:room]
    return start, int(np.argmin(np.append(tails, False)))


def read_lengths(path: Path = LENGTHS) -> dict[str, list[Group]]:
    """Return the groups of each set."""
    sets = json.loads(path.read_text(encoding="utf-8"))
    return {
        name: [Group(prompt, chosen, tuple(map(tuple, rejected))) for prompt, chosen, rejected in one["groups"]]
        for name, one in sets.items()
    }


def with_shots(pairs: Sequence[PreferencePair], shots: int, seed: int) -> Iterator[PreferencePair]:
    """Yield pairs whose prompt begins with `shots` other prompts and their chosen answers, drawn for each prompt."""
    known = {pair.prompt_id: f"{pair.prompt[-1].content} {pair.chosen.content}\n\n" for pair in pairs}
    for pair in pairs:
        draw = np.random.Philox(key=np.array([seed, int(pair.prompt_id[:15], 16)], dtype=np.uint64))
        others = [name for name in known if name != pair.prompt_id]
        order = np.argsort(draw.random_raw(len(others)), kind="stable")[:shots]
        text = "".join(known[others[int(i)]] for i in order) + pair.prompt[-1].content
        yield dataclasses.replace(pair, prompt=(*pair.prompt[:-1], Turn("user", text)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Count a set, and write its lengths beside those of the others."""
    import tempfile

    parser = argparse.ArgumentParser(prog="python -m benchmarks.rows", description=__doc__)
    parser.add_argument("name")
    parser.add_argument("rows", nargs="+")
    parser.add_argument("--tokenizer", type=Path, required=True, help="a folder with tokenizer.json and a template")
    parser.add_argument("--source", required=True, help="where the rows come from, and what was counted with")
    parser.add_argument("--build", help="make pairs from rows that have none, as `build:` of a plan")
    parser.add_argument("--shots", type=int, default=0, help="other questions with their answers before each")
    parser.add_argument("--max-length", type=int, default=1024)
    options = parser.parse_args(arguments)
    source = Source(path=tuple(options.rows), build=options.build, held_out=0.0)
    items: Iterable[PreferencePair | Skipped] = read_source(source)
    if options.shots:
        items = with_shots([item for item in items if isinstance(item, PreferencePair)], options.shots, 0)
    with tempfile.TemporaryDirectory() as folder:
        file = _tokenised(items, source, options.tokenizer, 0, options.max_length, Path(folder))
        table = open_table([file], [1.0], 0)
        order = epoch_order(len(table), 0, 1, table.prompt_of_N)
        groups = groups_of([table[int(row)] for row in order])[:MOST_PROMPTS]
    sets = json.loads(LENGTHS.read_text(encoding="utf-8")) if LENGTHS.exists() else {}
    kept = [[group.prompt, group.chosen, group.rejected] for group in groups]
    sets[options.name] = {"source": options.source, "pairs": len(table), "groups": kept}
    LENGTHS.write_text(_written(sets), encoding="utf-8")
    print(f"{options.name}: {len(groups)} of {len(set(table.prompt_of_N.tolist()))} prompts, {len(table)} pairs")


def _written(sets: dict[str, dict[str, object]]) -> str:
    """Return the file's text: a line for a set, so that a set counted again changes one line."""
    lines = [f"{json.dumps(name)}: {json.dumps(one, separators=(',', ':'))}" for name, one in sorted(sets.items())]
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    main()
