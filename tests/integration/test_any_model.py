"""model=hub from the command line, and a base model that changes under a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import image
from tests.helpers.twins import twin_folder, write_twin
from vlmbench.backbones import resident

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(torch.cuda.is_available(), reason="a twin needs no GPU"),
]


def test_a_run_on_any_model_and_its_base_that_changes(
    cli: Callable[..., Any], tmp_path: Path, drawn: str
) -> None:
    model = tmp_path / "模型"
    shutil.copytree(twin_folder("qwen3_vl"), model)
    command = (
        "model=hub",
        f'model.path="{model}"',
        "trainer=debug",
        "trainer.max_steps=2",
        "tracking=off",
        "eval.limit=4",
        "eval.probes=false",
        "view=raw",
        "source.num_parts=24",
        "sweep=runs/any",
        "baseline=[majority]",
        drawn,
    )
    checked = cli("stage=check", *command)
    assert checked.code == 0, checked.err
    trained = cli(*command)
    assert trained.code == 0, trained.err
    (run,) = (tmp_path / "runs" / "any").glob("0_*")
    recorded = json.loads((run / "env.json").read_text())["base_model"]
    assert recorded.startswith("sha256 ")
    assert cli(*command).code == 0  # finished already

    write_twin("qwen3_vl", model, seed=1)
    resident.release()
    again = cli(*command)
    assert again.code == 2
    assert "the files of its base model have changed since" in again.err

    image(1).save("a.png")
    predicted = cli("stage=predict", f"run={run}", "images=[a.png,a.png]")
    assert predicted.code == 2
    assert "the base model" in predicted.err
    assert "has changed since the run was trained" in predicted.err


def test_the_wrong_size_names_the_sizes_there_are(cli: Callable[..., Any]) -> None:
    outcome = cli("stage=check", "model=qwen3_vl", "model.size=9B")
    assert outcome.code == 2
    assert "set model.size=2B or model.size=4B or model.size=8B" in outcome.err
