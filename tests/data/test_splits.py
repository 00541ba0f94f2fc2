"""Splits: no part, no image and no near-duplicate is in two of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ManifestBuilder, image
from vlmbench.data.images import ImageFacts
from vlmbench.data.load import load_data, read_images
from vlmbench.data.manifest import SPLITS, open_manifest
from vlmbench.data.records import check_labels, records_of_split
from vlmbench.data.splits import find_leaks, split_records
from vlmbench.types import Split, Task, UserError

SHARES = {Split.TRAIN: 0.6, Split.VAL: 0.2, Split.TEST: 0.2}


def test_shares_are_met_in_whole_parts(manifest: ManifestBuilder) -> None:
    records = open_manifest(manifest.write())
    splits = split_records(records, SHARES, seed=0)

    assert np.bincount(splits).tolist() == [18, 6, 6]  # 6, 2 and 2 of ten parts, 3 records each
    splits_of_part = defaultdict(set)
    for record, split in zip(records, splits, strict=True):
        splits_of_part[record.group].add(int(split))
    assert all(len(of_part) == 1 for of_part in splits_of_part.values())


def test_three_parts_fill_three_splits(manifest: ManifestBuilder) -> None:
    manifest.rows = manifest.rows[:9]
    records = open_manifest(manifest.write())
    splits = split_records(records, {Split.TRAIN: 0.7, Split.VAL: 0.1, Split.TEST: 0.2}, seed=0)
    assert np.bincount(splits).tolist() == [3, 3, 3]


def test_a_split_depends_on_the_seed_and_not_on_the_order_of_rows(
    manifest: ManifestBuilder,
) -> None:
    def by_id(seed: int) -> dict[str, int]:
        records = open_manifest(manifest.write())
        splits = split_records(records, SHARES, seed=seed)
        return {record.id: int(split) for record, split in zip(records, splits, strict=True)}

    first, other_seed = by_id(0), by_id(1)
    manifest.rows.reverse()

    assert by_id(0) == first
    assert other_seed != first


def test_parts_that_share_an_image_stay_together(manifest: ManifestBuilder) -> None:
    for number in range(0, 10, 2):
        manifest.rows[3 * number]["images"][0]["path"] = f"img/{number + 1}-ref.png"
    records = open_manifest(manifest.write())
    for seed in range(5):
        splits = split_records(records, SHARES, seed=seed)
        split_of = {record.group: split for record, split in zip(records, splits, strict=True)}

        for number in range(0, 10, 2):
            assert split_of[f"part-{number}"] == split_of[f"part-{number + 1}"]
        assert find_leaks(records, splits, None) == []


def test_one_reference_for_all_is_refused_and_the_cure_works(manifest: ManifestBuilder) -> None:
    for row in manifest.rows:
        row["images"][0]["path"] = "img/0-ref.png"
    records = open_manifest(manifest.write())

    with pytest.raises(
        UserError, match=r"30 of 30 records share parts or images.*data.allow_leak=true"
    ):
        split_records(records, SHARES, seed=0)

    splits = split_records(records, SHARES, seed=0, by_part_only=True)
    assert np.bincount(splits).tolist() == [18, 6, 6]
    assert {leak.shared for leak in find_leaks(records, splits, None)} == {"the same image"}


def test_a_fixed_split_is_kept_and_its_leak_is_found(manifest: ManifestBuilder) -> None:
    manifest.rows[0]["split"] = "train"
    manifest.rows[1]["split"] = "test"
    records = open_manifest(manifest.write())
    splits = split_records(records, SHARES, seed=0)
    assert [SPLITS[split] for split in splits[:3]] == [Split.TRAIN, Split.TEST, Split.TRAIN]
    leaks = find_leaks(records, splits, None)
    assert (0, 1) in {(leak.first, leak.second) for leak in leaks}
    assert all(1 in (leak.first, leak.second) for leak in leaks)


def _load(manifest: ManifestBuilder, **changes: bool) -> object:
    records = open_manifest(manifest.write())
    settings = {
        "split_seed": 0,
        "allow_leak": False,
        "cache_dir": manifest.folder / "cache",
        **changes,
    }
    return load_data(records, SHARES, **settings)


def _in_two_splits(manifest: ManifestBuilder) -> tuple[int, int]:
    """Return the numbers of a part of the training split and of a part of the test split."""
    records = open_manifest(manifest.write())
    splits = split_records(records, SHARES, seed=0)
    train = records_of_split(records, splits, Split.TRAIN)[0].group
    test = records_of_split(records, splits, Split.TEST)[0].group

    return int(train.removeprefix("part-")), int(test.removeprefix("part-"))


def test_the_same_file_under_two_names_is_a_leak_that_names_both_rows(
    manifest: ManifestBuilder,
) -> None:
    train, test = _in_two_splits(manifest)
    image = manifest.folder / "img"
    (image / f"{test}-good.png").write_bytes((image / f"{train}-good.png").read_bytes())

    with pytest.raises(UserError) as raised:
        _load(manifest)

    message = str(raised.value)
    assert "the same image content" in message
    for number in (train, test):  # the image is in two records of its part
        rows = [
            f"mine.jsonl:{3 * number + 1} (id '{number}-good'",
            f"mine.jsonl:{3 * number + 3} (id '{number}-single'",
        ]
        assert any(row in message for row in rows)
    assert "data.allow_leak=true" in message


def test_an_image_saved_again_is_a_near_duplicate(manifest: ManifestBuilder) -> None:
    train, test = _in_two_splits(manifest)
    image = manifest.folder / "img"
    again = Image.open(image / f"{train}-bad.png").resize((96, 84), Image.Resampling.BICUBIC)
    again.save(image / f"{test}-bad.png")
    with pytest.raises(UserError, match="images that look the same"):
        _load(manifest)


def test_an_allowed_leak_is_a_warning(manifest: ManifestBuilder) -> None:
    train, test = _in_two_splits(manifest)
    image = manifest.folder / "img"
    (image / f"{test}-good.png").write_bytes((image / f"{train}-good.png").read_bytes())
    (warning,) = _load(manifest, allow_leak=True).warnings
    assert "leaks between the splits were allowed" in warning
    assert f"(id '{test}-" in warning


def test_clean_data_has_no_warnings(manifest: ManifestBuilder) -> None:
    data = _load(manifest)
    assert data.warnings == ()
    assert (len(data.train), len(data.val), len(data.test)) == (18, 6, 6)


def test_one_label_in_a_split_is_refused_for_the_chosen_tasks(
    manifest: ManifestBuilder,
) -> None:
    train = _load(manifest).train
    check_labels(train, Split.TRAIN, {Task.JUDGE_PAIR})
    with pytest.raises(
        UserError,
        match=r"the train split has no judge_single record with the label 'abnormal'; add",
    ):
        check_labels(train, Split.TRAIN, {Task.JUDGE_PAIR, Task.JUDGE_SINGLE})


def test_facts_are_read_again_when_an_image_changes(manifest: ManifestBuilder) -> None:
    records = open_manifest(manifest.write())
    cache = manifest.folder / "cache"

    def hashes(facts: Mapping[int, ImageFacts]) -> dict[int, str]:
        return {key: fact.sha256 for key, fact in facts.items()}

    first = read_images(records, cache)
    assert hashes(read_images(records, cache)) == hashes(first)

    image(12345, (50, 50)).save(manifest.folder / "img/0-ref.png")
    second = read_images(records, cache)
    changed = [key for key in first if first[key].sha256 != second[key].sha256]
    assert len(changed) == 1
    assert second[changed[0]].width == 50


def test_a_declared_hash_is_checked(manifest: ManifestBuilder) -> None:
    manifest.rows[4]["images"][0]["sha256"] = "0" * 64
    with pytest.raises(UserError, match=r"mine.jsonl:5: img/1-ref.png has sha256"):
        _load(manifest)
