"""Signals that ask a run to stop: at once, or at a good moment, and at once when they come again."""

from __future__ import annotations

import asyncio
import signal
import threading

import pytest

from ratchet.errors import StoppedError
from ratchet.pipeline.stop import SIGNALS, Interruption, Stop, stoppable


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_run_where_nothing_must_be_waited_for(number: signal.Signals) -> None:
    stop = Stop()
    with pytest.raises(StoppedError, match=f"asked to stop by {number.name}"), stoppable(stop):
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
        with pytest.raises(StoppedError, match="SIGTERM"):
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

    with pytest.raises(StoppedError, match="asked to stop by SIGTERM"), stoppable(Stop()):
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
    with pytest.raises(StoppedError, match="the sweep was asked to stop"):
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
