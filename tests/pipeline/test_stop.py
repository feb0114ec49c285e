"""Signals that ask a run to stop: at once, or at a good moment, and at once when they come again."""

from __future__ import annotations

import asyncio
import re
import signal
import threading
from pathlib import Path

import pytest

from raised import raises
from ratchet.errors import StoppedError
from ratchet.pairs.flow import pairs_identity
from ratchet.pipeline.context import Run
from ratchet.pipeline.prepare import prepare_sources
from ratchet.pipeline.stop import SIGNALS, Interruption, Stop, stoppable
from ratchet.plan.load import plan_of
from ratchet.plan.reading import parse
from ratchet.store.fingerprint import fingerprint
from ratchet.store.layout import Layout
from ratchet.store.lease import leased
from ratchet.track import progress
from ratchet.track.progress import Console


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_run_where_nothing_must_be_waited_for(number: signal.Signals) -> None:
    stop = Stop()
    with raises("stopped.asked", number.name), stoppable(stop):
        signal.raise_signal(number)


def test_no_wide_handler_takes_the_signal_for_an_error_of_its_own() -> None:
    with pytest.raises(StoppedError), stoppable(Stop()):
        try:
            signal.raise_signal(signal.SIGTERM)
        except Exception as error:
            raise ValueError("a model that cannot be read") from error


@pytest.mark.parametrize("number", SIGNALS)
def test_while_a_model_is_trained_a_signal_is_remembered_and_the_next_one_ends_all(number: signal.Signals) -> None:
    said: list[str] = []
    stop = Stop(said.append)
    with pytest.raises(StoppedError), stoppable(stop):
        with pytest.raises(Interruption), stop.patiently():
            assert stop.why() is None
            signal.raise_signal(number)
            assert stop.why() == f"asked to stop by {number.name}"
            assert said == ["stopping after a checkpoint; another signal ends the run at once"]
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(number)


def test_what_comes_to_its_end_all_the_same_is_the_last_thing_that_is_done() -> None:
    """The signal came in the last step of training: what was made is recorded, and nothing else begins."""
    stop = Stop()
    stop.check()
    with stoppable(stop):
        with stop.patiently():
            signal.raise_signal(signal.SIGTERM)
        with raises("stopped.asked", "SIGTERM"):
            stop.check()


def test_a_signal_in_the_middle_of_asynchronous_work_is_no_error_of_that() -> None:
    """asyncio keeps what a task raises, and a group of tasks raises an ExceptionGroup of it."""

    async def busy(number: int) -> None:
        await asyncio.sleep(0)
        if number == 1:
            signal.raise_signal(signal.SIGTERM)

    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(busy(number))

    with raises("stopped.asked", "SIGTERM"), stoppable(Stop()):
        asyncio.run(work())


def test_a_stop_wins_over_what_else_goes_wrong_on_its_way_and_nothing_else_is_taken_for_one() -> None:
    def both() -> BaseException:
        return BaseExceptionGroup("tasks", [Interruption(), ValueError("a connection that was cut off by it")])

    stop = Stop()
    with pytest.raises(StoppedError), stoppable(stop):
        with pytest.raises(Interruption):
            stop.ask(signal.SIGTERM)
        raise both()
    with pytest.raises(ExceptionGroup), stoppable(Stop()):
        raise ExceptionGroup("tasks", [ValueError("its own")])


def test_another_process_may_want_the_stop_and_is_heard_at_the_next_look() -> None:
    told: list[str] = []
    stop = Stop(elsewhere=lambda: told[0] if told else None)
    stop.check()
    told.append("the sweep was asked to stop")
    assert stop.why() == "the sweep was asked to stop"
    with raises("stopped.asked", told[0]):
        stop.check()


def test_the_signals_are_given_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with stoppable(Stop()):
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_thread_that_is_not_the_main_one_leaves_signals_alone() -> None:
    before, seen = [signal.getsignal(number) for number in SIGNALS], []

    def work() -> None:
        with stoppable(Stop()):
            seen.extend(signal.getsignal(number) for number in SIGNALS)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == before


def test_while_pairs_are_read_or_waited_for_a_log_gets_lines_and_the_run_can_be_stopped(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread holds the lease of these pairs, so that reading them takes until the run is stopped."""
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.02)
    said: list[str] = []

    def why() -> str | None:
        said.extend(capfd.readouterr().err.splitlines())
        return "enough was said" if sum("so far" in line for line in said) > 1 else None

    (tmp_path / "a.jsonl").write_text("{}")
    text = "name: x\nmodel: {path: m}\ndata: {a: {path: a.jsonl}}\nstages: {warm: {kind: sft, data: [a]}}\n"
    run = Run(
        plan_of(parse(text.replace("a.jsonl", f"{tmp_path}/a.jsonl"), "x")), Layout(tmp_path), Console(), False, None
    )
    run.stop = Stop(elsewhere=why)
    lease = run.layout.lease(f"pairs-{fingerprint(pairs_identity(run.plan.data['a'], None))}")
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with leased(lease, what="pairs a"):
            held.set()
            over.wait()

    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    try:
        with raises("stopped.asked", "enough was said"):
            prepare_sources(run)
    finally:
        over.set()
        other.join()
    assert any(re.fullmatch(r"pairs a {14}reading, [\d.]+ s so far", line) for line in said)
