"""Signals that ask this process to stop: Ctrl-C (SIGINT), or a cluster that ends a job (SIGTERM).

In training, the process finishes its current step and saves a checkpoint. Everywhere else, and at a
second signal, it stops at once. Nothing needs cleaning up: the same command continues the run.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from vlmbench.system import processes

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Seconds in which a second signal to one of several processes is the same one: a terminal, timeout
# or Slurm signals every process, and torchrun passes on to its processes what it got itself.
ECHO_S = 3.0
STOPS_LATER = b"\nstopping after this step, with a checkpoint; Ctrl-C again: at once\n"


class Stopped(SystemExit):
    """End the process after a signal: exit code 0 after SIGTERM, 130 after Ctrl-C, as in shells."""

    def __init__(self, number: int) -> None:
        super().__init__(0 if number == signal.SIGTERM else 128 + number)


class _Request:
    """The state of this process's signal handler. A process has one handler for each signal."""

    grace_s = 25.0
    number: int | None = None  # the signal that came
    came_at = 0.0  # seconds, of time.monotonic()
    in_steps = False
    deadline: threading.Timer | None = None


@contextmanager
def handle_signals(grace_s: float | None = None) -> Iterator[None]:
    """Raise `Stopped` in the block at a signal, and end the process `grace_s` seconds after
    SIGTERM.

    Handlers of other programs, such as launchers, stay. Outside the main thread nothing changes.
    """
    if grace_s is not None:
        _Request.grace_s = grace_s

    ours = [number for number in SIGNALS if _has_default_handler(number)]
    previous = {number: signal.signal(number, _on_signal) for number in ours}

    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if previous:
            _forget_request()


@contextmanager
def stop_after_step() -> Iterator[None]:
    """Delay a first signal to the end of the block, which calls `stop_requested` after each step.

    Raise Stopped at the end of the block if a signal came.
    """
    _Request.in_steps = True
    try:
        yield
    finally:
        _Request.in_steps = False

    if _Request.number is not None:
        raise Stopped(_Request.number)


def stop_requested() -> bool:
    """Return whether a signal came."""
    return _Request.number is not None


def request_stop() -> None:
    """Stop this process as if SIGTERM came, because another process of the run got a signal."""
    _Request.number = _Request.number or signal.SIGTERM


def _has_default_handler(number: int) -> bool:
    is_main_thread = threading.current_thread() is threading.main_thread()
    return is_main_thread and signal.getsignal(number) in (
        signal.SIG_DFL,
        signal.default_int_handler,
    )


def _on_signal(number: int, frame: FrameType | None) -> None:
    is_second = _Request.number is not None
    if is_second and processes.count() > 1 and time.monotonic() - _Request.came_at < ECHO_S:
        return
    _Request.number, _Request.came_at = number, time.monotonic()

    if number == signal.SIGTERM and _Request.deadline is None:
        _Request.deadline = threading.Timer(_Request.grace_s, _give_up)
        _Request.deadline.daemon = True
        _Request.deadline.start()

    if is_second or not _Request.in_steps:
        raise Stopped(number)

    os.write(2, STOPS_LATER)  # a signal handler must not call logging or print


def _give_up() -> None:
    """End the process because its step took too long. The last checkpoint stays valid."""
    # os.write, because a thread that hangs may hold the lock of logging.
    message = (
        f"\nnot done {_Request.grace_s:g} s after SIGTERM (grace_s): "
        "ending without this step's checkpoint\n"
    )
    os.write(2, message.encode())
    os._exit(0)


def _forget_request() -> None:
    if _Request.deadline is not None:
        _Request.deadline.cancel()

    _Request.number, _Request.deadline = None, None
