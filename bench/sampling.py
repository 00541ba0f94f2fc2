"""Where the main thread of vlmbench's command line is, sampled beside it."""

from __future__ import annotations

import runpy
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Protocol

SAMPLE_S = 0.05
MOST = 300  # lines that are written


class Sampler(Protocol):
    """Adds up seconds by name, such as the name of a line."""

    seconds: Counter[str]

    def sample(self, top: FrameType, passed: float) -> None:
        """Add the time that has passed; `top` is the innermost frame of the main thread."""


def run_sampled(path: str, sampler: Sampler) -> None:
    """Run vlmbench's command line, and write the most common names with their seconds."""
    number = threading.main_thread().ident or 0
    threading.Thread(target=_sample_forever, args=(number, sampler), daemon=True).start()
    try:
        runpy.run_module("vlmbench", run_name="__main__")
    finally:
        common = sampler.seconds.most_common(MOST)
        Path(path).write_text("\n".join(f"{spent:7.2f} {name}" for name, spent in common))


def _sample_forever(number: int, sampler: Sampler) -> None:
    before = time.monotonic()
    while True:
        time.sleep(SAMPLE_S)
        top = sys._current_frames().get(number)
        now = time.monotonic()
        if top is not None:
            sampler.sample(top, now - before)
        before = now
