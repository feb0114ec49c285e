"""Every attack on a judge, tried on every way in which a judge may fall for one."""

from __future__ import annotations

import itertools

from ratchet.evaluate.mt_bench.files import TalkQuestion
from ratchet.evaluate.mt_bench.run import Talk, judge_talks
from recorded_judgments import read_as_fastchat
from tests.evaluate.judges.test_guard import ATTACKS, TEMPLATE, asked_set, mind_judge


def test_of_hundreds_of_canaries_none_writes_its_own_verdict() -> None:
    """A judge of its own for each pair of a text and a weakness; unguarded, many of them are talked round."""
    minds = list(dict.fromkeys(mind for mind, _ in ATTACKS))
    canaries = list(itertools.product(minds, [text for _, text in ATTACKS]))
    assert len(canaries) >= 200
    question = TalkQuestion(1, "writing", ("Write.", "Again."))
    written = unguarded = 0
    for mind, text in canaries:
        unguarded += read_as_fastchat(mind(TEMPLATE.format(question="Write.", answer=text))) == 10.0
        (one,) = judge_talks(asked_set(), [Talk(question, (text,))], mind_judge(mind), retries=0)
        written += one.verdict.rating not in {2.0, None}
    assert unguarded >= len(ATTACKS)
    assert written == 0
