"""The seconds of a run, by phase."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from vlmbench.system import phases


class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    own = Clock()
    monkeypatch.setattr(phases, "_counts_process", False)
    with monkeypatch.context() as patch:
        patch.setattr(phases.time, "monotonic", own.monotonic)
        phases.begin()
        yield own
    phases.begin()


def test_an_outer_phase_pauses_while_an_inner_one_runs(clock: Clock) -> None:
    clock.now += 1
    with phases.phase("training"):
        clock.now += 2
        with phases.phase("encoding"):
            clock.now += 4
        clock.now += 8
    clock.now += 16
    assert phases.seconds() == {phases.OTHER: 17, "training": 10, "encoding": 4}
    assert phases.describe() == "31.0 s: other 17.0 s, training 10.0 s, encoding 4.0 s"


def test_a_phase_ends_when_its_block_raises_an_error(clock: Clock) -> None:
    def fail() -> None:
        with phases.phase("data"):
            clock.now += 1
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fail()
    clock.now += 2
    assert phases.seconds() == {"data": 1, phases.OTHER: 2}
    assert phases.current() == phases.OTHER


def test_a_block_goes_on_as_another_phase(clock: Clock) -> None:
    with phases.phase(phases.FIRST_STEP):
        clock.now += 1
        phases.go_on_as(phases.TRAINING)
        clock.now += 2
    assert phases.seconds() == {phases.OTHER: 0, phases.FIRST_STEP: 1, phases.TRAINING: 2}


def test_other_threads_do_not_count(clock: Clock) -> None:
    def work() -> None:
        with phases.phase("data"):
            phases.go_on_as("images")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    clock.now += 1
    assert phases.seconds() == {phases.OTHER: 1}


def test_the_first_run_of_a_command_has_the_start_of_its_process(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phases, "_process_age", lambda: 5.0)
    phases.count_process()
    phases.begin()
    clock.now += 1
    assert phases.seconds() == {phases.START: 5, phases.OTHER: 1}
    assert clock.now - phases.began() == 6

    phases.begin()
    clock.now += 1
    assert phases.seconds() == {phases.OTHER: 1}
    assert clock.now - phases.began() == 1


def test_a_run_in_a_notebook_has_nothing_of_the_hours_before_it(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phases, "_process_age", lambda: 9000.0)
    phases.begin()
    assert sum(phases.seconds().values()) == 0
