"""Small masks of marked defects beside a manifest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.helpers import layouts
from tests.helpers.mvtec import mvtec
from vlmbench.data.annotations.read import Format
from vlmbench.data.defect_masks import EDGE, FILE, read_defect_masks, shrink_mask, small_mask
from vlmbench.data.manifest import open_manifest
from vlmbench.data.photos.photo import PartRule
from vlmbench.data.sources.folder import FolderConfig
from vlmbench.data.sources.mvtec import MvtecConfig


def test_a_square_is_marked_if_any_of_its_pixels_is() -> None:
    mask = np.zeros((1000, 700), np.bool_)
    mask[999, 0] = True
    small = small_mask(mask)
    assert small.shape == (EDGE, EDGE)
    assert np.argwhere(small).tolist() == [[EDGE - 1, 0]]
    assert np.argwhere(shrink_mask(small, 5, 7)).tolist() == [[4, 0]]

    # The middle pixel of 3 lies in both halves.
    assert shrink_mask(np.array([[0, 1, 0]], np.bool_), 1, 2).tolist() == [[True, True]]
    assert (
        shrink_mask(np.array([[1, 0]], np.bool_), 2, 4).tolist() == [[True, True, False, False]] * 2
    )


@pytest.mark.parametrize(
    ("layout", "kind"), [("voc", Format.voc), ("kolektor", Format.masks), ("mvtec", None)]
)
def test_marked_images_have_masks_by_the_path_of_their_records(
    tmp_path: Path, layout: str, kind: Format | None
) -> None:
    if kind is None:
        config = MvtecConfig(path=str(mvtec(tmp_path / "set")))
    else:
        root = layouts.LAYOUTS[layout](tmp_path / "set")
        config = FolderConfig(path=str(root), annotations=kind, parts=PartRule.photo)
    path = config.prepare(tmp_path / "data")
    masks = read_defect_masks(path)
    assert len(masks) == (4 if kind is None else 8)

    manifest = open_manifest(path, labels={}, views={"raw", "rt"})
    labels = {record.images[-1].path: record.label for record in manifest}
    assert {labels[image] for image in masks if image in labels} == {"abnormal"}
    assert any(image in labels for image in masks)
    if kind is None:
        for mask in masks.values():
            assert mask[:9, :9].all()
            assert mask.sum() == 81


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"\xff",
        b'[{"image": "x", "rows": 9999, "columns": 2, "bits": ""}]',
        b'[{"image": "x", "rows": 2, "columns": 2, "bits": "?"}]',
        b'[{"image": "x", "rows": 9, "columns": 2, "bits": "AA=="}]',
    ],
)
def test_a_damaged_file_of_masks_says_nothing(tmp_path: Path, content: bytes) -> None:
    path = FolderConfig(path=str(layouts.plain(tmp_path / "set"))).prepare(tmp_path / "data")
    assert not path.with_name(FILE).exists()
    path.with_name(FILE).write_bytes(content)
    assert read_defect_masks(path) == {}
