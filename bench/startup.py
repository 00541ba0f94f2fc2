"""How long it takes until something happens: the help, the first step of a run, the first step of a sweep's later runs.

    python -m bench.startup --workload pair-560

From the start of a run (its own line in the log) to the end of its first step; in a sweep of one process, on pictures
that the first run encoded.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from bench import record
from bench.setup import make_model
from bench.sweep import parser, run_sweep


def main() -> None:
    """Measure, and write the table."""
    made = parser(__doc__)
    made.set_defaults(cells=3, steps=5)
    arguments = made.parse_args()
    make_model(arguments)
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "vlmbench", "--help"], check=True, capture_output=True)
    help_s = time.monotonic() - started
    sweep = run_sweep(arguments, os.environ)
    figures = {
        "workload": arguments.workload,
        "help_s": help_s,
        "first_cell_starts_s": sweep["first_cell_starts_s"],
        "later_cells_start_s": sweep["later_cells_start_s"],
        "starts_s": sweep["starts_s"],
    }
    path = record.write(record.name("startup", arguments.workload, arguments.out), figures)
    print(f"\n{record.table([figures])}\n\n{path}")


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
