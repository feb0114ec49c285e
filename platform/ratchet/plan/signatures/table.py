"""All signatures, in the order in which rows are held against them: the first that fits is taken."""

from __future__ import annotations

from ratchet.plan.signatures.demonstrations import DEMONSTRATIONS
from ratchet.plan.signatures.judged import JUDGED
from ratchet.plan.signatures.pairs import PAIRS
from ratchet.plan.signatures.refused import REFUSED, VAGUE
from ratchet.plan.signatures.sides import SIDES
from ratchet.plan.signatures.signature import Signature

SIGNATURES: tuple[Signature, ...] = (*REFUSED, *PAIRS, *JUDGED, *SIDES, *DEMONSTRATIONS, *VAGUE)
