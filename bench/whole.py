"""A whole run as a user meets it: from the start of the command to the report, by phase.

    python -m bench.whole [--models llama32,phi3] [--runs cold,warm] [--recipe] [-- SETTINGS]

The workload whole-560: 1,000 images of 560 pixels, 750 pairs of 250 parts, three epochs on 525 of
them; then 75 validation records and all held-out records with their controls are answered. Every
run is a fresh process. A cold one finds empty caches, a warm one those of the process before it.
`--recipe` adds Unsloth's notebook recipe as a whole script: its import, its load and its first step
are measured, and its other steps are extrapolated at the measured rate. It evaluates nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from bench import commands, record, sampling, setup
from bench.sweep import FIRST_STEP
from bench.workloads import ANSWERS, QUESTION, write_images

WORKLOAD_OF = {"llama32": "pair-560", "phi3": "pair-336x4"}
NUM_PARTS, QUERIES = 250, 3  # of each part
EDGE = 560  # pixels
TRAINED, EPOCHS = 525, 3
THEIR_STEPS, THEIR_WARMUP, THEIR_BATCH = 16, 5, 4
SETTINGS = (
    *("source=manifest", "data=without_comparison", "view=raw", "tracking=off", "baseline=[]"),
    *("eval.perturbations=false", "eval.rewordings=false", "trainer.batch_size=auto"),
)


def main() -> None:
    """Run everything that was asked for, and write a table."""
    arguments = _parse_arguments()
    if arguments.process:
        print(json.dumps(_time_their_steps(arguments)), flush=True)
        return

    rows = []
    for model in arguments.models.split(","):
        own = argparse.Namespace(**{**vars(arguments), "workload": WORKLOAD_OF[model]})
        setup.make_model(own)
        folder = Path(tempfile.mkdtemp())
        manifest = write_manifest(folder)
        for state in arguments.runs.split(","):
            rows.append(_run_ours(own, model, state, folder=folder, manifest=manifest))
            print(json.dumps(rows[-1]), flush=True)
        if arguments.recipe:
            rows.append(_run_theirs(own, model))
            print(json.dumps(rows[-1]), flush=True)

    path = record.write(
        record.result_name("whole", str(EDGE), arguments.out),
        {"workload": f"whole-{EDGE}", "settings": [*SETTINGS, *arguments.settings], "rows": rows},
    )
    columns = [
        {name: row[name] for name in ("side", "model", "state", "first_step_s", "seconds")}
        for row in rows
    ]
    print(f"\n{record.table(columns)}\n\n{path}")


def _parse_arguments() -> argparse.Namespace:
    parser = setup.make_parser(__doc__)
    parser.add_argument("--models", default="llama32", help=f"any of {', '.join(WORKLOAD_OF)}")
    parser.add_argument("--runs", default="cold,warm", help="states, one after the other")
    parser.add_argument("--recipe", action="store_true", help="Unsloth's notebook recipe too")
    parser.add_argument("--profile", type=Path, help="folder for the lines in which runs were")
    parser.add_argument("--process", choices=["unsloth"], help=argparse.SUPPRESS)
    parser.add_argument("settings", nargs="*", help="further settings of vlmbench, after --")
    return parser.parse_args()


def write_manifest(folder: Path) -> Path:
    """Write the images and the manifest of whole-560 as a user's own data; return its path."""
    seeds = range(NUM_PARTS * (1 + QUERIES))
    write_images(folder, EDGE, seeds)

    rows = []
    for part in range(NUM_PARTS):
        reference, *queries = seeds[part * (1 + QUERIES) : (part + 1) * (1 + QUERIES)]
        for number, query in enumerate(queries):
            label = ("normal", "abnormal")[(part + number) % 2]
            paths = {"reference": f"{reference}.png", "query": f"{query}.png"}
            rows.append(
                {
                    "id": f"{part}-{number}",
                    "task": "judge_pair",
                    "group": f"part{part}",
                    "label": label,
                    "answer": ANSWERS[label],
                    "question": QUESTION,
                    "images": [
                        {"path": path, "role": role, "view": "raw"} for role, path in paths.items()
                    ],
                }
            )

    manifest = folder / "manifest.jsonl"
    manifest.write_bytes(b"\n".join(msgspec.json.encode(row) for row in rows) + b"\n")
    return manifest


def _run_ours(
    arguments: argparse.Namespace, model: str, state: str, *, folder: Path, manifest: Path
) -> dict[str, Any]:
    """Run one command; return its seconds, its phases, and when the first step was done."""
    number = len(list((folder / "runs").glob("*")))
    command = [sys.executable, *_program(arguments, f"{model}-{number}-{state}")]
    command += [
        *_model_settings(arguments, model),
        *SETTINGS,
        f"source.path={manifest}",
        f"data_dir={folder}",
        f"cache_dir={folder / 'cache'}",
        f"sweep={folder / 'runs' / str(number)}",
        *arguments.settings,
    ]

    started = time.monotonic()
    output = commands.run_printed(command, folder, _own_caches(folder))
    seconds = time.monotonic() - started

    (status_path,) = (folder / "runs" / str(number)).glob("*/status.json")
    status = json.loads(status_path.read_text())
    phases, env = status["phases"], json.loads((status_path.parent / "env.json").read_text())
    first = FIRST_STEP.search(output)
    return {
        "side": "vlmbench",
        "model": model,
        "state": state,
        "engine": env["engine"],
        "engine_reason": env["engine_reason"],
        "seconds": round(seconds, 1),
        "first_step_s": None if first is None else float(first[1]),
        "phases": {**phases, "report and end": round(seconds - sum(phases.values()), 3)},
        "choices": _read(status_path.parent / "choices.json"),
    }


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def _model_settings(arguments: argparse.Namespace, model: str) -> list[str]:
    if arguments.tiny:
        return [f"model={model}_tiny", "trainer.max_steps=3"]
    crops = ["model.num_crops=4"] if model == "phi3" else []
    return [f"model={model}", f"model.path={setup.model_folder(arguments)}", *crops]


def _program(arguments: argparse.Namespace, name: str) -> list[str]:
    if not arguments.profile:
        return ["-m", "vlmbench"]
    arguments.profile.mkdir(parents=True, exist_ok=True)
    target = str((arguments.profile / f"{name}.txt").resolve())
    return ["-c", f"from bench.whole import run_sampled; run_sampled({target!r})"]


def _own_caches(folder: Path) -> dict[str, str]:
    """Return the environment of a user whose caches are all below `folder`."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    inherited = {
        name: value
        for name, value in commands.environment().items()
        if not name.endswith("_CACHE_DIR")
    }
    return {**inherited, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")} | {
        "TORCHINDUCTOR_CACHE_DIR": str(home / "inductor"),
        "TRITON_CACHE_DIR": str(home / "triton"),
    }


def _run_theirs(arguments: argparse.Namespace, model: str) -> dict[str, Any]:
    """Run the recipe's script; extrapolate to all steps of the workload's training."""
    command = [sys.executable, "-m", "bench.whole", *sys.argv[1:], "--process", "unsloth"]
    started = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    process_s = time.monotonic() - started
    print(done.stdout[-2000:], done.stderr[-2000:], flush=True)
    done.check_returncode()

    measured = json.loads(done.stdout.strip().splitlines()[-1])
    steps = -(-TRAINED // THEIR_BATCH) * EPOCHS
    return {
        "side": "unsloth recipe",
        "model": model,
        "state": "cold",
        "seconds": round(process_s + (steps - THEIR_STEPS) * measured["step_s"], 1),
        "first_step_s": measured["first_step_s"],
        "measured_process_s": round(process_s, 1),
        "extrapolated": f"{steps - THEIR_STEPS} of {steps} steps",
        **measured,
    }


def _time_their_steps(arguments: argparse.Namespace) -> dict[str, Any]:
    import psutil

    from bench.stopwatch import Stopwatch
    from bench.theirs import load_recipe, make_trainer

    watch = Stopwatch()
    own = argparse.Namespace(**{**vars(arguments), "workload": WORKLOAD_OF[arguments.models]})
    recipe = load_recipe(own, "unsloth")
    began, started_s = time.monotonic(), time.time() - psutil.Process().create_time()
    make_trainer(own, recipe, watch, batch=THEIR_BATCH, steps=THEIR_STEPS).train()

    rate = watch.rate(THEIR_BATCH, THEIR_WARMUP)
    if rate is None:
        raise SystemExit("the recipe took too few steps for a rate")
    return {
        "loaded_s": round(started_s, 1),
        "first_step_s": round(started_s + watch.times[0][1] - began, 1),
        "samples_per_s": rate,
        "step_s": THEIR_BATCH / rate,
    }


def run_sampled(path: str) -> None:
    """Run vlmbench's command line, and write where its main thread was, by phase."""
    sampling.run_sampled(path, PhaseSampler())


class PhaseSampler:
    """Where a thread is: phase, line of vlmbench, innermost line."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    def sample(self, top: FrameType, passed: float) -> None:
        from vlmbench.system import phases

        self.seconds[f"{phases.current():12} | {_location(top)}"] += passed


def _location(frame: FrameType) -> str:
    stack = traceback.extract_stack(frame)
    own = next((one for one in reversed(stack) if "/vlmbench/" in one.filename), stack[-1])
    outer = next((one for one in reversed(stack) if "site" in one.filename), stack[-1])
    names = [
        f"{Path(one.filename).parent.name}/{Path(one.filename).name}:{one.lineno} {one.name}"
        for one in (stack[-1], outer, own)
    ]
    return " < ".join(dict.fromkeys(names))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
