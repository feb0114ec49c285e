"""What a model's folder holds and what becomes of each part, before any weight is loaded."""

from __future__ import annotations

import dataclasses
from typing import Literal

from ratchet.errors import some

Fate = Literal["trained", "held", "kept", "undone", "lost"]
FATES: dict[Fate, str] = {
    "trained": "trained, or frozen below adapters",
    "held": "no gradient comes to it: no training changes it",
    "kept": "not reached by text: frozen, and published as it came",
    "undone": "not reached by text: frozen, and published, in model.dtype what is in FP8",
    "lost": "not loaded and not published",
}


@dataclasses.dataclass(frozen=True)
class ModelPart:
    """Tensors of one purpose: how many, their parameters, their bytes, the precisions they are stored in."""

    name: str
    tensors: int
    parameters: int
    bytes: int
    stored: tuple[str, ...]
    fate: Fate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Passport:
    """A model folder by its headers and its configuration class.

    `storage` is the quantised form of its weights, which loading undoes; with `refused` they cannot be trained, and
    that says why. `files` go along when it is published, `left` do not. `tied`: head and embeddings are one matrix,
    stored as `shared`.
    """

    architecture: str
    kind: str
    vocabulary: int
    longest: int | None
    tied: bool
    shared: tuple[str, ...] = ()
    storage: str | None = None
    refused: str | None = None
    parts: tuple[ModelPart, ...] = ()
    files: tuple[str, ...] = ()
    left: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        return sum(part.parameters for part in self.parts)

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.parts)


@dataclasses.dataclass(frozen=True)
class Reach:
    """What adapters are on: parameters of the weights that they change, of all that text reaches.

    `modules` are the last parts of their names, with how often each stands. `bypassed` get none, as the model computes
    with them in its own way, or layers share them. `experts` of the parameters are those that no adapter changes.
    """

    parameters: int
    of: int
    modules: dict[str, int]
    bypassed: tuple[str, ...] = ()
    experts: int = 0

    @property
    def share(self) -> float:
        return self.parameters / self.of if self.of else 0.0


def passport_in_words(passport: Passport) -> list[str]:
    """Return a passport as lines for a terminal."""
    length = "no limit" if passport.longest is None else f"to {passport.longest:,} tokens"
    stored = f" (stored as {' and as '.join(passport.shared)})" if passport.shared else ""
    tied = f", head and embeddings tied{stored}" if passport.tied else ""
    lines = [
        f"{passport.architecture} ({passport.kind}): {amount_of(passport.parameters)} parameters, "
        f"{passport.bytes / 1e9:,.2f} GB; {passport.vocabulary:,} tokens; {length}{tied}"
    ]
    if passport.refused:
        lines.append(f"cannot be trained: {passport.refused}")
    elif passport.storage:
        lines.append(f"stored in {passport.storage}: held, trained and published in model.dtype")
    lines += [
        f"{part.name:<12} {amount_of(part.parameters):>8} in {part.tensors:>5,} tensors "
        f"({', '.join(part.stored)}){'' if passport.refused else f'  {FATES[part.fate]}'}"
        for part in passport.parts
    ]
    if passport.left:
        lines.append(f"not published: {some(passport.left)}")
    return lines


def reach_in_words(reach: Reach) -> str:
    """Return in one line what adapters reach."""
    names = ", ".join(f"{name} × {count}" for name, count in reach.modules.items())
    said = f"{100 * reach.share:.3g} % of the parameters that text reaches: {names}"
    if reach.experts:
        said += f"; no expert ({100 * reach.experts / reach.of:.3g} %): name them in lora.targets to reach them"
    if reach.bypassed:
        said += f"; not {', '.join(reach.bypassed)}, on which no adapter fits"
    return said


def amount_of(parameters: int) -> str:
    """Return a count of parameters with three figures."""
    rounded = int(float(f"{parameters:.3g}"))  # first, as 999,600 is 1 M
    for size, sign in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k")):
        if rounded >= size:
            return f"{rounded / size:.3g} {sign}"
    return str(parameters)
