"""Training steps on the transformers engine, with lean norms and adapters and with the usual ones.

    python -m bench.lean

A step is forward and backward on a ready batch, without the optimiser. Both kinds of layers run in
one process on one model, whose images are encoded before. Each workload has a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from bench import record, setup

STEPS, WARMUP, IMAGES = 10, 2, 40
BATCHES = {"pair-336x4": 8, "pair-560": 64}  # that fit into 80 GB with the usual layers too


def main() -> None:
    """Measure each workload in its own process, and write a table."""
    parser = setup.make_parser(__doc__)
    parser.set_defaults(workload=",".join(BATCHES))
    parser.add_argument("--process", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.process:
        for row in _measure(arguments):
            print(json.dumps(row), flush=True)
        return

    rows = []
    for workload in arguments.workload.split(","):
        own = argparse.Namespace(**{**vars(arguments), "workload": workload})
        setup.make_model(own)
        rows += _run_process(workload)

    path = record.write(record.result_name("lean", "steps", arguments.out), {"rows": rows})
    print(f"\n{record.table(rows)}\n\n{path}")


def _run_process(workload: str) -> list[dict[str, Any]]:
    options = [*sys.argv[1:], "--workload", workload, "--process"]
    command = [sys.executable, "-m", "bench.lean", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    print(done.stdout, flush=True)
    lines = done.stdout.splitlines()
    return [json.loads(line) for line in lines if line.startswith('{"workload"')]


def _measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row of each kind of layers: the lean ones first, as a run has them."""
    from vlmbench.backbones._lean import use_lean_layers

    arguments.engine, arguments.images = "transformers", IMAGES
    backbone = setup.build_ours(arguments)
    vision = {part for module in backbone.vision_modules() for part in module.modules()}
    decoder = [part for part in backbone.model.modules() if part not in vision]
    use_lean_layers(decoder)  # on a GPU the backbone has them already
    backbone.model.train()

    rows = [_time_steps(arguments, backbone, "lean")]
    for module in decoder:
        if _is_lean(module):
            del module.forward
    rows.append(_time_steps(arguments, backbone, "usual"))
    return rows


def _is_lean(module: Any) -> bool:
    forward = vars(module).get("forward")
    return isinstance(forward, partial) and forward.func.__module__.endswith("._lean")


def _time_steps(arguments: argparse.Namespace, backbone: Any, layers: str) -> dict[str, Any]:
    import torch

    from vlmbench.backbones.batches import complete_batch
    from vlmbench.backbones.devices import to_device

    size = 2 if arguments.tiny else BATCHES[arguments.workload]
    records = setup.records_of(arguments)
    samples = list(setup.samples_of(records)[: min(size, IMAGES // 2)])
    group = [samples[number % len(samples)] for number in range(size)]
    batch = to_device(complete_batch(backbone.train_batch(group)), backbone.model)
    device = batch["input_ids"].device.type

    def forward() -> Any:
        with torch.autocast(device, dtype=torch.bfloat16):
            return backbone.model(**batch, use_cache=False).loss

    def step() -> Any:
        loss = forward()
        loss.backward()
        backbone.model.zero_grad(set_to_none=True)
        return loss

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    loss = step()
    step_s = _seconds(step)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    with torch.no_grad():
        forward_s = _seconds(forward)
    return {
        "workload": arguments.workload,
        "layers": layers,
        "batch": size,
        "samples_per_s": size / step_s,
        "forward_per_s": size / forward_s,
        "peak_gb": peak / 1e9,
        "loss": loss.item(),
    }


def _seconds(work: Callable[[], Any]) -> float:
    """Return the mean seconds of a call, after a few."""
    import torch

    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    for _ in range(WARMUP):
        work()
    synchronize()

    started = time.monotonic()
    for _ in range(STEPS):
        work()
    synchronize()
    return (time.monotonic() - started) / STEPS


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
