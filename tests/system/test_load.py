"""A run says when other programs keep the machine's cores busy."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pytest

from vlmbench.system import load
from vlmbench.system.load import Reading, describe

SPIN = "import time; end = time.time() + 30\nwhile time.time() < end: pass"


def reading(moment: float, everyone: float, own: float) -> Reading:
    return Reading(moment=moment, everyone=everyone, own=own)


@pytest.mark.parametrize(
    ("everyone", "own", "cores", "said"),
    [
        (20.0, 10.0, 2, "other programs used 1.0 of the machine's 2 cores"),
        (10.0, 10.0, 2, ""),
        (14.0, 10.0, 2, ""),  # 0.4 cores
        (40.0, 10.0, 16, ""),  # 3 of 16
        (60.0, 10.0, 16, "other programs used 5.0 of the machine's 16 cores"),
        (900.0, 10.0, 2, "other programs used 2.0 of the machine's 2 cores"),
        (0.0, 10.0, 2, ""),  # clocks of different steps
    ],
)
def test_a_share_of_the_cores_that_matters_is_told(
    everyone: float, own: float, cores: int, said: str
) -> None:
    first = reading(100.0, 1000.0, 50.0)
    last = reading(110.0, 1000.0 + everyone, 50.0 + own)
    assert describe(first, last, cores) == said


def test_a_moment_says_nothing() -> None:
    assert describe(reading(0.0, 0.0, 0.0), reading(0.5, 9.0, 0.0), 1) == ""


def test_the_work_of_this_process_and_its_children_is_its_own() -> None:
    first = load.read()
    with subprocess.Popen([sys.executable, "-c", SPIN]) as child:
        started, times = time.process_time(), psutil.Process(child.pid).cpu_times
        while time.process_time() - started < 0.5 or times().user < 0.5:
            pass
        living = load.read()
        child.kill()
    ended = load.read()

    for last in (living, ended):
        own = last.own - first.own
        assert own >= 0.9
        assert own <= last.everyone - first.everyone + 0.3
