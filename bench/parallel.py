"""One training on several GPUs of one host, beside the same on one GPU.

    python -m bench.parallel --workload pair-560 [--gpus 2] [--batch 80]

Each GPU takes `--batch` records a step, so a step of two GPUs has twice as many. A rate counts the
steps after the first ones, in which kernels are compiled. Every process encodes all images before.
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
from vlmbench.system import processes

STEPS, WARMUP = 45, 15


def main() -> None:
    """Train on one GPU, then on several, and write the table."""
    arguments = _parse_arguments()
    if arguments.process:
        processes.use_own_gpu()
        row = _train(arguments)
        if processes.is_leader():
            print(json.dumps(row), flush=True)
        return

    setup.make_model(arguments)
    setup.records_of(arguments)  # writes the images
    rows = [_run(number) for number in (1, arguments.gpus)]

    one, several = (row["samples_per_s"] for row in rows)
    figures = {
        "workload": arguments.workload,
        "gpus": arguments.gpus,
        "ratio": several / one,
        "rows": rows,
    }
    name = record.result_name("parallel", arguments.workload, arguments.out)
    path = record.write(name, figures)
    print(f"\n{record.table(rows)}\n\n{figures['ratio']:.3f} times as fast\n{path}")


def _parse_arguments() -> argparse.Namespace:
    parser = setup.make_parser(__doc__)
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument(
        "--batch", type=int, help="records a step and GPU, instead of the workload's"
    )
    parser.add_argument("--process", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _run(num_gpus: int) -> dict[str, Any]:
    """Start one process for each GPU; return the row that the leader prints."""
    launcher = ("torch.distributed.run", "--standalone", f"--nproc-per-node={num_gpus}")
    options = [*sys.argv[1:], "--process"]
    command = [sys.executable, "-m", *launcher, "-m", "bench.parallel", *options]

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
    from bench.ours import encode_all
    from bench.stopwatch import Stopwatch

    backbone = setup.build_ours(arguments)
    records = setup.records_of(arguments)
    encode_all(backbone, setup.samples_of(records))

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
