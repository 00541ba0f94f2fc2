"""What a run's figures depend on, and where they were made."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vlmbench import __version__, processes
from vlmbench.config import Engine, Vision

VERSIONS = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "numpy")
UNSLOTH = ("unsloth", "unsloth_zoo")
# What a cell's figures do not depend on.
NOT_CONTENT = (
    *(
        "stage",
        "name",
        "sweep",
        "cell",
        "data_dir",
        "cache_dir",
        "pruner",
        "store",
        "tracking",
        "judge",
        "run",
        "images",
        "grace_s",
    ),
)


def content_of_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a resolved configuration changes a run's figures."""
    return {key: value for key, value in config.items() if key not in NOT_CONTENT}


def content_hash(config: Mapping[str, Any], data: str) -> str:
    """Of the resolved configuration without places, and of its `data` (see `load.data_hash`)."""
    text = json.dumps(content_of_config(config), sort_keys=True, default=str)
    return hashlib.sha256(f"{text} {data}".encode()).hexdigest()


def environment(engine: Engine, reason: str, vision: Vision) -> dict[str, Any]:
    """The command, the engine and why, the device and the versions."""
    import torch

    gpu = torch.cuda.is_available()
    names = (*VERSIONS, *(UNSLOTH if engine is Engine.unsloth else ()))
    return {
        "command": " ".join(["python -m vlmbench", *sys.argv[1:]]),
        "engine": engine,
        "engine_reason": reason,
        "vision": vision,
        "processes": processes.count(),
        "device": f"cuda: {torch.cuda.get_device_name(0)}" if gpu else f"cpu: {_cpu_name()}",
        "python": platform.python_version(),
        "versions": {"vlmbench": __version__, **{name: version(name) for name in names}},
    }


def _cpu_name() -> str:
    """The processor's name, as Linux tells it; elsewhere its architecture."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
