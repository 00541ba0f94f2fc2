"""The served page shows where patch_nn sees a difference, and says that it is a baseline."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.helpers.baselines import KEY, keep_baseline, share_key
from vlmbench.baselines.patch_nn import PatchNNConfig
from vlmbench.deploy.evidence import _difference
from vlmbench.deploy.requests import image_record
from vlmbench.runs.folder import RunDir
from vlmbench.types import LazyImage


class Backbone:
    """Its map has a row for each half of the image: the colour of its first pixel."""

    def feature_maps(self, images: list[LazyImage]) -> list[np.ndarray]:
        return [
            np.array([[image.rgb.getpixel((0, 0))], [image.rgb.getpixel((0, 7))]], np.float32)
            for image in images
        ]


class Viewer:
    def path(self, image: Any) -> Path:
        return image.path

    def lazy_image(self, image: Any, *, of: str) -> LazyImage:
        return LazyImage.of(Image.open(image.path))


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Return a red reference, and a query whose lower half is green."""
    reference = Image.new("RGB", (8, 8), (255, 0, 0))
    query = reference.copy()
    query.paste((0, 255, 0), (0, 4, 8, 8))
    paths = [tmp_path / "reference.png", tmp_path / "query.png"]
    for path, image in zip(paths, (reference, query), strict=True):
        image.save(path)
    return paths


def load(tmp_path: Path, **baselines: Any) -> Any:
    run = RunDir(tmp_path / "sweep" / "0_run")
    keep_baseline(tmp_path / "sweep", "patch_nn", [], hottest={"judge_pair raw": 1.0})
    share_key(run, patch_nn=KEY)
    return SimpleNamespace(
        folder=run,
        asker=SimpleNamespace(backbone=Backbone(), viewer=Viewer()),
        run=SimpleNamespace(config=SimpleNamespace(baseline=baselines)),
    )


def test_the_changed_half_is_red_and_the_other_grey(
    tmp_path: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[np.ndarray] = []
    monkeypatch.setattr(
        "vlmbench.report.images.webp_uri", lambda image: shown.append(np.asarray(image)) or "data:"
    )
    loaded = load(tmp_path, patch_nn=PatchNNConfig())
    difference = _difference(loaded, image_record("dropped", images, "raw"), "raw")
    assert difference is not None
    assert "a baseline that is not trained" in difference.caption
    assert "not the evidence of the tuned model" in difference.caption

    (pixels,) = shown
    top, bottom = pixels[0, 0], pixels[7, 0]
    assert top.tolist() == [76, 76, 76]  # the grey of pure red
    assert bottom.tolist() == [230, 30, 20]


def test_there_is_no_such_image_without_the_baseline(tmp_path: Path, images: list[Path]) -> None:
    record = image_record("dropped", images, "raw")
    assert _difference(load(tmp_path), record, "raw") is None

    loaded = load(tmp_path, patch_nn=PatchNNConfig())
    assert _difference(loaded, image_record("dropped", images[1:], "raw"), "raw") is None
    assert _difference(loaded, record, "rt") is None  # no held-out answers in this view
    loaded.folder.write_baselines({"patch_nn": {"key": "../../etc"}})
    assert _difference(loaded, record, "raw") is None
    loaded.folder.write_baselines({"patch_nn": {"error": "no map"}})
    assert _difference(loaded, record, "raw") is None
