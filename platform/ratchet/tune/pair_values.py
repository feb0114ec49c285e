"""A held-out metric of a finished trial pair by pair, from the scores in the store that its figures were made of."""

from __future__ import annotations

from pathlib import Path

from ratchet.evaluate.preference import by_pair
from ratchet.losses.preference import log_ratio_reward, loss_of
from ratchet.plan.schema import Plan
from ratchet.plan.stage_kinds import reads_pairs
from ratchet.reference.store import ids_in, read_logps
from ratchet.store.record import sound_record
from ratchet.tune.metrics import HELD_OUT, RunFiles


def heldout_values(folder: Path, plan: Plan, name: str) -> dict[str, float] | None:
    """Return a held-out metric of every pair, by pair id, of a finished run of `plan` in its run folder.

    None where the metric is of another group, or the store has not all of the scores any more.
    """
    stage, _, inner = name.partition("/")
    group, _, rest = inner.partition("/")
    key, _, source = rest.partition("/")
    if group != "heldout" or stage not in plan.stages or key not in HELD_OUT:
        return None
    settings = plan.stages[stage]
    reward = loss_of(settings.kind).reward if reads_pairs(settings) else log_ratio_reward
    found: dict[str, float] = {}
    for of, row in RunFiles(folder, plan).opposed(stage).items():
        if source and of != source:
            continue
        folders = [Path(record) for record in (row.record, row.against_record) if record]
        if len(folders) < 2 or any(sound_record(one) is None for one in folders):
            return None
        ids = ids_in(folders[0])
        mine, theirs = (read_logps([one], ids) for one in folders)
        values = by_pair(mine, theirs, reward)[key]
        found |= zip(ids, values.tolist(), strict=True)
    return found or None
