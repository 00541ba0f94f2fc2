"""One training over several GPUs of one host, beside the same on one.

    python -m bench.parallel --workload pair-560 [--cards 2] [--batch 80]

Each card takes `--batch` records a step, so that a step of two cards has twice as many. Rates are of the steps after
the first ones, in which kernels are compiled; every process has encoded every picture before.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from typing import Any

from bench import record, setup
from bench.workloads import WORKLOADS
from vlmbench import processes

STEPS, WARMUP = 45, 15


def main() -> None:
    """Train on one card, then on several, and write the table."""
    arguments = _arguments()
    if arguments.process:
        processes.take_own_card()
        row = _train(arguments)
        if processes.is_leader():
            print(json.dumps(row), flush=True)
        return
    setup.make_model(arguments)
    setup.records_of(arguments)
    rows = [_run(number) for number in (1, arguments.cards)]
    one, many = (row["samples_per_s"] for row in rows)
    figures = {"workload": arguments.workload, "cards": arguments.cards, "ratio": many / one, "rows": rows}
    path = record.write(record.name("parallel", arguments.workload, arguments.out), figures)
    print(f"\n{record.table(rows)}\n\ntimes {figures['ratio']:.3f}\n{path}")


def _arguments() -> argparse.Namespace:
    parser = setup.parser(__doc__)
    parser.add_argument("--cards", type=int, default=2)
    parser.add_argument("--batch", type=int, help="records a step and card, instead of the workload's")
    parser.add_argument("--process", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _run(cards: int) -> dict[str, Any]:
    launcher = ("torch.distributed.run", "--standalone", f"--nproc-per-node={cards}", "-m", "bench.parallel")
    command = [sys.executable, "-m", *launcher, *sys.argv[1:], "--process"]
    row: dict[str, Any] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            if line.startswith('{"processes"'):
                row = json.loads(line)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return row


def _train(arguments: argparse.Namespace) -> dict[str, Any]:
    from bench.training import Stopwatch, encode_all

    backbone = setup.build_ours(arguments, store=True)
    records = setup.records_of(arguments)
    encode_all(backbone, records, setup.opener(backbone, records))
    watch = Stopwatch()
    batch = processes.count() * (arguments.batch or WORKLOADS[arguments.workload].batch)
    setup.train_ours(backbone, records, watch, max_steps=STEPS, batch_size=batch, log_steps=5)
    return {
        "processes": processes.count(),
        "batch": batch,
        "samples_per_s": watch.rate(batch, WARMUP),
        "first_loss": watch.losses[0],
        "last_loss": watch.losses[-1],
    }


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
