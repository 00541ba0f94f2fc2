"""The counts of a run's data, counted by hand."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import ManifestBuilder
from vlmbench.data.census import census
from vlmbench.data.load import load_data
from vlmbench.data.manifest import open_manifest
from vlmbench.types import Split

SHARES = {Split.TRAIN: 0.6, Split.VAL: 0.2, Split.TEST: 0.2}


def test_records_are_counted_by_split_task_view_and_label(
    manifest: ManifestBuilder, tmp_path: Path
) -> None:
    data = load_data(
        open_manifest(manifest.write()),
        SHARES,
        split_seed=0,
        allow_leak=False,
        cache_dir=tmp_path / "cache",
    )

    counts = census(data)

    # Ten parts, each with a normal and an abnormal pair and a normal single image. The splits have
    # six, two and two parts.
    assert counts["splits"] == [
        {"split": split, "task": task, "view": "raw", "labels": labels, "parts": parts}
        for split, parts in (("train", 6), ("val", 2), ("test", 2))
        for task, labels in (
            ("judge_pair", {"abnormal": parts, "normal": parts}),
            ("judge_single", {"normal": parts}),
        )
    ]
    assert counts["images"] == 30
    assert counts["leaks"] == {"found": 0, "first": []}


def test_allowed_leaks_are_counted_and_named(manifest: ManifestBuilder, tmp_path: Path) -> None:
    for row in manifest.rows:
        if len(row["images"]) == 2:
            row["images"][0]["path"] = "img/0-ref.png"  # one reference for all parts

    data = load_data(
        open_manifest(manifest.write()),
        SHARES,
        split_seed=0,
        allow_leak=True,
        cache_dir=tmp_path / "cache",
    )

    leaks = census(data)["leaks"]

    assert leaks["found"] == len(data.leaks) >= 1
    assert leaks["first"][0].startswith(str(manifest.path))
    assert "have the same image" in leaks["first"][0]


def test_the_nearest_images_have_paths_that_the_report_can_open(
    manifest: ManifestBuilder, tmp_path: Path
) -> None:
    records = open_manifest(manifest.write())
    data = load_data(
        records,
        {Split.TRAIN: 0.6, Split.VAL: 0.2, Split.TEST: 0.2},
        split_seed=0,
        allow_leak=False,
        cache_dir=tmp_path / "cache",
    )
    nearest = census(data)["nearest"]
    assert 1 <= len(nearest) <= 12
    distances = [pair["distance"] for pair in nearest]
    assert distances == sorted(distances)
    assert all(Path(path).is_file() for pair in nearest for path in pair["images"])
    assert all(pair["splits"][0] != pair["splits"][1] for pair in nearest)
