"""A sweep of cells in one process, through the command line, beside a process of its own for each cell.

    python -m bench.sweep --workload pair-560 [--cells 8] [--steps 200] [--batch 16] [--sides ours,unsloth]

Ours: `python -m vlmbench -m seed=0,1,...`, from the start of the process to its end, data checks, evaluation of
held-out records and report included. Theirs: one process of Unsloth's notebook recipe with the same records a step,
from its start to its end with 20 steps; the other steps, at the pace of the last ones, and the other cells are
extrapolated. Where there are two GPUs, both run at once, each on a card of its own.
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

from bench import record, setup
from bench.cards import on_cards
from bench.workloads import WORKLOADS
from vlmbench.types import Record

HELD_OUT = 20  # pictures of each of validation and test
RECORDS = {"train": 3200, "val": 32, "test": 64}
THEIR_STEPS, THEIR_WARMUP = 20, 5
REPOSITORY = Path(__file__).parents[1]


def main() -> None:
    """Run both, and write the table."""
    arguments = _arguments()
    if arguments.side:
        print(json.dumps(_their_steps(arguments)), flush=True)
        return
    setup.make_model(arguments)
    rows, at_once = on_cards(
        lambda side, environment: {"ours": run_sweep, "unsloth": _theirs}[side](arguments, environment),
        arguments.sides.split(","),
    )
    seconds = {row["side"]: row["seconds"] for row in rows}
    figures = {
        "workload": arguments.workload,
        "cells": arguments.cells,
        "steps": arguments.steps,
        "batch": arguments.batch,
        "ours_seconds": seconds.get("ours"),
        "unsloth_seconds_extrapolated": seconds.get("unsloth"),
        "ratio_unsloth": seconds["unsloth"] / seconds["ours"] if len(seconds) == 2 else None,
        "processes_at_once": at_once,
        "rows": rows,
    }
    path = record.write(record.name("sweep", arguments.workload, arguments.out), figures)
    shown = ["side", "seconds", "first_cell_starts_s", "later_cells_start_s"]
    print(f"\n{record.table([{name: row.get(name) for name in shown} for row in rows])}\n\n{path}")


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options of sweeps."""
    made = setup.parser(description)
    made.add_argument("--cells", type=int, default=8)
    made.add_argument("--steps", type=int, default=200)
    made.add_argument("--batch", type=int, default=16)
    made.add_argument("--sides", default="ours,unsloth")
    made.add_argument("--side", choices=["unsloth"], help=argparse.SUPPRESS)
    return made


def _arguments() -> argparse.Namespace:
    return parser(__doc__).parse_args()


def run_sweep(
    arguments: argparse.Namespace, environment: Mapping[str, str], program: Sequence[str] = ("-m", "vlmbench")
) -> dict[str, Any]:
    """Ours: seconds of the whole process, and from the start of each cell to the end of its first step."""
    workload = WORKLOADS[arguments.workload]
    folder = Path(tempfile.mkdtemp(dir=arguments.memory))
    manifest = write_manifest(arguments, folder)
    model = f"{workload.model}_tiny" if arguments.tiny else workload.model
    command = [
        *(sys.executable, *program, "-m", f"model={model}", "data=without_comparison", "view=raw"),
        *("source=manifest", f"source.path={manifest}", f"seed={','.join(map(str, range(arguments.cells)))}"),
        *(f"trainer.max_steps={arguments.steps}", f"trainer.batch_size={arguments.batch}", "trainer.eval_steps=null"),
        *("tracking=off", "eval.probes=false", f"data_dir={folder}", f"cache_dir={folder}"),
    ]
    if not arguments.tiny:
        command += [f"model.path={setup.model_folder(arguments)}", f"trainer.engine={arguments.engine}"]
    environment = {**environment, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    started = time.monotonic()
    said = _run(command, folder, environment)
    seconds = time.monotonic() - started
    starts = [float(found) for found in re.findall(r"the first was done ([\d.]+) s after the run began", said)]
    return {
        "side": "ours",
        "seconds": seconds,
        "first_cell_starts_s": starts[0],
        "later_cells_start_s": max(starts[1:], default=None),
        "starts_s": starts,
        "vision_tokens": re.findall(r"vision tokens: (.*)", said),
    }


def _run(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> str:
    """What the command says, passed on while it runs."""
    said = []
    with subprocess.Popen(
        command, cwd=folder, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            said.append(line)
            print(line, end="", flush=True)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return "".join(said)


def write_manifest(arguments: argparse.Namespace, folder: Path) -> Path:
    """The workload's pictures as a user's own data: pairs within the training, validation and test pictures."""
    records = setup.records_of(arguments)
    paths = sorted({image.path for one in records for image in one.images}, key=lambda path: int(path.stem))
    cuts = {"test": paths[:HELD_OUT], "val": paths[HELD_OUT : 2 * HELD_OUT], "train": paths[2 * HELD_OUT :]}
    rows = [
        _row(
            records[number],
            f"{split}{number}",
            split,
            [shown[number % len(shown)], shown[(7 * number + 1) % len(shown)]],
        )
        for split, shown in cuts.items()
        for number in range(RECORDS[split])
    ]
    for path in paths:
        (folder / path.name).hardlink_to(path)
    manifest = folder / "manifest.jsonl"
    manifest.write_bytes(b"\n".join(msgspec.json.encode(row) for row in rows) + b"\n")
    return manifest


def _row(one: Record, name: str, split: str, paths: Sequence[Path]) -> dict[str, Any]:
    images = [
        {"path": path.name, "role": image.role, "view": "raw"} for path, image in zip(paths, one.images, strict=True)
    ]
    return {
        "id": name,
        "task": one.task,
        "group": name,
        "label": one.label,
        "answer": one.answer,
        "question": one.question,
        "split": split,
        "images": images,
    }


def _theirs(arguments: argparse.Namespace, environment: Mapping[str, str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "bench.sweep", *sys.argv[1:], "--side", "unsloth"]
    started = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    process = time.monotonic() - started
    print(done.stdout[-3000:], done.stderr[-3000:], flush=True)
    done.check_returncode()
    measured = json.loads(done.stdout.strip().splitlines()[-1])
    one = process + (arguments.steps - THEIR_STEPS) * measured["step_s"]
    return {
        "side": "unsloth",
        "seconds": arguments.cells * one,
        "measured_process_s": process,
        "measured_steps": THEIR_STEPS,
        "extrapolated": "steps after the measured ones, and all processes but one",
        **measured,
    }


def _their_steps(arguments: argparse.Namespace) -> dict[str, Any]:
    from bench.training import Stopwatch, their_recipe, their_trainer

    watch = Stopwatch()
    recipe = their_recipe(arguments, "unsloth")
    their_trainer(arguments, recipe, watch, batch=arguments.batch, steps=THEIR_STEPS).train()
    rate = watch.rate(arguments.batch, THEIR_WARMUP)
    return {"samples_per_s": rate, "step_s": arguments.batch / rate if rate else None}


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
