"""Signals: at once where nothing is being trained, after the step where something is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import REPOSITORY
from vlmbench import interrupt


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_stops_at_once_where_nothing_is_trained(number: int, code: int) -> None:
    with pytest.raises(interrupt.Stopped) as stopped, interrupt.heeded():
        send(number)
    assert stopped.value.code == code
    assert not interrupt.asked()


def train(signals: int, steps: list[str]) -> None:
    with interrupt.heeded(), interrupt.after_steps():
        for _ in range(signals):
            send(signal.SIGINT)
        assert interrupt.asked()
        steps.append("finished")


def test_in_training_a_signal_waits_for_the_step_and_a_second_one_does_not(capfd: pytest.CaptureFixture[str]) -> None:
    steps: list[str] = []
    with pytest.raises(interrupt.Stopped):
        train(1, steps)
    assert steps == ["finished"]
    assert "stopping after this step" in capfd.readouterr().err
    with pytest.raises(interrupt.Stopped):
        train(2, steps)
    assert steps == ["finished"]


def test_the_handlers_of_others_stay() -> None:
    def theirs(number: int, frame: object) -> None: ...

    before = signal.signal(signal.SIGTERM, theirs)
    try:
        with interrupt.heeded():
            assert signal.getsignal(signal.SIGTERM) is theirs
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_process_that_does_not_stop_in_time_is_ended() -> None:
    program = (
        "import os, signal, time\n"
        "from vlmbench import interrupt\n"
        "with interrupt.heeded(0.2), interrupt.after_steps():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(30)\n"
    )
    started = time.monotonic()
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "0.2 s after SIGTERM" in done.stderr
    assert time.monotonic() - started < 20
