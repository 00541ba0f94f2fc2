"""data.group_alike: look-alikes stay in one split instead of being a leak."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ManifestBuilder, Outcome, image
from vlmbench.data.load import load_data
from vlmbench.data.manifest import open_manifest
from vlmbench.types import Split, Task, UserError

SHARES = {Split.TRAIN: 0.6, Split.VAL: 0.2, Split.TEST: 0.2}


def look_alikes(folder: Path, count: int = 12) -> Path:
    """Write parts of which every third one looks like part 0, a little brighter."""
    builder = ManifestBuilder(folder)
    for number in range(count):
        builder.add_part(number)
        if number and number % 3 == 0:
            values = np.asarray(image(0), dtype=np.int16) + number
            brighter = Image.fromarray(values.clip(0, 255).astype(np.uint8))
            brighter.save(folder / "img" / f"{number}-ref.png")
    builder.write()
    return builder.path


def test_look_alikes_stay_in_one_split(tmp_path: Path) -> None:
    manifest = open_manifest(look_alikes(tmp_path / "set"), labels={}, views={"raw", "rt"})

    def load(seed: int) -> None:
        load_data(
            manifest,
            SHARES,
            split_seed=seed,
            allow_leak=False,
            cache_dir=tmp_path / "cache",
        )

    leaking = [seed for seed in range(6) if raises(partial(load, seed))]
    assert leaking

    for seed in leaking:
        data = load_data(
            manifest,
            SHARES,
            split_seed=seed,
            allow_leak=False,
            cache_dir=tmp_path / "cache",
            group_alike=True,
        )
        assert not data.leaks
        splits = [{record.group for record in split} for split in (data.train, data.val, data.test)]
        alike = {record.group for record in manifest if "0-ref" in str(record.images[0].path)}
        assert sum(bool(alike & groups) for groups in splits) <= 2
        assert all(splits)
        names = {data.component(Task.JUDGE_PAIR, record.group) for record in manifest}
        assert len(names) == 2  # one component of four parts, and "" for the others


def raises(call: Callable[[], object]) -> bool:
    try:
        call()
    except UserError as error:
        assert "set data.group_alike=true" in str(error)  # noqa: PT017 - some seeds have no leak
        return True
    return False


@pytest.mark.slow
def test_the_datasheet_tells_and_lists_all_pairs(
    cli: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = look_alikes(tmp_path / "set", count=18)
    arguments = ("stage=prepare", "source=manifest", f"source.path={path}")
    output = cli(*arguments)
    assert "set data.group_alike=true" in output.out + output.err
    sheet = json.loads(path.with_name("mine.datasheet.json").read_text())
    duplicates = sheet["duplicates"]
    assert len(duplicates["near_pairs_named"]) == duplicates["near_pairs"] >= 10

    mended = cli(*arguments, "data.group_alike=true")
    assert "leaks between the splits" not in mended.out + mended.err
