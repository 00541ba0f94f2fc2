"""Training steps of Phi-3-vision on both engines, by checkpointing and batch size.

    python -m bench.engines --out NAME [--model FOLDER] [--published FOLDER]

A step is forward (with the frozen tower), backward and optimiser on a batch that was preprocessed before: two pictures
of 672 x 672 pixels at 4 crops (757 tokens each), LoRA r=16 on the decoder, bf16, the loss on the answer. Each engine is
a process of its own, because Unsloth changes transformers when it is imported.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench import record

ENGINES = ("transformers", "unsloth")
GRID = {False: (1, 2, 4, 8, 16), True: (4, 16, 32)}  # gradient checkpointing -> batch sizes
WARMUP_STEPS = 3
SECONDS = 6.0  # of timed steps a variant, at least three of them


def main() -> None:
    """Run both engines and write their table."""
    arguments = _arguments()
    if arguments.engine:
        for row in _measure(arguments):
            print(json.dumps(row), flush=True)
        return
    rows: list[dict[str, Any]] = []
    for engine in ENGINES:
        command = [sys.executable, "-m", "bench.engines", *sys.argv[1:], "--engine", engine]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout or ():
                if line.startswith("{"):
                    rows.append(json.loads(line))
                    print(line.rstrip(), flush=True)
    figures: dict[str, Any] = {"workload": __doc__, "rows": rows}
    if not arguments.tiny:
        figures["matmul_peak_flops"] = record.matmul_peak_flops()
    path = record.write(arguments.out, figures | _best(rows))
    print(f"\n{record.table(rows)}\n\n{json.dumps(_best(rows))}\n{path}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="phi3_engines", help="name of the file under bench/results")
    parser.add_argument("--model", type=Path, default=Path("/dev/shm/phi3-random"), help="made if it is not there")  # noqa: S108
    parser.add_argument("--published", type=Path, help="the hub's config.json and tokenizer files")
    parser.add_argument("--tiny", action="store_true", help="the tiny model on a CPU: does it run?")
    parser.add_argument("--profile", type=Path, help="a folder for each engine's most expensive kernels")
    parser.add_argument("--engine", choices=ENGINES, help=argparse.SUPPRESS)
    return parser.parse_args()


def _best(rows: list[dict[str, Any]]) -> dict[str, Any]:
    best = {
        engine: max((row["samples_per_s"] or 0 for row in rows if row["engine"] == engine), default=0)
        for engine in ENGINES
    }
    ratio = best["unsloth"] / best["transformers"] if best["transformers"] else None
    return {"best_samples_per_s": best, "ratio_unsloth": ratio}


def _measure(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    backbone = _backbone(arguments)
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
                yield row | {"samples_per_s": None, "peak_gb": None, "first_step_s": None, "losses": "out of memory"}
                backbone.model.zero_grad(set_to_none=True)
            gc.collect()
            torch.cuda.empty_cache()
            if arguments.profile and size == 4:
                _profile(backbone, size, arguments.profile / f"{arguments.engine}-checkpointing-{checkpointing}.txt")


def _backbone(arguments: argparse.Namespace) -> Any:
    from vlmbench.backbones.phi3 import Phi3Config, Phi3TinyConfig
    from vlmbench.config import BuildRequest, Engine, StoreConfig, Vision

    engine = Engine.transformers if arguments.tiny else Engine(arguments.engine)
    request = BuildRequest(
        seed=0, engine=engine, vision=Vision.frozen, cache_dir=Path(".cache"), store=StoreConfig(enabled=False)
    )
    if arguments.tiny:
        return Phi3TinyConfig(max_tokens=4096).build(request)
    if not (arguments.model / "config.json").exists():
        # In a process of its own: Unsloth has to be imported before transformers is.
        code = (
            "import sys, pathlib; from bench.models import random_phi3; random_phi3(*map(pathlib.Path, sys.argv[1:]))"
        )
        folders = [str(folder) for folder in (arguments.model, arguments.published) if folder is not None]
        subprocess.run([sys.executable, "-c", code, *folders], check=True)
    started = time.monotonic()
    backbone = Phi3Config(path=str(arguments.model)).build(request)
    print(f"{arguments.engine}: loaded in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return backbone


def _batch(backbone: Any, size: int) -> dict[str, Any]:
    from PIL import Image

    from vlmbench.backbones.base import to_device
    from vlmbench.types import Record, Sample, Task

    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (672, 672, 3), dtype=np.uint8)) for _ in range(2)]
    record_ = Record(id="r", task=Task.JUDGE_PAIR, images=(), answer="", label="normal", group="g")
    sample = Sample(
        record=record_,
        images=tuple(pictures),
        question="Compare the second part with the first. Is it normal or abnormal?",
        answer="abnormal: a scratch across the upper face",
    )
    backbone.reads_tokens = False  # the tower is a part of the step
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

    cuda = torch.cuda.is_available()
    synchronize = torch.cuda.synchronize if cuda else lambda: None
    weights = [weight for weight in backbone.model.parameters() if weight.requires_grad]
    saved = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.AdamW(weights, lr=1e-4, fused=cuda)
    batch = _batch(backbone, size)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    started = time.monotonic()
    losses = [_step(backbone, batch, optimizer)]
    synchronize()
    first = time.monotonic() - started
    losses += [_step(backbone, batch, optimizer) for _ in range(WARMUP_STEPS - 1)]
    synchronize()
    started, steps = time.monotonic(), 0
    while steps < 3 or time.monotonic() - started < SECONDS:
        _step(backbone, batch, optimizer)
        synchronize()
        steps += 1
    seconds = time.monotonic() - started
    with torch.no_grad():  # every variant starts from the same adapters
        for weight, value in zip(weights, saved, strict=True):
            weight.copy_(value)
    return {
        "samples_per_s": round(size * steps / seconds, 3),
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 1) if cuda else None,
        "first_step_s": round(first, 1),
        "losses": " ".join(f"{loss.item():.4f}" for loss in losses),
    }


def _profile(backbone: Any, size: int, path: Path) -> None:
    import torch
    from torch.profiler import ProfilerActivity, profile

    weights = [weight for weight in backbone.model.parameters() if weight.requires_grad]
    optimizer, batch = torch.optim.AdamW(weights, lr=0.0), _batch(backbone, size)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        _step(backbone, batch, optimizer)
        torch.cuda.synchronize()
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = recorded.key_averages().table(sort_by="self_cuda_time_total", row_limit=45, max_name_column_width=90)
    path.write_text(rows)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
