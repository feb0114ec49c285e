"""BLEU, ROUGE and chrF of greedy answers. The only module that imports sacrebleu and rouge_score."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version

import numpy as np
import numpy.typing as npt

from ratchet.documents.scores import Score
from ratchet.evaluate.engines.pool import Candidate
from ratchet.evaluate.results import Item, TaskResult, count_problems, without_error
from ratchet.evaluate.statistics import estimate
from ratchet.evaluate.task_files import read_rows
from ratchet.evaluate.task_run import NEXT, Content, Inputs, TaskRun, by_candidate, nothing_to_check
from ratchet.evaluate.thoughts import UNCLOSED, spoken, thought_warnings
from ratchet.pairs.pair import Turn
from ratchet.plan.task_parts import Comparing
from ratchet.plan.tasks import Chrf, TextOverlap
from ratchet.reference.store import Floats
from ratchet.serving.requests import TOO_LONG, Answer, ChatRequest, Sampling

ROUGES = ("rouge1", "rouge2", "rougeL")
ORDERS = 4
"""Longest n-gram of BLEU-4."""
CHARACTERS = 6
"""Longest n-gram of characters of chrF."""


@dataclasses.dataclass(frozen=True)
class Overlap:
    """How N answers overlap with their references.

    `counts` (N, 10) is what a corpus's BLEU is made of, summed over its sentences. It has words of the answer and of
    the reference, n-grams of order 1 to 4 that both have, and n-grams of the answer. `bleu` is the corpus's score and
    `sentence_bleu` (N,) each answer's, in percent; `rouge` has (N,) F-measures, shares, for each of ROUGES. The
    signatures are sacrebleu's own.
    """

    bleu: float
    counts: npt.NDArray[np.int64]
    sentence_bleu: Floats
    rouge: dict[str, Floats]
    corpus_signature: str
    sentence_signature: str


def run_text_overlap(name: str, task: TextOverlap, candidate: Candidate) -> TaskResult:
    """Ask each question as the only turn of a chat, and hold the greedy answers against the references.

    Thoughts are no part of an answer. An empty answer is an answer: it scores 0, and is counted among the
    problems. Raises DataError where the rows cannot be used, and what the engine raises.
    """
    asked = _ask_rows(task, candidate)
    overlap = measure_overlap(asked.texts, asked.references)
    values = [
        {"bleu": float(overlap.sentence_bleu[at])} | {key: float(overlap.rouge[key][at]) for key in ROUGES}
        for at in range(len(asked.answers))
    ]
    settings = {
        "bleu": overlap.corpus_signature,
        "sentence_bleu": overlap.sentence_signature,
        "rouge": f"rouge-score {version('rouge-score')}, F-measure, no stemmer, words of a-z and 0-9",
        "bleu_error": "jackknife over answers",
    }
    return _result(name, task, asked, overlap_scores(overlap), values, settings)


def run_chrf(name: str, task: Chrf, candidate: Candidate) -> TaskResult:
    """Ask as `run` does, and score the answers by chrF2. Raises what `run` raises."""
    import sacrebleu

    asked, metric = _ask_rows(task, candidate), sacrebleu.CHRF()
    value = metric.corpus_score(asked.texts, [asked.references]).score
    counts = np.array([chrf_counts(*pair) for pair in zip(asked.texts, asked.references, strict=True)])
    error = jackknife(counts, corpus_chrf) if len(counts) > 1 else None
    score = Score("chrF2", "chrf", value, error, len(counts), unit="percent", note=without_error(error, "answer"))
    values = [{"chrf": float(one)} for one in corpus_chrf(counts)]
    settings = {"chrf": str(metric.get_signature()), "chrf_error": "jackknife over answers"}
    return _result(name, task, asked, (score,), values, settings)


@dataclasses.dataclass(frozen=True)
class _AskedRows:
    """Rows, a digest over them, and the answers to their questions; `texts` is what the answers say."""

    questions: list[str]
    references: list[str]
    digest: str
    answers: list[Answer]

    @property
    def texts(self) -> list[str]:
        return [spoken(answer.text) or "" for answer in self.answers]


def _ask_rows(task: Comparing, candidate: Candidate) -> _AskedRows:
    rows, digest = read_rows(task.rows, (task.question, task.answer), task.max_rows)
    sampling = Sampling(max_tokens=task.max_new_tokens, temperature=0.0)
    requests = [ChatRequest((Turn("user", row[task.question]),), sampling) for row in rows]
    answers = candidate.engine.answer(requests)
    return _AskedRows([row[task.question] for row in rows], [row[task.answer] for row in rows], digest, answers)


def _result(
    name: str,
    task: TextOverlap | Chrf,
    asked: _AskedRows,
    scores: tuple[Score, ...],
    values: Sequence[Mapping[str, float]],
    settings: Mapping[str, str],
) -> TaskResult:
    rows = zip(asked.questions, asked.references, asked.answers, values, strict=True)
    items = tuple(_item(number, *row) for number, row in enumerate(rows))
    return TaskResult(
        task=name,
        kind=task.kind,
        scores=scores,
        items=items,
        settings={
            "rows": asked.digest,
            "count": len(items),
            "columns": [task.question, task.answer],
            "prompt": "the question as the only user turn, greedy",
            "max_new_tokens": task.max_new_tokens,
            "engine": task.engine,
            "batch_tokens": task.batch_tokens,
            **settings,
            "headline_mean": "corpus",
        },
        problems=count_problems(items),
        warnings=_warnings(asked.answers, task),
    )


def measure_overlap(answers: Sequence[str], references: Sequence[str]) -> Overlap:
    """Return how N answers overlap with N references, case and all, in words as mteval-v13a cuts them.

    Sentence scores use the orders that an answer is long enough for (`eff:yes`), the corpus all four; both smooth
    orders without a match exponentially, as sacrebleu does unless told otherwise. ROUGE is without stemming.
    """
    import sacrebleu
    from rouge_score.rouge_scorer import RougeScorer

    corpus, sentence = sacrebleu.BLEU(), sacrebleu.BLEU(effective_order=True)
    bleu = [sentence.sentence_score(answer, [gold]) for answer, gold in zip(answers, references, strict=True)]
    # As rouge-score is unless told otherwise.
    scorer = RougeScorer(list(ROUGES), use_stemmer=False)
    rouge = [scorer.score(gold, answer) for answer, gold in zip(answers, references, strict=True)]
    return Overlap(
        bleu=corpus.corpus_score(list(answers), [list(references)]).score,  # first: the signatures tell of it
        counts=np.array([[one.sys_len, one.ref_len, *one.counts, *one.totals] for one in bleu], np.int64),
        sentence_bleu=np.array([one.score for one in bleu]),
        rouge={key: np.array([one[key].fmeasure for one in rouge], np.float64) for key in ROUGES},
        corpus_signature=str(corpus.get_signature()),
        sentence_signature=str(sentence.get_signature()),
    )


def overlap_scores(overlap: Overlap) -> tuple[Score, ...]:
    """Return the corpus's BLEU-4 in percent, and the mean ROUGE-1, 2 and L, shares, each with its error."""
    count = len(overlap.counts)
    error = jackknife(overlap.counts) if count > 1 else None
    note = without_error(error, "answer")
    scores = [Score("BLEU-4", "bleu", overlap.bleu, error, count, unit="percent", note=note)]
    for key in ROUGES:
        found = estimate(overlap.rouge[key])
        name = f"ROUGE-{key.removeprefix('rouge')}"
        scores.append(Score(name, key, found.mean, found.standard_error, count, note=note))
    return tuple(scores)


def corpus_bleu(counts: npt.NDArray[np.int64]) -> Floats:
    """Return the BLEU-4 of corpora in percent, shape (…), from their summed counts (…, 10).

    Brevity penalty times the geometric mean of the four precisions (Papineni et al. 2002, section 2.3). The k-th
    order without a match has the precision 1 / (2ᵏ · its n-grams) (mteval-v13a; Chen and Cherry 2014, method 3);
    an answer without n-grams of some order, or without any match, is worth 0.
    """
    length, reference = counts[..., 0].astype(np.float64), counts[..., 1].astype(np.float64)
    matches, totals = counts[..., 2 : 2 + ORDERS], counts[..., 2 + ORDERS :]
    none = matches == 0
    smoothed = np.where(none, 0.5 ** np.cumsum(none, axis=-1), matches)
    precisions = smoothed / np.maximum(totals, 1)
    brevity = np.exp(np.minimum(0.0, 1.0 - reference / np.maximum(length, 1.0)))
    score = 100.0 * brevity * np.exp(np.log(precisions).mean(axis=-1))
    return np.where((totals > 0).all(axis=-1) & ~none.all(axis=-1), score, 0.0)


def chrf_counts(answer: str, reference: str) -> list[int]:
    """Return what a corpus's chrF is made of, summed over its sentences, for each order from 1 to 6.

    N-grams of characters, blanks left out, of the answer, of the reference, and those that both have. Those of an
    answer do not count where the reference has none of that order, as in sacrebleu.
    """
    counts = []
    for order in range(1, CHARACTERS + 1):
        mine, gold = (
            Counter(text[at : at + order] for at in range(len(text) - order + 1))
            for text in ("".join(answer.split()), "".join(reference.split()))
        )
        counts += [mine.total() if gold else 0, gold.total(), (mine & gold).total()]
    return counts


def corpus_chrf(counts: npt.NDArray[np.int64]) -> Floats:
    """Return the chrF2 of corpora in percent, shape (…), from their summed counts (…, 18).

    F with β = 2, which weighs recall twice as much (Popović 2015, equation 1). Precision and recall are means over the
    orders that both sides have.
    """
    mine, gold, both = (counts[..., at::3].astype(np.float64) for at in range(3))
    had = (mine > 0) & (gold > 0)
    orders = np.maximum(had.sum(axis=-1), 1)
    precision = np.where(had, both / np.maximum(mine, 1), 0.0).sum(axis=-1) / orders
    recall = np.where(had, both / np.maximum(gold, 1), 0.0).sum(axis=-1) / orders
    below = 4 * precision + recall
    return 100.0 * np.where(below > 0, 5 * precision * recall / np.where(below > 0, below, 1.0), 0.0)


def jackknife(counts: npt.NDArray[np.int64], score: Callable[[npt.NDArray[np.int64]], Floats] = corpus_bleu) -> float:
    """Return the standard error of a corpus's `score`, in percent, from its sentences' counts (N, …), N > 1.

    A corpus's score is no mean over sentences, but a smooth function of means. The scores of the N corpora that lack
    one sentence each spread √(N − 1) times less than those of new corpora (Efron and Stein 1981).
    """
    # From counts, not texts: N corpora of N − 1 sentences would be N² sentences to compare.
    left = score(counts.sum(axis=0) - counts)
    return float(np.sqrt((len(counts) - 1) * np.var(left)))


def _item(at: int, question: str, gold: str, answer: Answer, values: Mapping[str, float]) -> Item:
    # Divided by a zero, or `ab` and `c` would be the item that `a` and `bc` are.
    content = hashlib.sha256(f"{question}\0{gold}".encode()).hexdigest()[:8]
    item = f"{at + 1} {content}"
    said = spoken(answer.text)
    problem = ""
    if said is None:
        problem = UNCLOSED
    elif not said.strip():
        problem = TOO_LONG if answer.finish_reason == TOO_LONG else "empty answer"
    return Item(item, item, values, question=question, answer=answer.text, reference=gold, problem=problem)


def _warnings(answers: Sequence[Answer], task: Comparing) -> tuple[str, ...]:
    found = thought_warnings(answer.text for answer in answers)
    cut = sum(answer.finish_reason == "length" for answer in answers)
    if not cut:
        return found
    return (*found, f"{cut} of {len(answers)} answers were cut off at max_new_tokens = {task.max_new_tokens}")


def _read(name: str, task: Comparing, inputs: Inputs) -> Content:
    return Content(read_rows(task.rows, (task.question, task.answer), task.max_rows)[1], None)


TASK = TaskRun(reads=_read, check_chosen=nothing_to_check, turn=NEXT, together=None, run=by_candidate(run_text_overlap))
CHRF = TaskRun(reads=_read, check_chosen=nothing_to_check, turn=NEXT, together=None, run=by_candidate(run_chrf))
