"""The seconds of a run by phase.

Phases may stand within each other; the outer one then pauses. Only the thread that began the run
counts. A GPU may still work on what an earlier phase queued: it counts where the run waits for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

OTHER = "other"
START = "start of the process"  # until the run begins: Python, settings, the plan
FIRST_STEP, TRAINING = "first step", "training"

_seconds: dict[str, float] = {}
_open: list[str] = []
_since = _began = 0.0
_thread: threading.Thread | None = None
_counts_process = False


def count_process() -> None:
    """Count the start of this process for its first run, as of a command that does runs alone."""
    global _counts_process
    _counts_process = True


def begin() -> None:
    """Begin to count a run."""
    global _since, _began, _thread, _counts_process
    _seconds.clear()
    _open[:] = [OTHER]
    _since, _thread = time.monotonic(), threading.current_thread()
    _began = _since
    if _counts_process:
        _counts_process = False
        _seconds[START] = _process_age()
        _began -= _seconds[START]


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Count the time of the block as that of a phase."""
    if threading.current_thread() is not _thread:
        yield
        return

    _settle()
    _open.append(name)
    try:
        yield
    finally:
        _settle()
        _open.pop()


def go_on_as(name: str) -> None:
    """Count what follows in the present block as another phase."""
    if threading.current_thread() is _thread:
        _settle()
        _open[-1] = name


def current() -> str:
    """Return the phase of this moment."""
    return _open[-1] if _open else START


def began() -> float:
    """Return the `time.monotonic()` of the start of the run, or of its process if that counts."""
    return _began


def seconds() -> dict[str, float]:
    """Return the seconds of each phase so far, in the order in which they began."""
    _settle()
    return dict(_seconds)


def describe() -> str:
    """Return one line: the phases of at least a tenth of a second, and their sum."""
    passed = seconds()
    shown = [f"{name} {spent:,.1f} s" for name, spent in passed.items() if spent >= 0.1]
    return f"{sum(passed.values()):,.1f} s: {', '.join(shown)}"


def _settle() -> None:
    global _since
    if not _open:
        return
    now = time.monotonic()
    _seconds[_open[-1]] = _seconds.get(_open[-1], 0.0) + now - _since
    _since = now


def _process_age() -> float:
    import psutil

    began: float = psutil.Process().create_time()
    return max(0.0, time.time() - began)
