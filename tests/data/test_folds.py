"""Folds: every part is tested once, and no fold trains on what it tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ManifestBuilder
from vlmbench.data.load import Data, load_data
from vlmbench.data.manifest import SPLITS, open_manifest
from vlmbench.data.splits import split_records
from vlmbench.data.test_hash import hash_test_split
from vlmbench.types import Fold, Split, UserError

SHARES = {Split.TRAIN: 0.6, Split.VAL: 0.2, Split.TEST: 0.2}
TRAIN, VAL, TEST = (SPLITS.index(split) for split in (Split.TRAIN, Split.VAL, Split.TEST))


def load(manifest: ManifestBuilder, fold: Fold | None, **given: bool) -> Data:
    return load_data(
        open_manifest(manifest.write()),
        SHARES,
        split_seed=0,
        allow_leak=False,
        cache_dir=manifest.folder / "cache",
        fold=fold,
        **given,
    )


@pytest.mark.parametrize("number", [2, 3, 5, 10])
def test_every_part_is_tested_once(manifest: ManifestBuilder, number: int) -> None:
    records = open_manifest(manifest.write())
    tested = np.zeros(len(records), dtype=int)
    for index in range(number):
        splits = split_records(records, SHARES, seed=0, fold=Fold(index, number))
        tested += splits == TEST
        of_split = [set(records.groups[splits == split].tolist()) for split in (TRAIN, VAL, TEST)]
        assert not of_split[0] & of_split[2]
        assert not of_split[1] & of_split[2]
        assert all(of_split)
    assert (tested == 1).all()


def test_the_rest_is_divided_by_its_shares(manifest: ManifestBuilder) -> None:
    records = open_manifest(manifest.write())
    splits = [split_records(records, SHARES, seed=0, fold=Fold(k, 5)) for k in range(5)]
    # ten parts of 3 records: 2 test; of the other 8, a quarter validates
    assert [np.bincount(one).tolist() for one in splits] == [[18, 6, 6]] * 5

    validated = [frozenset(records.groups[one == VAL].tolist()) for one in splits]
    assert len(set(validated)) == 5  # folds differ in their validation sets too


def test_a_large_component_leaves_no_fold_empty(manifest: ManifestBuilder) -> None:
    for number in range(7):  # seven of ten parts share an image
        manifest.rows[3 * number]["images"][0]["path"] = "img/0-ref.png"
    records = open_manifest(manifest.write())
    tested = np.zeros(len(records), dtype=int)
    for index in range(4):
        is_tested = split_records(records, SHARES, seed=0, fold=Fold(index, 4)) == TEST
        assert is_tested.any()
        tested += is_tested
    assert (tested == 1).all()


def test_more_folds_than_components_are_refused_with_their_number(
    manifest: ManifestBuilder,
) -> None:
    records = open_manifest(manifest.write())
    with pytest.raises(UserError, match=r"data.folds=11 needs .* there are 10; set data.folds=10"):
        split_records(records, SHARES, seed=0, fold=Fold(0, 11))
    split_records(records, SHARES, seed=0, fold=Fold(0, 10))


def test_a_fixed_split_has_no_folds(manifest: ManifestBuilder) -> None:
    manifest.rows[4]["split"] = "test"
    records = open_manifest(manifest.write())
    expected = r"mine.jsonl:5: this row and 0 others have a fixed split.* set data.folds=null"
    with pytest.raises(UserError, match=expected):
        split_records(records, SHARES, seed=0, fold=Fold(0, 5))


def test_folds_need_parts_that_train(manifest: ManifestBuilder) -> None:
    records = open_manifest(manifest.write())
    shares = {Split.TRAIN: 0.0, Split.VAL: 0.0, Split.TEST: 1.0}
    with pytest.raises(UserError, match=r"data\.folds needs a share of parts that train"):
        split_records(records, shares, seed=0, fold=Fold(0, 5))


def test_all_folds_are_one_test_split(manifest: ManifestBuilder) -> None:
    folds = [load(manifest, Fold(k, 5)) for k in range(5)]
    assert len({hash_test_split(data) for data in folds}) == 1
    assert hash_test_split(load(manifest, None)) != hash_test_split(folds[0])
    assert sum(len(data.test) for data in folds) == 30


def test_folds_keep_look_alikes_together(manifest: ManifestBuilder) -> None:
    folder: Path = manifest.folder / "img"
    for number in range(1, 4):
        (folder / f"{number}-bad.png").write_bytes((folder / "0-bad.png").read_bytes())
    for index in range(5):
        data = load(manifest, Fold(index, 5), group_alike=True)
        assert not data.leaks
