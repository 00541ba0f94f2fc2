"""Baselines of a run, with a stand-in for the model: what is asked, shared, sealed and left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from tests.helpers import layouts
from tests.helpers.cards import A100, play_card
from vlmbench.backbones.maps import NoFeaturesError
from vlmbench.cli.folders import plain_values
from vlmbench.config import CONF, register_plugins
from vlmbench.pipeline.baselines import ask_baselines
from vlmbench.pipeline.run import Run
from vlmbench.runs.baselines import BaselineDir, baseline_dir
from vlmbench.runs.folder import RunDir
from vlmbench.types import LazyImage, Probe, Sample, Task, TokenCount

ALL = ["majority", "untuned", "patch_nn", "linear_probe"]


class Model:
    """Its device is the processor."""

    def eval(self) -> None: ...

    def parameters(self) -> Any:
        return iter([SimpleNamespace(device=SimpleNamespace(type="cpu"))])


class Backbone:
    """Sees an image as 8 x 8 colours, and finds abnormal what is bright."""

    max_tokens = 512
    model = Model()
    store = None

    def __init__(self) -> None:
        self.scored = 0

    def count_tokens(self, sample: Sample, sizes: Sequence[tuple[int, int]]) -> TokenCount:
        return TokenCount(total=9, trained=2)

    def score(self, samples: Sequence[Sample], labels: Sequence[str]) -> np.ndarray:
        self.scored += len(samples)
        bright = [float(np.asarray(sample.images[-1].rgb).mean()) for sample in samples]
        return np.array([[-value, -(255 - value)] for value in bright])

    def feature_maps(self, images: Sequence[LazyImage]) -> list[np.ndarray]:
        return [np.asarray(image.rgb.resize((8, 8)), np.float32) for image in images]

    def image_features(self, images: Sequence[LazyImage]) -> list[np.ndarray]:
        return [each.mean((0, 1)) for each in self.feature_maps(images)]


@pytest.fixture
def ask(
    tmp_path: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[RunDir, dict[str, Any], dict[str, Any]]]:
    """Return a function that asks the baselines of a run: its folder, rows and summary."""
    register_plugins()

    def call(
        name: str, *overrides: str, backbone: Backbone, run_hash: str = "h"
    ) -> tuple[RunDir, dict[str, Any], dict[str, Any]]:
        source = () if "source=folder" in overrides else ("source.num_parts=20",)
        given = (
            *("model=llama32_tiny", *source, "run_label=x", "stage=train"),
            *(f"sweep={tmp_path / 's'}", f"data_dir={shared_cache / 'data'}", "view=raw"),
            *(f"cache_dir={shared_cache}", *overrides),
        )
        with initialize_config_dir(str(CONF), version_base="1.3"):
            raw = compose("config", overrides=list(given))
        run = Run(
            config=OmegaConf.to_object(raw),
            settings=plain_values(raw),
            folder=RunDir(tmp_path / "s" / name),
            choices={"model": "llama32_tiny"},
            identity={},
        )
        run.config.source.prepare(shared_cache / "data")
        monkeypatch.setattr(Run, "build", lambda self, engine: backbone)

        summary: dict[str, Any] = {}
        tracker = SimpleNamespace(summary=summary.update)
        ask_baselines(run, SimpleNamespace(engine=None, run_hash=run_hash, tracker=tracker))
        return run.folder, run.folder.read_baselines(), summary

    return call


def folder_of(run: RunDir, row: dict[str, str]) -> BaselineDir:
    return baseline_dir(run.path.parent, row["key"])


@pytest.mark.slow
def test_every_baseline_answers_the_same_ordinary_pairs(ask: Callable[..., Any]) -> None:
    run, rows, summary = ask("0_a", backbone=Backbone())
    assert list(rows) == ALL

    asked = [folder_of(run, row).read_predictions() for row in rows.values()]
    ids = [each.id for each in asked[0]]
    assert ids
    for predictions in asked:
        assert [each.id for each in predictions] == ids
        assert {(each.task, each.view, each.probe) for each in predictions} == {
            (Task.JUDGE_PAIR, "raw", Probe.NONE)
        }
        assert all(each.question and len(each.images) == 2 for each in predictions)
        assert all(set(each.scores) == {"normal", "abnormal"} for each in predictions)

    heat = folder_of(run, rows["patch_nn"]).read_heat()
    assert {record for record, _, _ in heat} == set(ids)
    assert max(int(each.max()) for each in heat.values()) == 255
    assert summary["baseline/majority/auroc"]["value"] == 0.5


@pytest.mark.slow
def test_runs_share_what_does_not_differ(ask: Callable[..., Any]) -> None:
    backbone = Backbone()
    _, first, _ = ask("0_a", backbone=backbone)
    scored = backbone.scored
    _, second, _ = ask("1_b", "data=with_comparison", "seed=1", backbone=backbone, run_hash="i")
    assert backbone.scored == scored > 0
    assert keys(first) == keys(second)

    _, third, _ = ask("2_c", "baseline.patch_nn.patches=5", "prompt=short", backbone=backbone)
    assert not set(keys(third).values()) & set(keys(first).values())


def test_answers_in_fp16_are_not_those_in_bf16(
    ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, without_gpu, _ = ask("0_a", backbone=Backbone())
    play_card(monkeypatch, A100)
    _, auto, _ = ask("1_b", backbone=Backbone())
    _, half, _ = ask("2_c", "trainer.precision=fp16", backbone=Backbone())
    assert keys(auto) == keys(without_gpu)
    assert not set(keys(half).values()) & set(keys(auto).values())


@pytest.mark.slow
def test_a_sealed_test_split_stays_sealed(ask: Callable[..., Any]) -> None:
    run, rows, _ = ask("0_a", "eval.test=sealed", backbone=Backbone())
    for row in rows.values():
        assert folder_of(run, row).read_predictions() == []
        assert folder_of(run, row).read_validation()

    _, revealed, _ = ask("0_a", backbone=Backbone())
    assert folder_of(run, revealed["untuned"]).read_predictions()


def test_a_tower_without_a_map_leaves_its_baselines_out(ask: Callable[..., Any]) -> None:
    class Blind(Backbone):
        def feature_maps(self, images: Sequence[LazyImage]) -> list[np.ndarray]:
            raise NoFeaturesError("the tower has no map")

    _, rows, _ = ask("0_a", backbone=Blind())
    assert rows["patch_nn"]["error"] == rows["linear_probe"]["error"] == "the tower has no map"
    assert "key" in rows["majority"]
    assert "key" in rows["untuned"]


def test_the_masks_of_marked_defects_stay_beside_the_heat_maps(
    ask: Callable[..., Any], tmp_path: Path
) -> None:
    root = layouts.kolektor(tmp_path / "set")
    source = ("source=folder", f"source.path={root}", "source.annotations=masks")
    run, rows, _ = ask(
        "0_a",
        *source,
        "source.parts=photo",
        "data.split={train: 0.4, val: 0.2, test: 0.4}",
        backbone=Backbone(),
    )
    folder = folder_of(run, rows["patch_nn"])
    marked, heat = folder.read_marked(), folder.read_heat()
    answers = {(each.id, each.task, each.view): each for each in folder.read_predictions()}
    abnormal = {key for key, each in answers.items() if each.expected == "abnormal"}
    assert abnormal
    assert set(marked) == abnormal < set(heat)

    left, top, right, bottom = layouts.BOX
    for mask in marked.values():
        assert mask[top:bottom, left:right].all()
        assert mask.sum() == (right - left) * (bottom - top)
    assert folder_of(run, rows["majority"]).read_marked() == {}


@pytest.mark.slow
def test_a_second_attempt_asks_nothing_again(ask: Callable[..., Any]) -> None:
    backbone = Backbone()
    run, rows, _ = ask("0_a", backbone=backbone)
    scored = backbone.scored
    _, again, summary = ask("0_a", backbone=backbone)
    assert again == rows
    assert backbone.scored == scored
    assert "baseline/untuned/auroc" in summary

    with (folder_of(run, rows["untuned"]).path / "predictions.jsonl").open("a") as file:
        file.write("?")
    ask("0_a", backbone=backbone)
    assert backbone.scored == 2 * scored
    assert folder_of(run, rows["untuned"]).damage() == ""


def keys(rows: dict[str, Any]) -> dict[str, str]:
    """Return the keys of the baselines that depend on the settings of the test."""
    return {name: row["key"] for name, row in rows.items() if name in ("untuned", "patch_nn")}
