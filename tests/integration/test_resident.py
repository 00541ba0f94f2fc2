"""A sweep's cells in one process equal the same cells run alone."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Outcome
from vlmbench.backbones import resident
from vlmbench.backbones.llama32 import Llama32TinyConfig
from vlmbench.backbones.phi3 import Phi3TinyConfig
from vlmbench.config import BuildRequest, Engine, Vision
from vlmbench.rundir import RunDir, SweepDir

TINY = ("trainer=debug", "source.num_parts=24", "tracking=off", "eval.limit=4", "trainer.learning_rate=1e-2")


def outcome_of(cell: RunDir) -> dict[str, Any]:
    """All that a run found, to the last bit."""
    return {
        "log": cell.read_train_log(),
        "scores": {one.id: dict(one.scores) for one in cell.read_predictions()},
        "adapter": (cell.adapter / "adapter_model.safetensors").read_bytes(),
    }


def cells(folder: Path) -> dict[str, dict[str, Any]]:
    (sweep,) = (folder / "runs").iterdir()
    return {cell.path.name.partition("_")[2]: outcome_of(cell) for cell in SweepDir(sweep).cells()}


@pytest.mark.parametrize("model", ["llama32_tiny", "phi3_tiny"])
def test_cells_that_share_a_model_equal_cells_run_alone(
    cli: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    built: list[int] = []
    config = {"phi3_tiny": Phi3TinyConfig, "llama32_tiny": Llama32TinyConfig}[model]
    build = config.build
    monkeypatch.setattr(config, "build", lambda self, request: built.append(request.seed) or build(self, request))
    together = tmp_path / "together"
    together.mkdir()
    monkeypatch.chdir(together)
    choices = ("seed=0,1", "data=with_comparison,single")
    assert cli("-m", f"model={model}", *choices, *TINY).code == 0
    assert built == [0]
    expected = cells(together)
    assert len(expected) == 4
    for seed, data in ((0, "single"), (1, "with_comparison")):  # after another variant, and after another seed
        alone = tmp_path / f"{seed}-{data}"
        alone.mkdir()
        monkeypatch.chdir(alone)
        resident.release()
        assert cli(f"model={model}", f"seed={seed}", f"data={data}", *TINY).code == 0
        assert cells(alone) == {f"{model}_{data}_s{seed}": expected[f"{model}_{data}_s{seed}"]}


def test_another_model_takes_the_place_of_the_kept_one(tmp_path: Path) -> None:
    request = _request(tmp_path)
    first = resident.build(Phi3TinyConfig(), request)
    assert resident.build(Phi3TinyConfig(), request) is first
    assert resident.build(Phi3TinyConfig(num_crops=1), request) is not first
    assert resident.build(Phi3TinyConfig(), request) is not first


def test_a_model_without_weights_is_not_kept(tmp_path: Path) -> None:
    light = replace(_request(tmp_path), weights=False)
    assert resident.build(Phi3TinyConfig(), light) is not resident.build(Phi3TinyConfig(), light)


def _request(folder: Path) -> BuildRequest:
    return BuildRequest(seed=0, engine=Engine.transformers, vision=Vision.frozen, cache_dir=folder)


class Leftover:
    """Something in a circle, as trainers are: only the collector takes it away."""

    def __init__(self) -> None:
        self.itself = self


def test_what_a_run_left_is_collected_before_the_rest_is_passed_over(tmp_path: Path) -> None:
    resident.release()
    request = BuildRequest(seed=0, engine=Engine.transformers, vision=Vision.frozen, cache_dir=tmp_path)
    resident.build(Llama32TinyConfig(), request)
    gc.disable()
    try:
        left = weakref.ref(Leftover())
        assert left() is not None
        resident.settle()
        assert left() is None
        assert gc.get_freeze_count() > 0
    finally:
        gc.enable()
    resident.release()
    assert gc.get_freeze_count() == 0


def test_without_a_kept_model_nothing_is_passed_over() -> None:
    resident.release()
    before = gc.get_freeze_count()
    resident.settle()
    assert gc.get_freeze_count() == before
