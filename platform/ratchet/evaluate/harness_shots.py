"""Examples before a question, and never the question itself among them.

lm-eval leaves an item out of its own examples only where a definition names one split for both, `test_split` and
`fewshot_split`. Where it takes the examples' split by a rule of its own, or asks the validation split, an item's own
question and answer may stand before it (EleutherAI/lm-evaluation-harness, issue 4145).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any


def draws_from_questions(task: Any) -> bool:
    """Whether a task's examples come from the rows that it asks."""
    config = task.config
    pool = task.fewshot_cfg.split or config.training_split or config.validation_split or config.test_split
    asks = config.test_split or config.validation_split
    return bool(config.num_fewshot and not task.fewshot_cfg.samples and pool == asks)


class Others:
    """A sampler of lm-eval's kind that draws as another one does, and again where that drew the item itself.

    `before` is set to the document that examples are drawn for; `redrawn` tells whether they were drawn again.
    """

    def __init__(self, task: Any, sampler: Any) -> None:
        self.task, self.sampler = task, sampler
        self.before: Any = None
        self.redrawn = False
        self._pool = list(sampler.fewshot_docs())
        self._questions = {id(doc): self._question(doc) for doc in self._pool}

    def sample(self, n: int, eval_doc: Any = None, **options: Any) -> Any:
        """Return `n` examples, none of which asks what the item asks. Raises ValueError where there are not so many."""
        own = self._question(self.before)
        found = self.sampler.sample(n, eval_doc=eval_doc, **options)
        if all((self._questions.get(id(doc)) or self._question(doc)) != own for doc in found):
            return found
        self.redrawn = True
        others = [doc for doc in self._pool if self._questions[id(doc)] != own]
        if len(others) < n:
            raise ValueError(f"{len(others)} rows ask something else")
        self.sampler.df, self.sampler._loaded = others, True
        try:
            return self.sampler.sample(n, **options)
        finally:
            self.sampler.df = self._pool

    def _question(self, doc: Any) -> str:
        choices = self.task.doc_to_choice(doc) if self.task.OUTPUT_TYPE == "multiple_choice" else None
        return json.dumps([self.task.doc_to_text(doc), choices], default=str)


@contextlib.contextmanager
def among_others(task: Any) -> Iterator[Others | None]:
    """Let a task draw its examples among other items than the one that is asked; None where it cannot draw that."""
    if not draws_from_questions(task):
        yield None
        return
    own = task.sampler
    own.fewshot_docs()  # picks the rows by `fewshot_indices`, once
    task.sampler = Others(task, own)
    try:
        yield task.sampler
    finally:
        task.sampler = own
