"""Perplexity of running text in sliding windows."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Sequence

import numpy as np

from ratchet.documents.scores import Score
from ratchet.errors import DataError, ModelError, PlanError
from ratchet.evaluate.engines.pool import Candidate
from ratchet.evaluate.results import Item, TaskResult, join_notes, without_error
from ratchet.evaluate.statistics import ratio
from ratchet.evaluate.task_files import read_rows
from ratchet.evaluate.task_run import NEXT, Content, Inputs, TaskRun, by_candidate, nothing_to_check
from ratchet.plan.tasks import Perplexity
from ratchet.serving.requests import Answer, ContinuationRequest

LONGEST_WINDOW = 4096
"""The window of a model with more positions, unless the suite names one."""
_BEYOND = 700.0  # nats a token: exp of more is near the largest float


@dataclasses.dataclass(frozen=True)
class Window:
    """Tokens `start` to `end` of a text; those from `first` on are predicted, and those before it only read."""

    start: int
    first: int
    end: int

    @property
    def predicted(self) -> int:
        """How many tokens are predicted."""
        return self.end - self.first


def run_perplexity(name: str, task: Perplexity, candidate: Candidate) -> TaskResult:
    """Score a text under a model: perplexity, nats for each token, bits for each byte.

    The text is the rows joined by blank lines, made into tokens at once. The tokenizer puts around it what it puts
    around any text, such as Llama's BOS. Its first token has nothing before it and is not predicted; every other one
    is, once. Raises DataError where the rows cannot be used or hold fewer than two tokens; PlanError where the windows
    do not fit the model; ModelError where a likelihood is not finite; what the engine raises.
    """
    window, stride = _lengths(name, task, candidate.longest)
    rows, digest = read_rows(task.rows, (task.column,), task.max_rows, blank=True)
    text = "\n\n".join(row[task.column] for row in rows)
    # Quietly: the tokenizer would warn of a text longer than the model takes, and windows follow.
    ids = tuple(candidate.tokenizer(text, verbose=False)["input_ids"])
    if len(ids) < 2:
        fix = "a text of at least two tokens has something to predict"
        raise DataError(f"the text has {len(ids)} tokens", where=f"tasks.{name}.rows", fix=fix)
    cut = windows(len(ids), window, stride)
    answers = candidate.engine.answer(
        [ContinuationRequest(ids[one.start : one.first], (ids[one.first : one.end],)) for one in cut]
    )
    nats = [_nats(answer, f"tasks.{name}: window {at}") for at, answer in enumerate(answers, 1)]
    items = tuple(_item(at, one, ids, nats[at - 1]) for at, one in enumerate(cut, 1))
    return TaskResult(
        task=name,
        kind=task.kind,
        scores=perplexity_scores(nats, [one.predicted for one in cut], len(text.encode())),
        items=items,
        settings={
            "rows": digest,
            "count": len(rows),
            "column": task.column,
            "text": hashlib.sha256(text.encode()).hexdigest()[:20],
            "bytes": len(text.encode()),
            "tokens": len(ids),
            "token_ids": hashlib.sha256(np.asarray(ids, dtype="<i8").tobytes()).hexdigest()[:20],
            "window": window,
            "stride": stride,
            "quantise": task.quantise,
            "engine": task.engine,
            "batch_tokens": task.batch_tokens,
        },
    )


def windows(tokens: int, window: int, stride: int) -> list[Window]:
    """Return windows, `stride` tokens apart, over a text of `tokens`; each but the first predicts what is new in it.

    So every token but the text's first is predicted once, with `window` − `stride` tokens before it or more, or
    all that there are. These are the windows of Hugging Face's guide, Perplexity of fixed-length models.
    The guide weighs every window by one token less than it has, where only the first predicts one less.
    """
    found = [Window(0, 1, min(window, tokens))]
    while found[-1].end < tokens:
        start = found[-1].start + stride
        found.append(Window(start, found[-1].end, min(start + window, tokens)))
    return found


def perplexity_scores(nats: Sequence[float], tokens: Sequence[int], text_bytes: int) -> tuple[Score, ...]:
    """Return perplexity, nats for each token and bits for each byte of K windows, from their summed nats.

    The errors take windows as independent of each other; perplexity's is its own value times that of the nats
    (the delta method on exp). One window tells no error. Bits count all bytes of the text, also those of a first
    token that is not predicted.
    """
    found = ratio(np.asarray(nats, np.float64), np.asarray(tokens, np.float64))
    error = found.standard_error
    note = f"{without_error(error, 'window')}, take a smaller window" if error is None else ""
    bits = sum(tokens) / (text_bytes * math.log(2))
    perplexity = math.exp(found.mean) if found.mean < _BEYOND else None
    rows = (
        ("perplexity", "perplexity", perplexity, perplexity),
        ("nll per token", "nats", found.mean, 1.0),
        ("bits per byte", "bits", found.mean * bits, bits),
    )
    return tuple(
        Score(
            name,
            "nll",
            value,
            None if error is None or slope is None else slope * error,
            found.count,
            unit=unit,
            note=join_notes("too large for a number" if value is None else "", note),
            lower_is_better=True,
        )
        for name, unit, value, slope in rows
    )


def _lengths(name: str, task: Perplexity, longest: int) -> tuple[int, int]:
    """Return window and stride in tokens. Raises PlanError where they do not fit the model or each other."""
    window = task.window or min(longest, LONGEST_WINDOW)
    # Half: every token but the first ones then has half a window before it, for twice the work.
    stride = task.stride or window // 2
    if window > longest:
        what = f"{window} is more than the {longest} positions of the model"
        raise PlanError(what, where=f"tasks.{name}.window", fix=f"set it to {longest} or less")
    if stride >= window:
        what = f"{stride} is not below the window of {window}, all positions that the model has"
        raise PlanError(what, where=f"tasks.{name}.stride", fix=f"set it to {window // 2} or leave it out")
    return window, stride


def _nats(answer: Answer, where: str) -> float:
    value = answer.logprobs[0] if answer.logprobs else None
    if value is None or not math.isfinite(value):
        fix = "look at the model's weights and precision"
        raise ModelError(f"the likelihood of the text is {value}", where=where, fix=fix)
    return -value


def _item(at: int, window: Window, ids: tuple[int, ...], nats: float) -> Item:
    """The id holds a digest of the window's tokens: under another tokenizer window 17 is another text."""
    tokens = np.asarray(ids[window.start : window.end], dtype="<i8").tobytes()
    item = f"window {at} {hashlib.sha256(tokens).hexdigest()[:8]}"
    return Item(item, item, {"nll": nats, "tokens": float(window.predicted)})


def _read(name: str, task: Perplexity, inputs: Inputs) -> Content:
    return Content(read_rows(task.rows, (task.column,), task.max_rows, blank=True)[1], None)


TASK = TaskRun(reads=_read, check_chosen=nothing_to_check, turn=NEXT, together=None, run=by_candidate(run_perplexity))
