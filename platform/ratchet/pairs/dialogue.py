"""Dialogues as demonstrations: which turns of the assistant are trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ratchet.pairs.checks import Reason, Unfit
from ratchet.pairs.fields import has, number_of, with_system
from ratchet.pairs.meanings import meaning_of, says
from ratchet.pairs.messages import turns_of
from ratchet.pairs.pair import Turn

_WEIGHTS = ("weight", "loss", "training", "train", "loss_weight")
"""Keys of a message that say whether it is trained on."""
_SAID = frozenset(("role", "content", "from", "value", *_WEIGHTS))


def dialogue_of(row: Mapping[str, Any], key: str) -> tuple[tuple[Turn, ...], Turn, tuple[int, ...]]:
    """Return what comes before the assistant's last turn, that turn, and places of its earlier ones. Raises Unfit.

    What follows the last turn is left out. A message of weight 0 is read and not trained on (OpenAI's way to say so),
    and so is one whose `loss` (ms-swift), `training` or `train` (axolotl) is false. A verdict of the row is one on the
    last turn, and says nothing of those before it.
    """
    turns = turns_of(row[key], key)
    weights = [_weight(item) for item in row[key]]
    spoken = enumerate(zip(turns, weights, strict=True))
    taught = [at for at, (turn, weight) in spoken if turn.role == "assistant" and weight]
    if odd := {weight for weight in weights if weight not in {0.0, 1.0}}:
        raise Unfit(Reason.MESSAGES, f"{key} has a message of weight {min(odd):g}: 0 and 1 are known")
    for at in taught:
        _check_unread(row[key][at], f"{key}, message {at + 1}")
    if not taught:
        raise Unfit(Reason.MESSAGES, f"{key} has no turn of the assistant to train on")
    if any(_judges(column, value) for column, value in row.items()):
        taught = taught[-1:]
    prompt = with_system(row, turns[: taught[-1]])
    moved = len(prompt) - taught[-1]
    return prompt, turns[taught[-1]], tuple(at + moved for at in taught[:-1])


def _check_unread(item: Mapping[str, Any], name: str) -> None:
    """Raise Unfit where a message to train on has a key that is not read, and says how good it is or what of it."""
    if item.get("train_detail"):
        raise Unfit(Reason.MESSAGES, f"{name} has train_detail, which is not read: a message is trained on or not")
    for key in item.keys() - _SAID:
        meaning = meaning_of(key, "demonstrations")
        if meaning is not None and meaning.single and says(item[key], meaning):
            raise Unfit(Reason.MESSAGES, f"{name} has {key}, which is not read: {meaning.what}")


def by_assistant(turns: tuple[Turn, ...]) -> tuple[int, ...]:
    """Return the places of the assistant's turns."""
    return tuple(at for at, turn in enumerate(turns) if turn.role == "assistant")


def _judges(column: str, value: Any) -> bool:
    """Say whether a column calls the answer of its row good or bad, as `label` and `kto_tag` do."""
    meaning = meaning_of(column, "demonstrations")
    return meaning is not None and meaning.judges and says(value, meaning)


def _weight(item: Mapping[str, Any]) -> float:
    """Return what a message says of itself under the first of the keys that it has; 1 where it says nothing."""
    key = next((key for key in _WEIGHTS if has(item, key)), None)
    if key is None:
        return 1.0
    return float(item[key]) if isinstance(item[key], bool) else number_of(item, key)
