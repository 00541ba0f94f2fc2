"""How long it takes until something happens: the help, and the first step of each run of a sweep.

    python -m bench.startup --workload pair-560 [--profile startup.txt]

A start lasts from the start of a run to the end of its first step, as the log has it. All runs are
in one process, and the first encodes the images. `--profile` samples where the later runs are until
their first step.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from types import FrameType

from bench import record, sampling
from bench.setup import make_model
from bench.sweep import make_parser, run_sweep

STEPS = 30  # of each run: the first run shows nearly every image


def main() -> None:
    """Measure, and write the table."""
    parser = make_parser(__doc__)
    parser.set_defaults(runs=3, steps=STEPS)
    parser.add_argument(
        "--profile", type=Path, help="file for the lines of later runs before their first step"
    )
    arguments = parser.parse_args()
    make_model(arguments)

    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "vlmbench", "--help"], check=True, capture_output=True)
    help_s = time.monotonic() - started

    program = ("-m", "vlmbench")
    if arguments.profile:
        target = str(arguments.profile.resolve())
        program = ("-c", f"from bench.startup import run_sampled; run_sampled({target!r})")
    sweep = run_sweep(arguments, os.environ, program)

    figures = {
        "workload": arguments.workload,
        "help_s": help_s,
        "first_run_starts_s": sweep["first_run_starts_s"],
        "later_runs_start_s": sweep["later_runs_start_s"],
        "starts_s": sweep["starts_s"],
    }
    name = record.result_name("startup", arguments.workload, arguments.out)
    path = record.write(name, figures)
    print(f"\n{record.table([figures])}\n\n{path}")


def run_sampled(path: str) -> None:
    """Run vlmbench's command line, and sample the stack of its main thread.

    Write to `path` the lines in which later runs were before their first step, with the seconds.
    """
    sampling.run_sampled(path, StartSampler())


class StartSampler:
    """Where a thread is in the runs after the first, until each takes its first step."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.runs: list[FrameType] = []  # the frame of each run seen so far
        self.training: set[int] = set()  # numbers of the runs that have begun to train

    def sample(self, top: FrameType, passed: float) -> None:
        frames = [frame for frame, _ in traceback.walk_stack(top)]
        run = next((frame for frame in frames if _is_run(frame)), None)
        if run is None:
            return

        if not any(run is seen for seen in self.runs):
            self.runs.append(run)
        number = len(self.runs)
        if any(frame.f_code.co_name == "training_step" for frame in frames):
            self.training.add(number)

        if number > 1 and number not in self.training:
            lines = {f"{frame.f_code.co_filename}:{frame.f_lineno}" for frame in frames}
            self.seconds.update(dict.fromkeys(lines, passed))


def _is_run(frame: FrameType) -> bool:
    """Whether a frame is the function that does one run from records to figures."""
    code = frame.f_code
    return code.co_name == "execute" and Path(code.co_filename).match("pipeline/execute.py")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
