"""Parts whose records of one task share images are one cluster for statistics."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from vlmbench.data.load import load_data
from vlmbench.data.manifest import open_manifest
from vlmbench.types import Split, Task

SHARES = {Split.TRAIN: 0.6, Split.VAL: 0.2, Split.TEST: 0.2}


def write(folder: Path, rows: list[tuple[str, str, str, str]]) -> Path:
    """Write a manifest with a row for each (task, group, reference, query)."""
    lines = []
    for number, (task, group, reference, query) in enumerate(rows):
        for name in (reference, query):
            if not (folder / name).exists():
                rng = np.random.default_rng(list(name.encode()))
                pixels = rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / name)
        label = "same_shape" if task == "compare_shapes" else "normal"
        images = [
            {"path": name, "role": role, "view": "raw"}
            for name, role in ((reference, "reference"), (query, "query"))
        ]
        lines.append(
            {
                "id": f"r{number}",
                "task": task,
                "group": group,
                "label": label,
                "answer": label,
                "images": images,
            }
        )
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_parts_that_share_a_reference_are_one_component(tmp_path: Path) -> None:
    rows = [
        ("judge_pair", f"p{number}", f"ref{number // 2}.png", f"q{number}.png")
        for number in range(10)
    ]
    manifest = open_manifest(write(tmp_path, rows))
    data = load_data(manifest, SHARES, split_seed=0, allow_leak=False, cache_dir=tmp_path / "c")
    names = [data.component(Task.JUDGE_PAIR, f"p{number}") for number in range(10)]
    assert all(names)
    assert len(set(names)) == 5
    assert names[0] == names[1] != names[2]
    leaking = load_data(manifest, SHARES, split_seed=0, allow_leak=True, cache_dir=tmp_path / "c")
    assert leaking.component(Task.JUDGE_PAIR, "p0") == ""


def test_records_of_another_task_join_no_judgements(tmp_path: Path) -> None:
    rows = [("judge_pair", f"p{n}", f"ref{n}.png", f"q{n}.png") for n in range(10)]
    rows += [("compare_shapes", f"p{n}", f"ref{n}.png", f"ref{n + 1}.png") for n in range(0, 10, 2)]
    manifest = open_manifest(write(tmp_path, rows))
    data = load_data(manifest, SHARES, split_seed=0, allow_leak=False, cache_dir=tmp_path / "c")
    assert data.component(Task.JUDGE_PAIR, "p0") == ""
