"""The settings that a run's figures depend on, and the machine that made them."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vlmbench.config import TILE_SETTINGS, Engine, Vision
from vlmbench.config.data import MAX_FOLDS
from vlmbench.system import processes
from vlmbench.system.version import __version__
from vlmbench.types import Fold

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "numpy")
UNSLOTH_PACKAGES = ("unsloth", "unsloth_zoo")
# Top-level settings that change no figure of a run.
NOT_HASHED = frozenset(
    {
        *("stage", "name", "sweep", "run_label", "data_dir", "cache_dir", "grace_s"),
        *("pruner", "store", "tracking", "baseline"),
        *("predict", "export", "serve", "run", "images"),
    }
)
FOLD_SETTINGS = ("folds", "fold")  # of `data`
# Settings of `eval` that say how answers are judged, not what they are: see runs/plan.py.
PLAN_SETTINGS = ("primary", "cost_miss", "cost_overkill", "prevalence", "test")


def figure_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a resolved configuration that answers depend on."""
    settings = {key: value for key, value in config.items() if key not in NOT_HASHED}
    data = settings.get("data")
    if isinstance(data, Mapping):  # without folds, the hashes are those of versions without folds
        unset = () if data.get("folds") else FOLD_SETTINGS
        settings["data"] = {key: value for key, value in data.items() if key not in unset}
    evaluation = settings.get("eval")

    if isinstance(evaluation, Mapping):
        settings["eval"] = {
            key: value for key, value in evaluation.items() if key not in PLAN_SETTINGS
        }
    if "view" in settings:
        settings["view"] = view_settings(settings["view"])
    if "trainer" in settings:
        settings["trainer"] = _trainer_settings(settings["trainer"])
    return settings


def _trainer_settings(trainer: Any) -> Any:
    """Return the settings of a trainer without precision=auto: `run_hash` gets what it chose.

    Runs from before there was such a setting keep their identity.
    """
    if not isinstance(trainer, Mapping) or trainer.get("precision") != "auto":
        return trainer
    return {key: value for key, value in trainer.items() if key != "precision"}


def fold_of(config: Mapping[str, Any]) -> Fold | None:
    """Return the fold that a run of these settings tests; None without folds.

    The settings may come from strangers: numbers that are no fold count as none.
    """
    data = config.get("data")
    if not isinstance(data, Mapping):
        return None

    number, index = data.get("folds"), data.get("fold")
    if type(number) is not int or type(index) is not int or not 0 <= index < number <= MAX_FOLDS:
        return None
    return Fold(index, number)


def view_settings(view: Any) -> Any:
    """Return the settings of a view that answers depend on: without tiles, none of the cutting.

    Runs from before there were tiles keep their identity.
    """
    if not isinstance(view, Mapping) or view.get("tile") is not None:
        return view
    return {key: value for key, value in view.items() if key not in TILE_SETTINGS}


def run_hash(config: Mapping[str, Any], data_hash: str, precision: str = "") -> str:
    """Return the SHA-256 of the settings that figures depend on, and of the data's hash.

    A run in fp16 has another one than the same run in bf16 or fp32.
    """
    text = json.dumps(figure_settings(config), sort_keys=True, default=str)
    computed = f" {precision}" if precision == "fp16" else ""
    return hashlib.sha256(f"{text} {data_hash}{computed}".encode()).hexdigest()


def environment(engine: Engine, reason: str, vision: Vision) -> dict[str, Any]:
    """Return the command, the engine with the reason for it, the device and the versions."""
    import torch

    if torch.cuda.is_available():
        device = f"cuda: {torch.cuda.get_device_name(0)}"
    else:
        device = f"cpu: {_cpu_name()}"
    packages = (*PACKAGES, *(UNSLOTH_PACKAGES if engine is Engine.unsloth else ()))

    return {
        "command": " ".join(["python -m vlmbench", *sys.argv[1:]]),
        "engine": engine,
        "engine_reason": reason,
        "vision": vision,
        "processes": processes.count(),
        "device": device,
        "python": platform.python_version(),
        "versions": {"vlmbench": __version__, **{name: version(name) for name in packages}},
    }


def _cpu_name() -> str:
    """Return the processor's name as Linux reports it, elsewhere its architecture."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
