"""Being asked to stop: Ctrl-C (SIGINT), or a cluster that takes the machine back (SIGTERM).

In training the step that is being taken is finished and a checkpoint saved; everywhere else, and when asked a second
time, the process stops at once. Nothing needs cleaning up: the same command goes on.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LATER = b"\nstopping after this step, with a checkpoint; Ctrl-C again: at once\n"


class Stopped(SystemExit):
    """Ends the process because it was asked to: exit code 0 after SIGTERM, 130 after Ctrl-C, as shells have it."""

    def __init__(self, number: int) -> None:
        super().__init__(0 if number == signal.SIGTERM else 128 + number)


class _Asked:
    """What this process was asked; there is one handler of a signal in a process."""

    grace_s = 25.0
    number: int | None = None
    in_steps = False
    deadline: threading.Timer | None = None


@contextmanager
def heeded(grace_s: float | None = None) -> Iterator[None]:
    """Within, signals end the process by `Stopped`; `grace_s` seconds after SIGTERM it ends in any case.

    Handlers of others (a launcher's) are left in place, as is everything outside the main thread.
    """
    if grace_s is not None:
        _Asked.grace_s = grace_s
    ours = [number for number in SIGNALS if _is_default(number)]
    before = {number: signal.signal(number, _on_signal) for number in ours}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if before:
            _forget()


@contextmanager
def after_steps() -> Iterator[None]:
    """Within, a first signal is left to whoever asks `asked()` after each step. Raises Stopped at the end, if so."""
    _Asked.in_steps = True
    try:
        yield
    finally:
        _Asked.in_steps = False
    if _Asked.number is not None:
        raise Stopped(_Asked.number)


def asked() -> bool:
    """Whether a signal has come."""
    return _Asked.number is not None


def stop_as_others() -> None:
    """Stop with the other processes of a run, one of which was asked."""
    _Asked.number = _Asked.number or signal.SIGTERM


def _is_default(number: int) -> bool:
    main = threading.current_thread() is threading.main_thread()
    return main and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)


def _on_signal(number: int, frame: FrameType | None) -> None:
    again, _Asked.number = _Asked.number is not None, number
    if number == signal.SIGTERM and _Asked.deadline is None:
        _Asked.deadline = threading.Timer(_Asked.grace_s, _give_up)
        _Asked.deadline.daemon = True
        _Asked.deadline.start()
    if again or not _Asked.in_steps:
        raise Stopped(number)
    os.write(2, LATER)  # logging and print are not made for signal handlers


def _give_up() -> None:
    """The step, or what came after it, took too long. The last checkpoint stands."""
    # Not by logging: whatever hangs may hold its lock.
    os.write(
        2, f"\nnot done {_Asked.grace_s:g} s after SIGTERM (grace_s): ending without this step's checkpoint\n".encode()
    )
    os._exit(0)


def _forget() -> None:
    if _Asked.deadline is not None:
        _Asked.deadline.cancel()
    _Asked.number, _Asked.deadline = None, None
