"""The runs of a sweep in one process equal the same runs alone."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Outcome
from tests.helpers.backbones import make_request
from vlmbench.backbones import resident
from vlmbench.backbones.llama32 import Llama32TinyConfig
from vlmbench.backbones.phi3 import Phi3TinyConfig
from vlmbench.runs.folder import RunDir
from vlmbench.runs.sweep import SweepDir

TINY = (
    "trainer=debug",
    "source.num_parts=24",
    "tracking=off",
    "eval.limit=4",
    "trainer.learning_rate=1e-2",
)


def results_of(run: RunDir) -> dict[str, Any]:
    """Return everything that a run measured, to the last bit."""
    return {
        "log": run.read_train_log(),
        "scores": {row.id: dict(row.scores) for row in run.read_predictions()},
        "adapter": (run.adapter / "adapter_model.safetensors").read_bytes(),
    }


def results_by_run(folder: Path) -> dict[str, dict[str, Any]]:
    (sweep,) = (folder / "runs").glob("*/")
    return {run.path.name.partition("_")[2]: results_of(run) for run in SweepDir(sweep).runs()}


@pytest.mark.slow
@pytest.mark.parametrize("model", ["llama32_tiny", "phi3_tiny"])
def test_runs_that_share_a_model_equal_runs_alone(
    cli: Callable[..., Outcome],
    tmp_path: Path,
    drawn: str,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
) -> None:
    tiny = (*TINY, drawn)
    built_seeds: list[int] = []
    config = {"phi3_tiny": Phi3TinyConfig, "llama32_tiny": Llama32TinyConfig}[model]
    build = config.build

    def count_builds(self: Any, request: Any) -> Any:
        built_seeds.append(request.seed)
        return build(self, request)

    monkeypatch.setattr(config, "build", count_builds)
    enter(tmp_path / "together", monkeypatch)
    resident.release()  # what an earlier test left
    assert cli("-m", f"model={model}", "seed=0,1", "data=with_comparison,single", *tiny).code == 0
    assert built_seeds == [0]
    expected = results_by_run(tmp_path / "together")
    assert len(expected) == 4

    # One of them ran after another variant, the other after another seed.
    for seed, data in ((0, "single"), (1, "with_comparison")):
        alone = tmp_path / f"{seed}-{data}"
        enter(alone, monkeypatch)
        resident.release()
        assert cli(f"model={model}", f"seed={seed}", f"data={data}", *tiny).code == 0
        name = f"{model}_{data}_s{seed}"
        assert results_by_run(alone) == {name: expected[name]}


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    monkeypatch.chdir(folder)


@pytest.mark.slow
def test_another_model_replaces_the_kept_one(tmp_path: Path) -> None:
    request = make_request(tmp_path)
    first = resident.build(Phi3TinyConfig(), request)
    assert resident.build(Phi3TinyConfig(), request) is first
    assert resident.build(Phi3TinyConfig(num_crops=1), request) is not first
    assert resident.build(Phi3TinyConfig(), request) is not first


def test_a_model_without_weights_is_not_kept(tmp_path: Path) -> None:
    light = make_request(tmp_path, weights=False)
    assert resident.build(Phi3TinyConfig(), light) is not resident.build(Phi3TinyConfig(), light)


class Leftover:
    """An object in a reference cycle, like a trainer: only the collector frees it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.mark.slow
def test_what_a_run_left_is_collected_before_the_rest_is_passed_over(tmp_path: Path) -> None:
    resident.release()
    resident.build(Llama32TinyConfig(), make_request(tmp_path))
    gc.disable()
    try:
        leftover = weakref.ref(Leftover())
        assert leftover() is not None
        resident.settle()
        assert leftover() is None
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
