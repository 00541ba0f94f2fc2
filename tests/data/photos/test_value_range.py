"""16-bit photos of a 12-bit camera are scaled, and the user is told."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import image
from vlmbench.data.images import open_image
from vlmbench.data.photos.value_range import warn_of_dark_images
from vlmbench.data.sources.folder import FolderConfig
from vlmbench.types import UserError


def deep_photos(root: Path, most: int, suffix: str = ".tif") -> Path:
    for label, count in (("good", 16), ("bad", 8)):
        (root / label).mkdir(parents=True)
        for i in range(count):
            grey = np.asarray(image(1000 * len(label) + i).convert("L"), dtype=np.float64)
            values = (grey / 255 * most).astype(np.uint16)
            Image.fromarray(values).save(root / label / f"p{i}{suffix}")
    return root


def mean_of(manifest: Path) -> float:
    paths = sorted((manifest.parent / "img").rglob("*.*"))
    return float(np.mean([np.asarray(open_image(path)).mean() for path in paths]))


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_twelve_bits_are_scaled_and_told(
    tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    root = deep_photos(tmp_path / "set", 4095, suffix)
    dark = mean_of(FolderConfig(path=str(root), range=16).prepare(tmp_path / "data"))
    assert "12 bits" not in caplog.text
    with caplog.at_level(logging.WARNING):
        bright = mean_of(FolderConfig(path=str(root)).prepare(tmp_path / "data"))
    assert "24 photos of 16 bits have values up to" in caplog.text
    assert "set source.range=12" in caplog.text
    assert bright == pytest.approx(16 * dark, rel=0.1)
    assert bright > 80

    named = mean_of(FolderConfig(path=str(root), range="12").prepare(tmp_path / "data"))
    assert named == bright


def test_full_range_stays_as_it_is(tmp_path: Path) -> None:
    root = deep_photos(tmp_path / "set", 65535)
    as_is = mean_of(FolderConfig(path=str(root), range=16).prepare(tmp_path / "data"))
    assert mean_of(FolderConfig(path=str(root)).prepare(tmp_path / "data")) == as_is
    with pytest.raises(UserError, match=r"more than 12 bits; set source.range=16"):
        FolderConfig(path=str(root), range=12).prepare(tmp_path / "data")


def test_another_range_is_refused() -> None:
    with pytest.raises(UserError, match=r"source.range must be one of auto, 12, 16, got 14; set"):
        FolderConfig(path="x", range=14)


def test_dark_images_to_judge_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = deep_photos(tmp_path / "set", 4095)
    (root / "good" / "broken.tif").write_bytes(b"II*\0")
    paths = sorted((root / "good").iterdir())
    with caplog.at_level(logging.WARNING):
        warn_of_dark_images(paths, "16")
        assert not caplog.text
        warn_of_dark_images(paths, "auto")
    assert "(16 such images)" in caplog.text
