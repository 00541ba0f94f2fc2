"""How many marked defects a model can see."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import layouts
from tests.helpers.mvtec import mvtec
from vlmbench.data.annotations.read import Format
from vlmbench.data.defect_sizes import FILE, describe_visibility
from vlmbench.data.load import read_images
from vlmbench.data.manifest import open_manifest
from vlmbench.data.photos.photo import PartRule
from vlmbench.data.sources.folder import FolderConfig
from vlmbench.data.sources.mvtec import MvtecConfig


@pytest.mark.parametrize(
    ("layout", "kind"), [("voc", Format.voc), ("kolektor", Format.masks), ("mvtec", None)]
)
def test_small_defects_are_counted(tmp_path: Path, layout: str, kind: Format | None) -> None:
    if kind is None:
        root = mvtec(tmp_path / "set")
        path = MvtecConfig(path=str(root)).prepare(tmp_path / "data")
    else:
        root = layouts.LAYOUTS[layout](tmp_path / "set")
        config = FolderConfig(path=str(root), annotations=kind, parts=PartRule.photo)
        path = config.prepare(tmp_path / "data")

    manifest = open_manifest(path, labels={}, views={"raw", "rt"})
    facts = read_images(manifest, tmp_path / "cache")
    assert describe_visibility(manifest, facts, lambda size: (2 * size[0], 2 * size[1])) == []
    assert describe_visibility(manifest, facts, None) == []

    num_defects, edge = (4, 9.0) if kind is None else (8, 6.0)
    (message,) = describe_visibility(manifest, facts, lambda size: (size[0] // 2, size[1] // 2))
    assert message.startswith(
        f"{num_defects} of {num_defects} marked defects (100%) have an edge under 8 pixels as the "
        f"model sees them, the smallest {edge / 2:.1f}"
    )


@pytest.mark.parametrize("content", [b"", b"{}", b'[{"image": "x", "sizes": [[-1, 2]]}]', b"\xff"])
def test_a_damaged_file_of_sizes_says_nothing(tmp_path: Path, content: bytes) -> None:
    path = FolderConfig(path=str(layouts.plain(tmp_path / "set"))).prepare(tmp_path / "data")
    assert not path.with_name(FILE).exists()
    path.with_name(FILE).write_bytes(content)
    manifest = open_manifest(path, labels={}, views={"raw", "rt"})
    assert describe_visibility(manifest, {}, lambda size: size) == []
