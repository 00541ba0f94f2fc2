"""How many cores of the machine other programs keep busy, since a run began."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from vlmbench.system import processes

# Fewer are not worth a sentence: an idle desktop uses some too.
LEAST = 0.5  # cores
SHARE = 0.25  # of the machine's cores


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Seconds that all programs computed, and those of this process with its children."""

    moment: float
    everyone: float
    own: float


_first: Reading | None = None


def begin() -> None:
    """Begin to count."""
    global _first
    _first = read()


def read() -> Reading:
    """Return what this machine has computed so far, over all cores."""
    import psutil

    times = psutil.cpu_times()._asdict()
    # Linux counts the time of guests twice: also as that of users.
    idle = ("idle", "iowait", "guest", "guest_nice")
    process = psutil.Process()
    own = sum(process.cpu_times()[:4])  # with children that have ended
    for child in process.children(recursive=True):
        try:
            own += sum(child.cpu_times()[:2])
        except psutil.Error:  # it has just ended
            continue
    return Reading(
        moment=time.monotonic(),
        everyone=sum(seconds for name, seconds in times.items() if name not in idle),
        own=own,
    )


def describe_others() -> str:
    """Return how many cores other programs used on average since `begin`; "" if few.

    The processes of one training would count as others, so then it is "" too.
    """
    if _first is None or processes.count() > 1:
        return ""
    return describe(_first, read(), os.cpu_count() or 1)


def describe(first: Reading, last: Reading, cores: int) -> str:
    """Return the sentence for two readings on a machine with `cores` cores; "" if few are used."""
    passed = last.moment - first.moment
    if passed < 1:  # the system counts in hundredths of a second
        return ""

    others = ((last.everyone - first.everyone) - (last.own - first.own)) / passed
    if others < max(LEAST, SHARE * cores):
        return ""
    return f"other programs used {min(others, cores):.1f} of the machine's {cores} cores"
