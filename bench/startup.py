"""How long it takes until something happens: the help, the first step of a run, the first step of a sweep's later runs.

    python -m bench.startup --workload pair-560 [--profile startup.txt]

From the start of a run (its own line in the log) to the end of its first step; in a sweep of one process, on pictures
that the first run encoded. `--profile` samples where the later runs are until then.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from bench import record
from bench.setup import make_model
from bench.sweep import parser, run_sweep

SAMPLE_S = 0.05
STEPS = 30  # of each run: the first shows (nearly) every picture


def main() -> None:
    """Measure, and write the table."""
    made = parser(__doc__)
    made.set_defaults(cells=3, steps=STEPS)
    made.add_argument("--profile", type=Path, help="a file for the stacks of later runs before their first step")
    arguments = made.parse_args()
    make_model(arguments)
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "vlmbench", "--help"], check=True, capture_output=True)
    help_s = time.monotonic() - started
    program = ("-m", "vlmbench")
    if arguments.profile:
        program = ("-c", f"from bench.startup import sampled; sampled({str(arguments.profile.resolve())!r})")
    sweep = run_sweep(arguments, os.environ, program)
    figures = {
        "workload": arguments.workload,
        "help_s": help_s,
        "first_cell_starts_s": sweep["first_cell_starts_s"],
        "later_cells_start_s": sweep["later_cells_start_s"],
        "starts_s": sweep["starts_s"],
    }
    path = record.write(record.name("startup", arguments.workload, arguments.out), figures)
    print(f"\n{record.table([figures])}\n\n{path}")


def sampled(path: str) -> None:
    """vlmbench's command line; then, in `path`, the lines that later runs were in before their first step, and the
    seconds of each, from samples of the main thread's stack."""
    main_thread, seconds = threading.main_thread().ident or 0, Counter[str]()

    def sample() -> None:
        runs: list[Any] = []  # the frames of those seen
        begun: set[int] = set()  # numbers of those that train
        while True:
            time.sleep(SAMPLE_S)
            frames = [frame for frame, _ in traceback.walk_stack(sys._current_frames()[main_thread])]
            names = {frame.f_code.co_name for frame in frames}
            run = next((frame for frame in frames if frame.f_code.co_name == "_run_cell"), None)
            if run is None:
                continue
            if not any(run is one for one in runs):
                runs.append(run)
            if "training_step" in names:
                begun.add(len(runs))
            if len(runs) > 1 and len(runs) not in begun:
                seconds.update({f"{frame.f_code.co_filename}:{frame.f_lineno}": SAMPLE_S for frame in frames})

    threading.Thread(target=sample, daemon=True).start()
    try:
        runpy.run_module("vlmbench", run_name="__main__")
    finally:
        Path(path).write_text("\n".join(f"{spent:7.2f} {line}" for line, spent in seconds.most_common(200)))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
