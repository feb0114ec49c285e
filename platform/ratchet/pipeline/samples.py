"""What models write to a few held-out prompts, before and after: for every plan, with or without a suite."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ratchet.documents.heldout import SampledPrompt, Split, WrittenAnswer
from ratchet.errors import RatchetError, StoppedError, StorageError
from ratchet.evaluate.bench import Bench, Candidates
from ratchet.pairs.pair import Ids
from ratchet.pairs.table import open_table
from ratchet.pipeline.context import Run, Tokens
from ratchet.pipeline.graph import BASE, final_model
from ratchet.pipeline.prepare import stage_tokens
from ratchet.plan.stage_kinds import trains
from ratchet.plan.task_parts import Answering
from ratchet.serving.requests import Answer, CompletionRequest, Sampling
from ratchet.store.record import checked, finished_record
from ratchet.track.progress import under_way

_log = logging.getLogger(__name__)

SPLITS: tuple[Split, ...] = ("heldout", "train")
PROMPTS = 5
"""Prompts that every model answers."""

LIMIT, MOST = 128, 512
"""Tokens that an answer may have: enough to see a loop, and seconds even without a GPU; twice as many as the chosen
answer has, to see that one never ends, up to the second number."""

_LONGEST_PROMPT = 1024
"""Tokens of a prompt: a longer one costs more time than it is worth."""


@dataclasses.dataclass(frozen=True)
class ChosenPrompt:
    """A pair of a source: its prompt as token ids and as text, and its chosen answer."""

    source: str
    split: Split
    ids: Ids
    text: str
    chosen: str
    chosen_tokens: int

    @property
    def limit(self) -> int:
        """The most tokens that a model may write."""
        return min(MOST, max(LIMIT, 2 * self.chosen_tokens))


def write_samples(run: Run) -> tuple[SampledPrompt, ...]:
    """Return the prompts with what the start model and each stage's final model wrote to them, greedily.

    What was written before is found in the journals of answers, so a run that was killed does not ask again. A model
    that cannot be asked is a warning: its training is done, and its report is to be written. A trial of a sweep writes
    none. Raises StoppedError, StorageError.
    """
    prompts = chosen_prompts(run) if run.trial is None else []
    written: dict[str, tuple[str, Sequence[Answer]]] = {}
    for name in sampled_models(run) if prompts else []:
        try:
            with under_way(f"asked {name}", f"answers {len(prompts)} prompts", run.console):
                written[name] = _ask(run, name, prompts)
        # Both are a RatchetError too, and end the run: it was asked to stop, or cannot write.
        except (StoppedError, StorageError):
            raise
        except RatchetError as error:
            _log.warning("no answers of %s are shown: %s", name, error)
    return tuple(_sample(prompt, at, written) for at, prompt in enumerate(prompts)) if written else ()


def all_answered(run: Run, samples: Sequence[SampledPrompt]) -> bool:
    """Whether every model has answered the prompts, so that the next run would ask nothing. Of no trial."""
    if not samples:  # there is no prompt, or no model could be asked
        return not chosen_prompts(run)
    return all(len(prompt.answers) == len(sampled_models(run)) for prompt in samples)


def sampled_models(run: Run) -> list[str]:
    """Return the start model, also one of random weights, and what each stage ends with, in the order made."""
    names = {BASE} | {final_model(run.plan, stage) for stage in run.plan.stages}
    return [name for name in run.models if name in names]


def chosen_prompts(run: Run) -> list[ChosenPrompt]:
    """Return the prompts: the same for all models and runs of the same data, from every source that a stage reads.

    They are held-out ones, the sources taking turns; where nothing is held out, pairs that are trained on.
    """
    tokens: dict[str, Tokens] = {}
    for stage in run.plan.stages.values():
        if trains(stage):
            # What is there already wins: a source is shown as the first stage that reads it has it.
            tokens = {**stage_tokens(run, stage), **tokens}
    for split in SPLITS:
        streams = [_prompts(run, one, split) for one in tokens.values() if finished_record(one.folder).counts[split]]
        found = list(_in_turns(streams))
        if found:
            return found
    return []


def _prompts(run: Run, tokens: Tokens, split: Split) -> Iterator[ChosenPrompt]:
    """Yield different prompts of a source in the order of their pairs' ids, which are digests."""
    table = open_table([tokens.folder / f"{split}.arrow"], [1.0], 0)
    ids = table.pair_ids().to_pylist()
    # Some prompts are too long and some are the same, so more are looked at; a source may have millions.
    texts = _texts(run.pairs[tokens.source][1] / f"{split}.parquet", sorted(ids)[: 20 * PROMPTS])
    seen: set[bytes] = set()
    for row in sorted(range(len(ids)), key=ids.__getitem__)[: 20 * PROMPTS]:
        pair = table[row]
        if len(pair.prompt) <= _LONGEST_PROMPT and pair.prompt.tobytes() not in seen:
            seen.add(pair.prompt.tobytes())
            text = "\n\n".join(turn["content"] for turn in texts[ids[row]]["prompt"])
            yield ChosenPrompt(tokens.source, split, pair.prompt, text, texts[ids[row]]["chosen"], len(pair.chosen))


def _texts(path: Path, pair_ids: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
    columns = ["pair_id", "prompt", "chosen"]
    table = pq.read_table(checked(path), columns=columns, filters=[("pair_id", "in", list(pair_ids))])
    return {row["pair_id"]: row for row in table.to_pylist()}


def _in_turns(streams: Sequence[Iterator[ChosenPrompt]]) -> Iterator[ChosenPrompt]:
    """Yield PROMPTS prompts, one of each stream at a time."""
    left, count = list(streams), 0
    while left and count < PROMPTS:
        for stream in list(left):
            prompt = next(stream, None)
            if prompt is None:
                left.remove(stream)
            elif count < PROMPTS:
                count += 1
                yield prompt


def _ask(run: Run, name: str, prompts: Sequence[ChosenPrompt]) -> tuple[str, Sequence[Answer]]:
    """Return where a model's answers are kept, and the answers."""
    bench = Bench(run.layout, run.plan.cluster, run.console, run.chat_template, 1, lambda: run.stop.why() is not None)
    task = Answering()
    with Candidates(bench, run.models[name]) as candidates:
        candidates.alone([task], candidates.step_back)
        candidate = candidates.of(task)
        requests = [CompletionRequest(tuple(one.ids.tolist()), Sampling(max_tokens=one.limit)) for one in prompts]
        kept = run.layout.answers(candidate.identity).relative_to(run.layout.root)
        return str(kept), candidate.engine.answer(requests)


def _sample(prompt: ChosenPrompt, at: int, written: Mapping[str, tuple[str, Sequence[Answer]]]) -> SampledPrompt:
    return SampledPrompt(
        source=prompt.source,
        split=prompt.split,
        chosen=prompt.chosen,
        chosen_tokens=prompt.chosen_tokens,
        limit=prompt.limit,
        prompt=prompt.text,
        answers=tuple(
            WrittenAnswer(
                model=name,
                text=answers[at].text,
                tokens=answers[at].completion_tokens or 0,
                ended=answers[at].finish_reason == "stop",
                record=kept,
            )
            for name, (kept, answers) in written.items()
        ),
    )
