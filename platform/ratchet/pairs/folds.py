"""Turns as templates take them that have no place for a system text, or want user and assistant to alternate."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ratchet.pairs.pair import Turn


def fold_system(turns: Sequence[Turn]) -> Sequence[Turn]:
    """Put the system text before the first user's, a blank line between them, as users of such models do."""
    if not turns or turns[0].role != "system":
        return turns
    at = next((at for at, turn in enumerate(turns) if turn.role == "user"), None)
    if at is None:
        return turns
    led = dataclasses.replace(turns[at], content=f"{turns[0].content}\n\n{turns[at].content}")
    return (*turns[1:at], led, *turns[at + 1 :])


def merge_turns(turns: Sequence[Turn]) -> Sequence[Turn]:
    """Make turns of a user that follow one another one, a blank line between their texts."""
    found: list[Turn] = []
    for turn in turns:
        if found and turn.role == found[-1].role == "user":
            found[-1] = dataclasses.replace(turn, content=f"{found[-1].content}\n\n{turn.content}")
        else:
            found.append(turn)
    return found
