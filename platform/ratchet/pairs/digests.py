"""What ids of pairs are digests of: texts in, 32 hex digits out, for one pair and for columns of many.

JSON is written part by part, as ids are most of the work of reading: ASCII, so that a digest does not change with how
JSON writes other characters, and without blanks. JSON, so that ['a', 'b'] and ['ab'] differ.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from json.encoder import encode_basestring_ascii
from typing import Any

from ratchet.pairs.normal_form import unblanked_texts

json_text = encode_basestring_ascii


def digest(text: str) -> str:
    """Return 32 hex digits of ASCII."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def short_digest(text: str) -> str:
    """Return 32 hex digits of any text."""
    # Unpaired surrogates are refused later, and must not stop a reader here.
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def turn_json(role: str, content: str, beyond: str = "") -> str:
    """Return a turn as ids are made of it, from its role, its content as JSON, and what else it has."""
    return f'["{role}",{content}{beyond}]'


def turns_json(turns: Iterable[str]) -> str:
    """Return turns as ids are made of them."""
    return f"[{','.join(turns)}]"


def pair_digest(prompt: str, chosen: str, rejected: str, offered: str = "") -> str:
    """Return a pair's id, from JSON."""
    return digest(f"[{prompt},{chosen},{rejected}{offered}]")


def asked_line(role: str, text: str) -> str:
    """Return what a contest is known by of a turn of its prompt, from the text's wording."""
    return f"{role}:{text}"


def contest_digest(asked: Iterable[str], won: str, lost: str) -> tuple[str, bool]:
    """Return 32 hex digits of a prompt and two answers without their order, and whether the first one was chosen."""
    first, second = (won, lost) if won <= lost else (lost, won)
    return short_digest("\0".join(("\n".join(asked), first, second))), won == first


def ids_of_columns(
    roles: Sequence[str],
    prompt: Sequence[Sequence[str]],
    wordings: Sequence[Sequence[str]],
    chosen: Sequence[str],
    rejected: Sequence[str] | None,
) -> dict[str, list[Any]]:
    """Return the columns of ids of many pairs, whose prompts have the same roles and texts alone.

    `prompt` has the contents of each turn of all prompts, and `wordings` what they are as wordings. A user's turn is
    among them, and no text holds NUL.
    """
    turns = [
        [turn_json(role, text) for text in map(json_text, contents)]
        for role, contents in zip(roles, prompt, strict=True)
    ]
    prompts = list(map(turns_json, zip(*turns, strict=True)))
    others = itertools.repeat("null") if rejected is None else map(json_text, rejected)
    found: dict[str, list[Any]] = {
        "pair_id": list(map(pair_digest, prompts, map(json_text, chosen), others)),
        "prompt_id": list(map(digest, prompts)),
        "prompt_key": list(map(short_digest, wordings[roles.index("user")])),
        "contest": [None] * len(chosen),
        "first_won": [None] * len(chosen),
    }
    if rejected is not None:
        spoken = [
            [asked_line(role, text) for text in texts]
            for role, texts in zip(roles, wordings, strict=True)
            if role != "system"
        ]
        answers = unblanked_texts(chosen), unblanked_texts(rejected)
        contests = list(map(contest_digest, zip(*spoken, strict=True), *answers))
        found["contest"], found["first_won"] = map(list, zip(*contests, strict=True))
    return found
