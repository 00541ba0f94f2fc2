"""Phi-3-vision at its real size with random weights, through the command line, on both engines.

Needs a GPU with 48 GB and 20 GB of /dev/shm: `python -m pytest -m gpu -s tests/gpu/test_phi3.py`. PHI3_FILES may name
a folder with the published config.json and tokenizer files.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from bench.models import random_phi3
from tests.gpu.conftest import MEMORY, PROCESS_TIMEOUT, only_cell, run, start
from vlmbench.rundir import State

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]
STEPS = 50
MERGE = Path(__file__).with_name("merge_phi3.py")


@pytest.fixture(scope="module")
def model_folder() -> Path:
    published = os.environ.get("PHI3_FILES")
    with FileLock(MEMORY / "phi3-random.lock"):  # tests of both engines may run side by side
        return random_phi3(MEMORY / "phi3-random", None if published is None else Path(published))


def command(model_folder: Path, engine: str, *more: str) -> list[str]:
    return [
        *("-m", "vlmbench", "model=phi3", f"model.path={model_folder}", f"trainer.engine={engine}"),
        *("trainer.batch_size=1", "trainer.learning_rate=1e-4", "trainer.log_steps=1", "trainer.eval_records=8"),
        *(
            "source.num_parts=24",
            "data=with_comparison",
            "tracking=off",
            "eval.limit=4",
            "eval.batch_size=4",
            "eval.probes=false",
            *more,
        ),
    ]


@pytest.mark.parametrize("engine", ["transformers", "unsloth"])
def test_it_trains_goes_on_after_a_kill_and_merges(
    model_folder: Path, places: tuple[str, ...], tmp_path: Path, engine: str
) -> None:
    name = f"phi3-{engine}"
    train = command(model_folder, engine, f"trainer.max_steps={STEPS}", "trainer.eval_steps=25", *places)
    first = start(name, *train, cwd=tmp_path)
    deadline = time.monotonic() + PROCESS_TIMEOUT
    while not list(tmp_path.glob("runs/*/*/checkpoints/checkpoint-25/trainer_state.json")):
        assert first.poll() is None, f"{name} ended early; see its log"
        assert time.monotonic() < deadline
        time.sleep(0.2)
    first.kill()
    first.wait()
    assert "going on from step 25" in run(name, *train, cwd=tmp_path)
    cell = only_cell(tmp_path)
    rows = [row for row in cell.read_train_log() if "loss" in row]
    assert cell.read_status()["state"] == State.FINISHED
    assert cell.read_env()["engine"] == engine
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert rows[-1]["loss"] < rows[0]["loss"] / 2
    merge = run(
        f"{name}-merge",
        str(MERGE),
        engine,
        str(model_folder),
        str(cell.adapter),
        str(tmp_path / "merged"),
        cwd=tmp_path,
    )
    figures = json.loads(merge.strip().splitlines()[-1])
    print(json.dumps({"losses": [rows[0]["loss"], rows[-1]["loss"]], **figures}))  # noqa: T201
    change = figures["trained_minus_plain"]
    assert change > 1
    assert figures["merged_minus_adapter_float32"] < 1e-2
    # Sixteen-bit weights keep eight bits of what an adapter of fifty steps adds to random numbers.
    assert figures["merged_minus_adapter_bf16"] < change / 4
    assert figures["reloaded_minus_merged"] < (0.0 if engine == "transformers" else change / 20) + 1e-6
    assert all(len(row) == 8 for name in ("tokens", "merged_tokens", "reloaded_tokens") for row in figures[name])


@pytest.mark.parametrize("engine", ["transformers", "unsloth"])
def test_it_trains_on_four_bits(model_folder: Path, places: tuple[str, ...], tmp_path: Path, engine: str) -> None:
    settings = ("model.bits=4", "trainer.max_steps=12", "trainer.eval_steps=6", *places)
    run(f"phi3-{engine}-4", *command(model_folder, engine, *settings), cwd=tmp_path)
    losses = [row["loss"] for row in only_cell(tmp_path).read_train_log() if "loss" in row]
    print(json.dumps({"engine": engine, "bits": 4, "first": losses[0], "last": losses[-1]}))  # noqa: T201
    assert losses[-1] < losses[0]
