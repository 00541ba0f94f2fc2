"""Training steps of Phi-3-vision on both engines, by gradient checkpointing and batch size.

    python -m bench.engines --out NAME [--model FOLDER] [--published FOLDER]

A step is forward (with the frozen tower), backward and optimiser, on a batch that was prepared
before. It shows two images of 672 x 672 pixels at 4 crops (757 tokens each). LoRA has r=16 on the
decoder, weights are bf16, and the loss is on the answer. Each engine is a process of its own,
because an import of Unsloth changes transformers.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import record

ENGINES = ("transformers", "unsloth")
GRID = {False: (1, 2, 4, 8, 16), True: (4, 16, 32)}  # gradient checkpointing -> batch sizes
WARMUP_STEPS = 3
MIN_SECONDS, MIN_STEPS = 6.0, 3  # timed for each row
PROFILED_BATCH = 4
OUT_OF_MEMORY = {
    "samples_per_s": None,
    "peak_gb": None,
    "first_step_s": None,
    "losses": "out of memory",
}


def main() -> None:
    """Run both engines, and write their table."""
    arguments = _parse_arguments()
    if arguments.engine:
        for row in _measure(arguments):
            print(json.dumps(row), flush=True)
        return

    rows = [row for engine in ENGINES for row in _run_engine(engine)]
    figures: dict[str, Any] = {"workload": __doc__, "rows": rows}
    if not arguments.tiny:
        figures["matmul_peak_flops"] = record.matmul_peak_flops()
    best = _best(rows)
    path = record.write(arguments.out, figures | best)
    print(f"\n{record.table(rows)}\n\n{json.dumps(best)}\n{path}")


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", default="phi3_engines", help="name of the file under bench/results"
    )
    parser.add_argument(
        "--model",
        type=Path,
        default=Path("/dev/shm/phi3-random"),  # noqa: S108
        help="folder of the model, which is written if it does not exist",
    )
    parser.add_argument("--published", type=Path, help="the hub's config.json and tokenizer files")
    parser.add_argument(
        "--tiny", action="store_true", help="test the benchmark with the tiny model on a CPU"
    )
    parser.add_argument(
        "--profile", type=Path, help="folder for the most expensive kernels of each engine"
    )
    parser.add_argument("--engine", choices=ENGINES, help=argparse.SUPPRESS)
    return parser.parse_args()


def _run_engine(engine: str) -> Iterator[dict[str, Any]]:
    """Yield the rows that the process of an engine prints."""
    command = [sys.executable, "-m", "bench.engines", *sys.argv[1:], "--engine", engine]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            if line.startswith("{"):
                print(line.rstrip(), flush=True)
                yield json.loads(line)


def _best(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    best = {}
    for engine in ENGINES:
        speeds = [row["samples_per_s"] or 0 for row in rows if row["engine"] == engine]
        best[engine] = max(speeds, default=0)

    ratio = best["unsloth"] / best["transformers"] if best["transformers"] else None
    return {"best_samples_per_s": best, "ratio_unsloth": ratio}


def _measure(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield a row for each setting of checkpointing and each batch size."""
    backbone = _build(arguments)
    import torch  # after Unsloth, which the backbone imports first

    backbone.model.train()
    for checkpointing, sizes in GRID.items():
        if checkpointing:
            backbone.model.gradient_checkpointing_enable({"use_reentrant": False})
            backbone.model.enable_input_require_grads()

        for size in sizes:
            row = {"engine": arguments.engine, "checkpointing": checkpointing, "batch": size}
            try:
                yield row | _time_steps(backbone, size)
            except torch.cuda.OutOfMemoryError:
                yield row | OUT_OF_MEMORY
                backbone.model.zero_grad(set_to_none=True)
            gc.collect()
            torch.cuda.empty_cache()

            if arguments.profile and size == PROFILED_BATCH:
                name = f"{arguments.engine}-checkpointing-{checkpointing}.txt"
                _profile(backbone, size, arguments.profile / name)


def _build(arguments: argparse.Namespace) -> Any:
    from vlmbench.backbones.phi3 import Phi3Config, Phi3TinyConfig
    from vlmbench.config import BuildRequest, Engine, StoreConfig, Vision

    request = BuildRequest(
        seed=0,
        engine=Engine.transformers if arguments.tiny else Engine(arguments.engine),
        vision=Vision.frozen,
        cache_dir=Path(".cache"),
        store=StoreConfig(enabled=False),
    )
    if arguments.tiny:
        return Phi3TinyConfig(max_tokens=4096).build(request)

    _make_model(arguments)
    started = time.monotonic()
    backbone = Phi3Config(path=str(arguments.model)).build(request)
    seconds = time.monotonic() - started
    print(f"{arguments.engine}: loaded in {seconds:.0f} s", file=sys.stderr, flush=True)
    return backbone


def _make_model(arguments: argparse.Namespace) -> None:
    """Write the model, unless it exists.

    A process of its own does it, because Unsloth must be imported before transformers.
    """
    if (arguments.model / "config.json").exists():
        return

    code = (
        "import sys, pathlib; from bench.models import write_random_phi3; "
        "write_random_phi3(*map(pathlib.Path, sys.argv[1:]))"
    )
    folders = [str(path) for path in (arguments.model, arguments.published) if path is not None]
    subprocess.run([sys.executable, "-c", code, *folders], check=True)


def _make_batch(backbone: Any, size: int) -> dict[str, Any]:
    from PIL import Image

    from vlmbench.backbones.devices import to_device
    from vlmbench.types import LazyImage, Record, Sample, Task

    rng = np.random.default_rng(0)
    images = [
        Image.fromarray(rng.integers(0, 256, (672, 672, 3), dtype=np.uint8)) for _ in range(2)
    ]
    sample = Sample(
        record=Record(
            id="r", task=Task.JUDGE_PAIR, images=(), answer="", label="normal", group="g"
        ),
        images=tuple(LazyImage.of(image) for image in images),
        question="Compare the second part with the first. Is it normal or abnormal?",
        answer="abnormal: a scratch across the upper face",
    )

    backbone.reads_tokens = False  # so that the tower is a part of the step
    return to_device(backbone.collate([sample] * size, with_answer=True), backbone.model)


def _step(backbone: Any, batch: dict[str, Any], optimizer: Any) -> Any:
    import torch

    device = batch["input_ids"].device.type
    with torch.autocast(device, dtype=torch.bfloat16):
        loss = backbone.model(**batch, use_cache=False).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()


def _time_steps(backbone: Any, size: int) -> dict[str, Any]:
    import torch

    gpu = torch.cuda.is_available()
    synchronize = torch.cuda.synchronize if gpu else lambda: None
    weights = [weight for weight in backbone.model.parameters() if weight.requires_grad]
    first_values = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.AdamW(weights, lr=1e-4, fused=gpu)
    batch = _make_batch(backbone, size)
    if gpu:
        torch.cuda.reset_peak_memory_stats()

    started = time.monotonic()
    losses = [_step(backbone, batch, optimizer)]
    synchronize()
    first_step_s = time.monotonic() - started
    losses += [_step(backbone, batch, optimizer) for _ in range(WARMUP_STEPS - 1)]
    synchronize()

    started, steps = time.monotonic(), 0
    while steps < MIN_STEPS or time.monotonic() - started < MIN_SECONDS:
        _step(backbone, batch, optimizer)
        synchronize()
        steps += 1
    seconds = time.monotonic() - started

    with torch.no_grad():  # so that every row starts from the same adapters
        for weight, value in zip(weights, first_values, strict=True):
            weight.copy_(value)

    return {
        "samples_per_s": round(size * steps / seconds, 3),
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 1) if gpu else None,
        "first_step_s": round(first_step_s, 1),
        "losses": " ".join(f"{loss.item():.4f}" for loss in losses),
    }


def _profile(backbone: Any, size: int, path: Path) -> None:
    """Write the most expensive kernels of a step."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    weights = [weight for weight in backbone.model.parameters() if weight.requires_grad]
    optimizer, batch = torch.optim.AdamW(weights, lr=0.0), _make_batch(backbone, size)

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as kernels:
        _step(backbone, batch, optimizer)
        torch.cuda.synchronize()

    table = kernels.key_averages().table(
        sort_by="self_cuda_time_total", row_limit=45, max_name_column_width=90
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(table)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
