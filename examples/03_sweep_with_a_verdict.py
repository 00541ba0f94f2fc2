"""Do comparison records help? Train two variants with two seeds, and print the verdict.

    python examples/03_sweep_with_a_verdict.py

The example draws its own parts. It prints the path of the report and one sentence for each
comparison, with its 95 % interval. The same command again skips the finished runs. Arguments are
settings, such as `seed=0,1,2` for a third seed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import vlmbench

SETTINGS = ("name=verdict", "prompt=short", "tracking=off", "source.num_parts=80")
SWEEP = ("data=without_comparison,with_comparison", "seed=0,1", "trainer.epochs=1")


def main(settings: Sequence[str]) -> None:
    """Run the sweep, compare its runs, and print what the report says in words."""
    sweep = vlmbench.sweep([*SETTINGS, *SWEEP, *settings])
    print(f"report: {sweep.report / 'index.html'}")

    failed = [run.path for run in sweep.runs() if run.read_status()["state"] != "finished"]
    if failed:
        sys.exit(f"these runs failed: {failed}; their status.json has the error")

    for finding in vlmbench.compare(sweep.runs()):
        print(f"- {finding.sentence}")


if __name__ == "__main__":
    main(sys.argv[1:])
