"""What every benchmark writes beside its figures, and how it prints them."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(os.environ.get("BENCH_RESULTS", Path(__file__).parent / "results"))
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "unsloth", "triton", "bitsandbytes")


def machine() -> dict[str, Any]:
    """The card, its driver, the processor, and the versions of what runs."""
    import torch

    versions = {name: version for name in PACKAGES if (version := _version(name)) is not None}
    found: dict[str, Any] = {"python": platform.python_version(), "cores": _cores(), "versions": versions}
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        found |= {
            "device": card.name,
            "memory_gb": round(card.total_memory / 1e9, 1),
            "cuda": torch.version.cuda,
            "driver": _driver(),
        }
    else:
        found["device"] = platform.processor() or platform.machine()
    return found


def matmul_peak_flops(size: int = 8192, repeats: int = 20) -> float:
    """FLOP/s of a square bf16 matrix product of random numbers on the card."""
    import torch

    left, right = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        left @ right
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        left @ right
    end.record()
    torch.cuda.synchronize()
    return 2 * size**3 * repeats / (start.elapsed_time(end) / 1e3)


def name(*parts: str) -> str:
    """A result's name of its parts, without those that are empty."""
    return "-".join(part for part in parts if part)


def write(name: str, figures: Mapping[str, Any]) -> Path:
    """bench/results/<name>.json (BENCH_RESULTS names another folder): the figures, the machine, the day."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    day = datetime.now(UTC).date().isoformat()
    path.write_text(json.dumps({"name": name, "date": day, "machine": machine(), **figures}, indent=1) + "\n")
    return path


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as aligned columns, named as the first row's keys are."""
    names = list(rows[0])
    cells = [names, *[[_shown(row.get(name)) for name in names] for row in rows]]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None
