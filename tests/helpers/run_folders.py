"""A whole sweep with every file that a run writes, made without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.helpers.baselines import KEY, heat_map, keep_baseline, share_key
from tests.helpers.plans import plan_of
from tests.helpers.predictions import answers
from tests.helpers.reports import make_log, make_metrics
from vlmbench.config import Engine
from vlmbench.pipeline.calibrate import write_calibration
from vlmbench.runs.folder import RunDir, State
from vlmbench.runs.plan import write_plan
from vlmbench.runs.sweep import SweepDir
from vlmbench.system.files import seal
from vlmbench.types import Task

CHOICES = {
    "model": "llama32_tiny",
    "source": "parts",
    "data": "without_comparison",
    "view": "rt",
    "prompt": "en",
    "trainer": "debug",
    "store": "default",
    "eval": "default",
    "tracking": "off",
}
# Every file of a run's folder that anything reads.
RUN_FILES = (
    *("status.json", "env.json", "config.yaml", "metrics.json", "predictions.jsonl"),
    *("validation.jsonl", "calibration.json", "baselines.json", "choices.json"),
    *("train_log.jsonl", ".hydra/hydra.yaml", "adapter/checksums.json"),
)
# Those of a sweep's folder.
SWEEP_FILES = ("plan.json", "looks.json", f"baselines/{KEY}/facts.json")


def make_run(sweep: Path, number: int, data: str) -> RunDir:
    """Write a finished run with every file of RUN_FILES."""
    run = RunDir(sweep / f"{number}_tiny_{data}_s0")
    run.path.mkdir(parents=True)
    status: dict[str, Any] = {
        "seconds": 12.5,
        "joules": 40.0,
        "model": "llama32_tiny",
        "data": data,
        "seed": 0,
        "overrides": [f"data={data}"],
    }
    env = {
        "command": "python -m vlmbench",
        "engine": Engine.transformers,
        "device": "cpu",
        "engine_reason": "no CUDA GPU",
        "vision": "frozen",
        "processes": 1,
        "python": "3.11",
        "versions": {"torch": "2.13.0"},
    }
    run.write_start(env, run_hash="9f8e7d")
    run.write_config(
        yaml.safe_dump({"seed": 0, "sweep": str(sweep), "data": {"split_seed": 0}})
        + "".join(f"{group}: {{}}\n" for group in CHOICES if group != "data")
    )
    hydra = run.path / ".hydra" / "hydra.yaml"
    hydra.parent.mkdir()
    hydra.write_text(yaml.safe_dump({"hydra": {"runtime": {"choices": CHOICES | {"data": data}}}}))

    run.write_metrics(make_metrics(0.1 * number))
    run.write_choices({"batch_size": 4, "gradient_checkpointing": False})
    for row in make_log(50, 0.3):
        run.append_train_log(row)
    labels = [i % 2 == 0 for i in range(20)]
    wrong = 6 - 3 * number
    margins = [1.5 if (label is (i >= wrong)) else -1.5 for i, label in enumerate(labels)]
    predictions = answers(margins, labels)
    run.write_predictions(predictions)
    write_calibration(run, predictions)
    run.adapter.mkdir()
    (run.adapter / "adapter_model.safetensors").write_bytes(b"weights")
    seal(run.adapter, of="9f8e7d")

    share_key(run, patch_nn=KEY)
    run.write_status(State.FINISHED, run_hash="9f8e7d", **status)
    if number == 0:
        heat = {("r0", Task.JUDGE_PAIR, "raw"): heat_map()}
        keep_baseline(sweep, "patch_nn", predictions, validation=predictions, heat=heat)
        write_plan(sweep, plan_of())
    return run


def make_sweep(folder: Path) -> SweepDir:
    """Write a sweep of two finished runs."""
    for number, data in enumerate(("without_comparison", "with_comparison")):
        make_run(folder, number, data)
    return SweepDir(folder)
