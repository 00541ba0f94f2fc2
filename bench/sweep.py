"""A sweep of runs in one process, through the command line, beside a process for each run.

    python -m bench.sweep --workload pair-560 [--runs 8] [--steps 200] [--batch 16]
        [--recipes ours,unsloth]

vlmbench: `python -m vlmbench -m seed=0,1,...`, from the start of the process to its end. That
includes data checks, the evaluation of held-out records and the report. Unsloth: one process of the
notebook recipe with the same records a step, from its start to its end with 20 steps. Its other
steps are extrapolated at the speed of the last ones, and so are the other runs. On two GPUs, both
run at once, each on its own GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench import commands, record, setup
from bench.gpus import run_on_gpus
from bench.workloads import WORKLOADS
from vlmbench.types import Record

NUM_HELD_OUT = 20  # images of each of validation and test
RECORDS = {"train": 3200, "val": 32, "test": 64}
THEIR_STEPS, THEIR_WARMUP = 20, 5
COLUMNS = ("side", "seconds", "first_run_starts_s", "later_runs_start_s")
# The log line of vlmbench/pipeline/fit.py.
FIRST_STEP = re.compile(r"the first step was done ([\d.]+) s after the start of the run")


def main() -> None:
    """Run both recipes, and write the table."""
    arguments = make_parser(__doc__).parse_args()
    if arguments.process:
        print(json.dumps(_time_their_steps(arguments)), flush=True)
        return

    setup.make_model(arguments)
    measure = {"ours": run_sweep, "unsloth": _run_theirs}
    rows, num_at_once = run_on_gpus(
        lambda recipe, environment: measure[recipe](arguments, environment),
        arguments.recipes.split(","),
    )

    seconds = {row["side"]: row["seconds"] for row in rows}
    figures = {
        "workload": arguments.workload,
        "runs": arguments.runs,
        "steps": arguments.steps,
        "batch": arguments.batch,
        "ours_seconds": seconds.get("ours"),
        "unsloth_seconds_extrapolated": seconds.get("unsloth"),
        "ratio_unsloth": seconds["unsloth"] / seconds["ours"] if len(seconds) == 2 else None,
        "processes_at_once": num_at_once,
        "rows": rows,
    }
    name = record.result_name("sweep", arguments.workload, arguments.out)
    path = record.write(name, figures)
    columns = [{name: row.get(name) for name in COLUMNS} for row in rows]
    print(f"\n{record.table(columns)}\n\n{path}")


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of a sweep."""
    parser = setup.make_parser(description)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--recipes", default="ours,unsloth")
    parser.add_argument("--process", choices=["unsloth"], help=argparse.SUPPRESS)
    return parser


def run_sweep(
    arguments: argparse.Namespace,
    environment: Mapping[str, str],
    program: Sequence[str] = ("-m", "vlmbench"),
) -> dict[str, Any]:
    """Run vlmbench's sweep with `python *program`.

    Return the seconds of the whole process, and those of each run until its first step is done.
    """
    folder = Path(tempfile.mkdtemp(dir=arguments.memory))
    manifest = write_manifest(arguments, folder)
    command = [sys.executable, *program, "-m", *_overrides(arguments, manifest)]

    started = time.monotonic()
    output = commands.run_printed(command, folder, commands.environment(environment))
    seconds = time.monotonic() - started

    starts = [float(text) for text in FIRST_STEP.findall(output)]
    # "side" is the key of the recorded results, which the documentation reads.
    return {
        "side": "ours",
        "seconds": seconds,
        "first_run_starts_s": starts[0],
        "later_runs_start_s": max(starts[1:], default=None),
        "starts_s": starts,
        "vision_tokens": re.findall(r"vision tokens: (.*)", output),
    }


def write_manifest(arguments: argparse.Namespace, folder: Path) -> Path:
    """Write the workload's images and a manifest of pairs, as a user's own data; return its path.

    Training, validation and test pairs share no image.
    """
    records = setup.records_of(arguments)
    images = {image.path for row in records for image in row.images}
    paths = sorted(images, key=lambda path: int(path.stem))
    for path in paths:
        (folder / path.name).hardlink_to(path)

    splits = {
        "test": paths[:NUM_HELD_OUT],
        "val": paths[NUM_HELD_OUT : 2 * NUM_HELD_OUT],
        "train": paths[2 * NUM_HELD_OUT :],
    }
    rows = []
    for split, shown in splits.items():
        for number in range(RECORDS[split]):
            pair = [shown[number % len(shown)], shown[(7 * number + 1) % len(shown)]]
            rows.append(_row(records[number], f"{split}{number}", split, pair))

    manifest = folder / "manifest.jsonl"
    manifest.write_bytes(b"\n".join(msgspec.json.encode(row) for row in rows) + b"\n")
    return manifest


def _row(source: Record, name: str, split: str, paths: Sequence[Path]) -> dict[str, Any]:
    """Return the manifest's row of a record with other images."""
    images = [
        {"path": path.name, "role": image.role, "view": "raw"}
        for path, image in zip(paths, source.images, strict=True)
    ]
    return {
        "id": name,
        "task": source.task,
        "group": name,
        "label": source.label,
        "answer": source.answer,
        "question": source.question,
        "split": split,
        "images": images,
    }


def _overrides(arguments: argparse.Namespace, manifest: Path) -> list[str]:
    model = WORKLOADS[arguments.workload].model
    if arguments.tiny:
        own = [f"model={model}_tiny"]
    else:
        own = [
            f"model={model}",
            f"model.path={setup.model_folder(arguments)}",
            f"trainer.engine={arguments.engine}",
        ]

    return [
        *own,
        f"seed={','.join(map(str, range(arguments.runs)))}",
        f"source.path={manifest}",
        f"trainer.max_steps={arguments.steps}",
        f"trainer.batch_size={arguments.batch}",
        f"data_dir={manifest.parent}",
        f"cache_dir={manifest.parent}",
        *("source=manifest", "data=without_comparison", "view=raw", "trainer.eval_steps=null"),
        *("tracking=off", "eval.probes=false", "baseline=[]"),
    ]


def _run_theirs(arguments: argparse.Namespace, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run one process of Unsloth's recipe; extrapolate to all steps of all runs."""
    command = [sys.executable, "-m", "bench.sweep", *sys.argv[1:], "--process", "unsloth"]
    started = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    process_s = time.monotonic() - started
    print(done.stdout[-3000:], done.stderr[-3000:], flush=True)
    done.check_returncode()

    measured = json.loads(done.stdout.strip().splitlines()[-1])
    run_s = process_s + (arguments.steps - THEIR_STEPS) * measured["step_s"]
    return {
        "side": "unsloth",
        "seconds": arguments.runs * run_s,
        "measured_process_s": process_s,
        "measured_steps": THEIR_STEPS,
        "extrapolated": "steps after the measured ones, and all processes but one",
        **measured,
    }


def _time_their_steps(arguments: argparse.Namespace) -> dict[str, Any]:
    from bench.stopwatch import Stopwatch
    from bench.theirs import load_recipe, make_trainer

    watch = Stopwatch()
    recipe = load_recipe(arguments, "unsloth")
    make_trainer(arguments, recipe, watch, batch=arguments.batch, steps=THEIR_STEPS).train()

    rate = watch.rate(arguments.batch, THEIR_WARMUP)
    return {"samples_per_s": rate, "step_s": arguments.batch / rate if rate else None}


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
