"""A signal stops a process at once, and in training after the current step."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.conftest import REPOSITORY
from vlmbench.system import signals


@pytest.fixture(autouse=True)
def _own_signal_settings() -> Iterator[None]:
    """Set the handlers that a shell gives: a parent such as nohup may have it ignore SIGINT."""
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
        signal.SIGTERM: signal.signal(signal.SIGTERM, signal.SIG_DFL),
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_stops_at_once_outside_training(number: int, code: int) -> None:
    with pytest.raises(signals.Stopped) as stopped, signals.handle_signals():
        send(number)
    assert stopped.value.code == code
    assert not signals.stop_requested()


def train(num_signals: int, steps: list[str]) -> None:
    with signals.handle_signals(), signals.stop_after_step():
        for _ in range(num_signals):
            send(signal.SIGINT)
        assert signals.stop_requested()
        steps.append("finished")


def test_in_training_only_a_second_signal_stops_at_once(
    capfd: pytest.CaptureFixture[str],
) -> None:
    steps: list[str] = []
    with pytest.raises(signals.Stopped):
        train(1, steps)
    assert steps == ["finished"]
    assert "stopping after this step" in capfd.readouterr().err
    with pytest.raises(signals.Stopped):
        train(2, steps)
    assert steps == ["finished"]


def test_one_of_several_processes_takes_a_signal_that_comes_twice_at_once_for_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A terminal and timeout signal the whole group, and torchrun passes its own signal on."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    steps: list[str] = []
    with pytest.raises(signals.Stopped):
        train(3, steps)
    assert steps == ["finished"]

    monkeypatch.setattr(signals, "ECHO_S", 0.0)
    with pytest.raises(signals.Stopped):
        train(2, steps)
    assert steps == ["finished"]


def test_handlers_of_other_programs_stay() -> None:
    def other_handler(number: int, frame: object) -> None: ...

    before = signal.signal(signal.SIGTERM, other_handler)
    try:
        with signals.handle_signals():
            assert signal.getsignal(signal.SIGTERM) is other_handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_process_that_does_not_stop_in_time_is_killed() -> None:
    program = (
        "import os, signal, time\n"
        "from vlmbench.system import signals\n"
        "with signals.handle_signals(0.2), signals.stop_after_step():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(30)\n"
    )
    started = time.monotonic()
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "0.2 s after SIGTERM" in done.stderr
    assert time.monotonic() - started < 20
