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
PACKAGES = (
    *("torch", "transformers", "trl", "peft", "accelerate"),
    *("unsloth", "triton", "bitsandbytes"),
)


def machine() -> dict[str, Any]:
    """Return the GPU with its driver, or the processor, and the versions of the packages."""
    import torch

    versions = {name: version for name in PACKAGES if (version := _version(name)) is not None}
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": versions,
    }

    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        facts |= {
            "device": gpu.name,
            "memory_gb": round(gpu.total_memory / 1e9, 1),
            "cuda": torch.version.cuda,
            "driver": _driver(),
        }
    else:
        facts["device"] = platform.processor() or platform.machine()
    return facts


def matmul_peak_flops(size: int = 8192, repeats: int = 20) -> float:
    """Return the FLOP/s of a square bf16 matrix product of random numbers on the GPU."""
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
    seconds = start.elapsed_time(end) / 1e3
    return 2 * size**3 * repeats / seconds


def result_name(*parts: str) -> str:
    """Return the name of a result, made of its parts without the empty ones."""
    return "-".join(part for part in parts if part)


def write(name: str, figures: Mapping[str, Any]) -> Path:
    """Write bench/results/<name>.json: the figures, the machine and the date; return its path.

    The environment variable BENCH_RESULTS names another folder.
    """
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    date = datetime.now(UTC).date().isoformat()

    result = {"name": name, "date": date, "machine": machine(), **figures}
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as aligned columns, with the keys of the first row as header."""
    header = list(rows[0])
    lines = [header, *[[_format(row.get(name)) for name in header] for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]

    aligned = [
        [text.rjust(width) for text, width in zip(line, widths, strict=True)] for line in lines
    ]
    return "\n".join("  ".join(line) for line in aligned)


def _format(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return output.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None
