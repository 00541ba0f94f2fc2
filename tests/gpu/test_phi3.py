"""Phi-3-vision at its real size with random weights, by the command line, on both engines.

Needs a GPU with 48 GB and 20 GB of /dev/shm: `python -m pytest -m gpu -s tests/gpu/test_phi3.py`.
PHI3_FILES may name a folder with the published config.json and tokenizer files.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from bench.models import write_random_phi3
from tests.helpers.processes import MEMORY, PROCESS_TIMEOUT, run, start
from tests.helpers.runs import only_run
from vlmbench.runs.folder import State

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
STEPS = 50
MERGE = Path(__file__).with_name("merge_phi3.py")
SETTINGS = (
    "trainer.batch_size=1",
    "trainer.learning_rate=1e-4",
    "trainer.log_steps=1",
    "trainer.eval_records=8",
    "source.num_parts=24",
    "data=with_comparison",
    "tracking=off",
    "eval.limit=4",
    "eval.batch_size=4",
    "eval.probes=false",
)


@pytest.fixture(scope="module")
def model_folder() -> Path:
    published = os.environ.get("PHI3_FILES")
    with FileLock(MEMORY / "phi3-random.lock"):  # tests of both engines may run side by side
        return write_random_phi3(
            MEMORY / "phi3-random", None if published is None else Path(published)
        )


def command(model_folder: Path, engine: str, *more: str) -> list[str]:
    model = ("model=phi3", f"model.path={model_folder}", f"trainer.engine={engine}")
    return ["-m", "vlmbench", *model, *SETTINGS, *more]


@pytest.mark.parametrize("engine", ["transformers", "unsloth"])
def test_it_trains_goes_on_after_a_kill_and_merges(
    model_folder: Path, folders: tuple[str, ...], tmp_path: Path, engine: str
) -> None:
    name = f"phi3-{engine}"
    steps = (f"trainer.max_steps={STEPS}", "trainer.eval_steps=25")
    train = command(model_folder, engine, *steps, *folders)
    kill_after_checkpoint(name, train, tmp_path)
    assert "from step 25" in run(name, *train, cwd=tmp_path)

    finished = only_run(tmp_path)
    rows = [row for row in finished.read_train_log() if "loss" in row]
    assert finished.read_status()["state"] == State.FINISHED
    assert finished.read_env()["engine"] == engine
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert rows[-1]["loss"] < rows[0]["loss"] / 2

    paths = (str(model_folder), str(finished.adapter), str(tmp_path / "merged"))
    output = run(f"{name}-merge", str(MERGE), engine, *paths, cwd=tmp_path)
    figures = json.loads(output.strip().splitlines()[-1])
    print(json.dumps({"losses": [rows[0]["loss"], rows[-1]["loss"]], **figures}))  # noqa: T201
    check_merge(figures, engine)


def kill_after_checkpoint(name: str, train: list[str], folder: Path) -> None:
    """Start a run and kill it when its checkpoint of step 25 is written."""
    process = start(name, *train, cwd=folder)
    deadline = time.monotonic() + PROCESS_TIMEOUT
    while not list(folder.glob("runs/*/*/checkpoints/checkpoint-25/trainer_state.json")):
        assert process.poll() is None, f"{name} ended early; see its log"
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.kill()
    process.wait()


def check_merge(figures: dict[str, Any], engine: str) -> None:
    change = figures["trained_minus_plain"]
    assert change > 1
    assert figures["merged_minus_adapter_float32"] < 1e-2
    # Weights of 16 bits keep 8 bits of what an adapter of fifty steps adds to random numbers.
    assert figures["merged_minus_adapter_bf16"] < change / 4

    tolerance = 0.0 if engine == "transformers" else change / 20
    assert figures["reloaded_minus_merged"] < tolerance + 1e-6
    for name in ("tokens", "merged_tokens", "reloaded_tokens"):
        assert all(len(row) == 8 for row in figures[name])


@pytest.mark.parametrize("engine", ["transformers", "unsloth"])
def test_it_trains_on_four_bits(
    model_folder: Path, folders: tuple[str, ...], tmp_path: Path, engine: str
) -> None:
    settings = ("model.bits=4", "trainer.max_steps=12", "trainer.eval_steps=6", *folders)
    run(f"phi3-{engine}-4", *command(model_folder, engine, *settings), cwd=tmp_path)

    losses = [row["loss"] for row in only_run(tmp_path).read_train_log() if "loss" in row]
    print(json.dumps({"engine": engine, "bits": 4, "first": losses[0], "last": losses[-1]}))  # noqa: T201
    assert losses[-1] < losses[0]
