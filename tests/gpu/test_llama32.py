"""Llama-3.2-Vision at its real size with random weights, by the command line, on both engines.

Needs a GPU with 80 GB and 25 GB of /dev/shm: `python -m pytest -m gpu -s tests/gpu/test_llama32.py`
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench.models import write_random_llama32
from tests.helpers.processes import MEMORY, run
from tests.helpers.runs import only_run
from vlmbench.runs.folder import State

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
STEPS = 12
SETTINGS = (
    "trainer.batch_size=2",
    "trainer.learning_rate=1e-4",
    f"trainer.max_steps={STEPS}",
    "trainer.log_steps=1",
    "trainer.eval_steps=6",
    "trainer.eval_records=8",
    "source.num_parts=24",
    "data=with_comparison",
    "tracking=off",
    "eval.limit=4",
    "eval.probes=false",
)


@pytest.fixture(scope="module")
def model_folder() -> Path:
    return write_random_llama32(MEMORY / "llama32-random")


@pytest.mark.parametrize(
    ("engine", "bits"), [("unsloth", 16), ("transformers", 16), ("unsloth", 4), ("transformers", 4)]
)
def test_it_trains_scores_and_reports(
    model_folder: Path, folders: tuple[str, ...], tmp_path: Path, engine: str, bits: int
) -> None:
    model = ("model=llama32", f"model.path={model_folder}", f"model.bits={bits}")
    command = ("-m", "vlmbench", *model, f"trainer.engine={engine}", *SETTINGS, *folders)
    run(f"llama32-{engine}-{bits}", *command, cwd=tmp_path)

    finished = only_run(tmp_path)
    losses = [row["loss"] for row in finished.read_train_log() if "loss" in row]
    assert finished.read_status()["state"] == State.FINISHED
    assert finished.read_env()["engine"] == engine
    assert len(losses) == STEPS
    assert losses[-1] < losses[0]
    print(json.dumps({"engine": engine, "bits": bits, "first": losses[0], "last": losses[-1]}))  # noqa: T201
