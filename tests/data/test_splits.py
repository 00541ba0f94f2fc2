"""No part, no picture and no near-duplicate on two sides."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ManifestBuilder, picture
from vlmbench.data.dataset import check_labels, side
from vlmbench.data.load import load_data, read_pictures
from vlmbench.data.manifest import SPLITS, open_manifest
from vlmbench.data.splits import find_leaks, split_records
from vlmbench.types import Split, Task, UserError

SHARES = {Split.TRAIN: 0.6, Split.VAL: 0.2, Split.TEST: 0.2}


def test_shares_are_met_in_whole_parts(manifest: ManifestBuilder) -> None:
    opened = open_manifest(manifest.write())
    sides = split_records(opened, SHARES, seed=0)
    assert np.bincount(sides).tolist() == [18, 6, 6]  # 6, 2 and 2 of ten parts, three records each
    where = defaultdict(set)
    for record, one in zip(opened, sides, strict=True):
        where[record.group].add(int(one))
    assert all(len(on) == 1 for on in where.values())


def test_three_parts_fill_three_sides(manifest: ManifestBuilder) -> None:
    manifest.rows = manifest.rows[:9]
    opened = open_manifest(manifest.write())
    sides = split_records(opened, {Split.TRAIN: 0.7, Split.VAL: 0.1, Split.TEST: 0.2}, seed=0)
    assert np.bincount(sides).tolist() == [3, 3, 3]


def test_a_split_depends_on_the_seed_and_not_on_the_order_of_rows(manifest: ManifestBuilder) -> None:
    def by_id(seed: int) -> dict[str, int]:
        opened = open_manifest(manifest.write())
        return {
            record.id: int(one) for record, one in zip(opened, split_records(opened, SHARES, seed=seed), strict=True)
        }

    first, other_seed = by_id(0), by_id(1)
    manifest.rows.reverse()
    assert by_id(0) == first
    assert other_seed != first


def test_parts_that_share_a_picture_go_together(manifest: ManifestBuilder) -> None:
    for number in range(0, 10, 2):
        manifest.rows[3 * number]["images"][0]["path"] = f"img/{number + 1}-ref.png"
    opened = open_manifest(manifest.write())
    for seed in range(5):
        sides = split_records(opened, SHARES, seed=seed)
        of_group = {record.group: int(one) for record, one in zip(opened, sides, strict=True)}
        assert all(of_group[f"part-{number}"] == of_group[f"part-{number + 1}"] for number in range(0, 10, 2))
        assert find_leaks(opened, sides, {}) == []


def test_one_reference_for_all_is_refused_and_the_cure_works(manifest: ManifestBuilder) -> None:
    for row in manifest.rows:
        row["images"][0]["path"] = "img/0-ref.png"
    opened = open_manifest(manifest.write())
    with pytest.raises(UserError, match=r"30 of 30 records hang together.*data.allow_leak=true"):
        split_records(opened, SHARES, seed=0)
    sides = split_records(opened, SHARES, seed=0, by_group_only=True)
    assert np.bincount(sides).tolist() == [18, 6, 6]
    assert {leak.what for leak in find_leaks(opened, sides, {})} == {"the same picture"}


def test_a_fixed_split_is_obeyed_and_its_leak_is_found(manifest: ManifestBuilder) -> None:
    manifest.rows[0]["split"] = "train"
    manifest.rows[1]["split"] = "test"
    opened = open_manifest(manifest.write())
    sides = split_records(opened, SHARES, seed=0)
    assert [SPLITS[one] for one in sides[:3]] == [Split.TRAIN, Split.TEST, Split.TRAIN]
    leaks = find_leaks(opened, sides, {})
    assert (0, 1) in {(leak.first, leak.second) for leak in leaks}
    assert all(1 in (leak.first, leak.second) for leak in leaks)


def _load(manifest: ManifestBuilder, **changes: bool) -> object:
    opened = open_manifest(manifest.write())
    settings = {"split_seed": 0, "allow_leak": False, "cache_dir": manifest.folder / "cache", **changes}
    return load_data(opened, SHARES, **settings)


def _on_two_sides(manifest: ManifestBuilder) -> tuple[int, int]:
    """Numbers of a part that trains and of one that is held out."""
    opened = open_manifest(manifest.write())
    sides = split_records(opened, SHARES, seed=0)
    train, test = (side(opened, sides, split)[0].group for split in (Split.TRAIN, Split.TEST))
    return int(train.removeprefix("part-")), int(test.removeprefix("part-"))


def test_the_same_file_under_two_names_is_a_leak_that_names_both_rows(manifest: ManifestBuilder) -> None:
    train, test = _on_two_sides(manifest)
    image = manifest.folder / "img"
    (image / f"{test}-good.png").write_bytes((image / f"{train}-good.png").read_bytes())
    with pytest.raises(UserError) as raised:
        _load(manifest)
    message = str(raised.value)
    assert "the same picture content" in message
    for number in (train, test):  # the picture stands in two records of its part
        rows = ((1, "good"), (3, "single"))
        assert any(f"mine.jsonl:{3 * number + row} (id '{number}-{name}'" in message for row, name in rows)
    assert "data.allow_leak=true" in message


def test_a_picture_saved_again_is_a_near_duplicate(manifest: ManifestBuilder) -> None:
    train, test = _on_two_sides(manifest)
    image = manifest.folder / "img"
    again = Image.open(image / f"{train}-bad.png").resize((96, 84), Image.Resampling.BICUBIC)
    again.save(image / f"{test}-bad.png")
    with pytest.raises(UserError, match="pictures that look the same"):
        _load(manifest)


def test_an_allowed_leak_is_a_warning(manifest: ManifestBuilder) -> None:
    train, test = _on_two_sides(manifest)
    image = manifest.folder / "img"
    (image / f"{test}-good.png").write_bytes((image / f"{train}-good.png").read_bytes())
    (warning,) = _load(manifest, allow_leak=True).warnings
    assert "leaks between the sides were allowed" in warning
    assert f"(id '{test}-" in warning


def test_clean_data_has_no_warnings(manifest: ManifestBuilder) -> None:
    data = _load(manifest)
    assert data.warnings == ()
    assert (len(data.train), len(data.val), len(data.test)) == (18, 6, 6)


def test_one_label_on_a_side_is_refused_for_the_tasks_that_matter(manifest: ManifestBuilder) -> None:
    train = _load(manifest).train
    check_labels(train, Split.TRAIN, {Task.JUDGE_PAIR})
    with pytest.raises(UserError, match=r"no judge_single record of the train side is 'abnormal'; add such"):
        check_labels(train, Split.TRAIN, {Task.JUDGE_PAIR, Task.JUDGE_SINGLE})


def test_facts_are_read_again_when_a_picture_changes(manifest: ManifestBuilder) -> None:
    opened = open_manifest(manifest.write())
    cache = manifest.folder / "cache"
    first = read_pictures(opened, cache)
    assert {key: fact.sha256 for key, fact in read_pictures(opened, cache).items()} == {
        key: fact.sha256 for key, fact in first.items()
    }
    picture(12345, (50, 50)).save(manifest.folder / "img/0-ref.png")
    second = read_pictures(opened, cache)
    changed = [key for key in first if first[key].sha256 != second[key].sha256]
    assert len(changed) == 1
    assert second[changed[0]].width == 50


def test_a_declared_hash_is_checked(manifest: ManifestBuilder) -> None:
    manifest.rows[4]["images"][0]["sha256"] = "0" * 64
    with pytest.raises(UserError, match=r"mine.jsonl:5: img/1-ref.png has sha256"):
        _load(manifest)
