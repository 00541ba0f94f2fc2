"""Training in fp16 with a scaled loss on a GPU, by the command line, against training in bf16.

A tiny random Qwen3-VL learns a few records. Needs a GPU of compute capability 8.0 or newer, which
has both: `python -m pytest -m gpu -s tests/gpu/test_precision.py`
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from tests.helpers.processes import run
from tests.helpers.runs import only_run
from tests.helpers.twins import twin_folder
from vlmbench.backbones.precision import has_bf16
from vlmbench.runs.folder import RunDir, State

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.skipif(not has_bf16(), reason="needs a GPU with bf16"),
]
STEPS = 40
# Nats, mean over the labels' scores. On a CPU, training moves them by 3.2, and types by 0.008.
TOLERANCE = 0.1
SETTINGS = (
    "model=hub",
    "trainer.engine=transformers",
    "trainer.batch_size=8",
    "trainer.learning_rate=1e-3",
    f"trainer.max_steps={STEPS}",
    "trainer.log_steps=1",
    "trainer.eval_steps=20",
    "trainer.eval_records=8",
    "source.num_parts=24",
    "view=raw",
    "tracking=off",
    "eval.limit=16",
    "eval.probes=false",
    "baseline=[majority]",
)


def train(folder: Path, folders: tuple[str, ...], precision: str, bits: int = 16) -> RunDir:
    """Return a finished run in `folder`, of a process of its own."""
    folder.mkdir()
    model = (f"model.path={twin_folder('qwen3_vl')}", f"model.bits={bits}")
    setting = f"trainer.precision={precision}"
    command = ("-m", "vlmbench", *SETTINGS, *model, setting, *folders)
    run(f"precision-{precision}-{bits}", *command, cwd=folder)
    return only_run(folder)


def require_learning(finished: RunDir) -> list[float]:
    """Require that the run is of fp16 and that its loss is finite and falls; return the losses."""
    rows = [row for row in finished.read_train_log() if "loss" in row]
    losses = [row["loss"] for row in rows]
    assert finished.read_status()["state"] == State.FINISHED
    assert finished.read_env()["precision"] == "fp16"
    assert len(losses) == STEPS
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-5:]) < sum(losses[:5]) - 3
    assert all(row["loss_scale"] >= 1 for row in rows)
    return losses


def scores_of(finished: RunDir) -> dict[tuple[str, str], float]:
    return {
        (prediction.id, label): score
        for prediction in finished.read_predictions()
        for label, score in prediction.scores.items()
    }


def test_fp16_learns_and_answers_as_bf16_does(tmp_path: Path, folders: tuple[str, ...]) -> None:
    half = train(tmp_path / "fp16", folders, "fp16")
    losses = require_learning(half)
    brain = train(tmp_path / "bf16", folders, "bf16")
    assert brain.read_env()["precision"] == "bf16"

    mine, theirs = scores_of(half), scores_of(brain)
    assert mine.keys() == theirs.keys()
    difference = sum(abs(mine[key] - theirs[key]) for key in mine) / len(mine)
    print(json.dumps({"losses": [losses[0], losses[-1]], "difference": difference}))  # noqa: T201
    assert difference < TOLERANCE


def test_adapters_of_4_bits_learn_in_fp16(tmp_path: Path, folders: tuple[str, ...]) -> None:
    """TRL makes these adapters bf16, whose gradients cannot be scaled back."""
    require_learning(train(tmp_path / "fp16", folders, "fp16", bits=4))
