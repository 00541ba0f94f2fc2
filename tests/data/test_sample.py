"""The sample data set shows the format and has no leaks."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import REPOSITORY
from vlmbench.data.load import load_data
from vlmbench.data.manifest import open_manifest
from vlmbench.types import Split, Task

SAMPLE = REPOSITORY / "data" / "sample"


def test_the_sample_has_every_task_and_splits_without_leaks(tmp_path: Path) -> None:
    manifest = open_manifest(SAMPLE / "manifest.jsonl", views={"raw", "rt"})
    shares = {Split.TRAIN: 0.7, Split.VAL: 0.1, Split.TEST: 0.2}
    data = load_data(manifest, shares, split_seed=0, allow_leak=False, cache_dir=tmp_path)

    assert set(data.train.count_tasks()) == set(Task)
    assert data.warnings == ()
    assert len(data.val) > 0
    assert len(data.test) > 0


def test_the_sample_is_small() -> None:
    assert sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file()) < 1_000_000
