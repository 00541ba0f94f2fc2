"""Training end to end, data loading included: vlmbench beside the recipes of others.

    python -m bench.training --workload pair-560,pair-1120 [--recipes ours,unsloth,trl,trl_no_grad]
        [--batches 64,96]

Every recipe trains the same records on the same random weights of the real size through SFTTrainer.
Each runs in a process of its own, one workload after the other. On several GPUs, recipes run at
once, each on its own GPU. A rate counts the steps after the first ones, in which kernels are
compiled. By then vlmbench has encoded every image once.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import record, setup
from bench.gpus import run_on_gpus
from bench.ours import measure_ours
from bench.theirs import load_recipe, measure_theirs
from bench.workloads import WORKLOADS

SHARED = ("ours", "ours_uncached")  # recipes that one loaded model serves
OURS = (*SHARED, "ours_4bit")
RECIPES = (*OURS, "unsloth", "trl", "trl_no_grad")
COLUMNS = (
    *("side", "batch", "samples_per_s", "peak_gb"),
    *("hit_rate", "first_loss", "last_loss", "error"),
)


def main() -> None:
    """Run the recipes, and write a table for each workload."""
    arguments = _parse_arguments()
    if arguments.process:
        for row in _measure(arguments):
            print(json.dumps(row), flush=True)
        return

    workloads = arguments.workload.split(",")
    setup.make_model(_with_workload(arguments, workloads[0]))
    for workload in workloads:
        setup.records_of(_with_workload(arguments, workload))  # writes the images

    processes = _processes(arguments.recipes.split(","))
    results, num_at_once = run_on_gpus(_run_process, processes)
    rows = [row for result in results for row in result]
    if not rows:
        raise SystemExit("no recipe gave a figure; look at the errors above")

    peak_flops = None if arguments.tiny else record.matmul_peak_flops()
    for workload in workloads:
        own_rows = [row for row in rows if row["workload"] == workload]
        figures = _figures(workload, own_rows, peak_flops)
        path = record.write(
            record.result_name("training", workload, arguments.out),
            {**figures, "processes_at_once": num_at_once, "rows": own_rows},
        )
        columns = [{name: row.get(name) for name in COLUMNS} for row in own_rows]
        print(f"\n{record.table(columns)}\n{json.dumps(figures)}\n{path}")


def _parse_arguments() -> argparse.Namespace:
    parser = setup.make_parser(__doc__)
    parser.add_argument(
        "--recipes", default="ours,unsloth,trl,trl_no_grad", help=f"any of {', '.join(RECIPES)}"
    )
    parser.add_argument(
        "--batches", help="batch sizes of vlmbench, instead of the workload's: 64,96"
    )
    parser.add_argument(
        "--prefill", action="store_true", help="store random numbers in place of encoded tokens"
    )
    parser.add_argument(
        "--profile", type=Path, help="folder for the most expensive kernels of vlmbench"
    )
    parser.add_argument("--process", help=argparse.SUPPRESS)

    arguments = parser.parse_args()
    if arguments.prefill and arguments.disk_gb is None:
        arguments.disk_gb = 0  # tokens on disk are read; none are written during the measurement
    return arguments


def _processes(recipes: Sequence[str]) -> list[list[str]]:
    """Return the recipes of each process: one, or those that share a loaded model."""
    shared = [recipe for recipe in recipes if recipe in SHARED]
    alone = [[recipe] for recipe in recipes if recipe not in SHARED]
    return [shared, *alone] if shared else alone


def _run_process(recipes: list[str], environment: dict[str, str]) -> list[dict[str, Any]]:
    """Run recipes in one process; return the rows that it prints."""
    options = [*sys.argv[1:], "--process", ",".join(recipes)]
    command = [sys.executable, "-m", "bench.training", *options]
    started = time.monotonic()
    rows = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stdout or ():
            if line.startswith('{"workload"'):
                rows.append(json.loads(line))
                print(line.rstrip(), flush=True)

    seconds = time.monotonic() - started
    print(f"{recipes}: {seconds:.0f} s in all, exit code {process.returncode}", flush=True)
    return rows


def _measure(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the rows of one process."""
    recipes = arguments.process.split(",")
    per_workload = [
        _with_workload(arguments, workload) for workload in arguments.workload.split(",")
    ]

    if recipes[0] in OURS:
        bits = 4 if recipes[0] == "ours_4bit" else 16
        backbone = setup.build_ours(per_workload[0], bits=bits)
        for own_arguments in per_workload:
            for row in measure_ours(own_arguments, backbone, recipes):
                yield {"workload": own_arguments.workload, **row}
        return

    recipe = load_recipe(per_workload[0], recipes[0])
    for own_arguments in per_workload:
        row = measure_theirs(own_arguments, recipe, recipes[0])
        yield {"workload": own_arguments.workload, **row}


def _with_workload(arguments: argparse.Namespace, workload: str) -> argparse.Namespace:
    """Return the arguments for one of the workloads."""
    if workload not in WORKLOADS:
        raise SystemExit(
            f"--workload {workload} does not exist; choose from {', '.join(WORKLOADS)}"
        )
    return argparse.Namespace(**{**vars(arguments), "workload": workload})


def _figures(workload: str, rows: list[dict[str, Any]], peak_flops: float | None) -> dict[str, Any]:
    """Return the best speed of each recipe, their ratios, and the work of vlmbench's best row."""
    best = {}
    for recipe in RECIPES:
        speeds = [row["samples_per_s"] or 0.0 for row in rows if row["side"] == recipe]
        best[recipe] = max(speeds, default=None)

    own_rows = [row for row in rows if row["side"] == "ours"]
    ours = next((row for row in own_rows if row["samples_per_s"] == best["ours"]), {})
    flops, computed = ours.get("model_flops_per_sample"), ours.get("computed_flops_per_sample")

    return {
        "workload": workload,
        "ours_samples_per_s": best["ours"],
        "unsloth_samples_per_s": best["unsloth"],
        "ours_uncached_samples_per_s": best["ours_uncached"],
        "ours_4bit_samples_per_s": best["ours_4bit"],
        "trl_samples_per_s": best["trl"],
        "trl_no_grad_samples_per_s": best["trl_no_grad"],
        "ratio_unsloth": _ratio(best["ours"], best["unsloth"]),
        "ratio_trl": _ratio(best["ours"], best["trl"]),
        "ratio_uncached": _ratio(best["ours"], best["ours_uncached"]),
        "peak_gb": ours.get("peak_gb"),
        "hit_rate": ours.get("hit_rate"),
        "model_flops_per_sample": flops,
        "computed_flops_per_sample": computed,
        "matmul_peak_flops": peak_flops,
        "fraction_of_peak": _fraction(best["ours"], flops, peak_flops),
        "computed_fraction_of_peak": _fraction(best["ours"], computed, peak_flops),
    }


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return ours / theirs if ours and theirs else None


def _fraction(rate: float | None, flops: float | None, peak: float | None) -> float | None:
    return rate * flops / peak if rate and flops and peak else None


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
