"""Verdicts on cross-validations: all runs of a fold share a training set, which parts do not show.

bench.folds has many more worlds and draws.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.folds import RULES, false_verdicts
from bench.worlds import FoldWorld, equal_parts, fold_worlds
from vlmbench.stats import Folded, compare
from vlmbench.types import UserError

WORLD = FoldWorld(name="20 x 4", sizes=equal_parts(20, 4), own=0.1, spreads=(0.15, 0.15))
PARTS = np.arange(40) // 2  # 20 parts of 2 records
FOLDS = PARTS // 4  # 5 folds of 4 parts


def test_the_interval_of_equal_folds_is_students() -> None:
    # a is right where b is wrong in 1, 2, 3, 4 and 5 of the 8 records of a fold
    a = np.concatenate([np.arange(8) < right for right in range(1, 6)]).astype(float)
    found = compare([a] * 3, np.zeros((3, 40)), clusters=Folded(clusters=PARTS, folds=FOLDS))
    assert found.difference == pytest.approx(3 / 8)
    # deviation of 1..5 is sqrt(2.5) / 8; t(4) = 2.776: 2.776 x sqrt(2.5 / 5) / 8 = 0.2454
    by_folds = 2.7764 * np.sqrt(2.5 / 5) / 8
    by_parts = compare([a] * 3, np.zeros((3, 40)), clusters=PARTS)
    assert found.high - found.difference == pytest.approx(
        max(by_folds, by_parts.high - by_parts.difference), rel=1e-3
    )


def test_folds_that_differ_widen_the_interval() -> None:
    a = np.repeat([1.0, 1.0, 1.0, 0.0, 0.0], 8)  # right in three folds, wrong in two
    rows, none = [a] * 3, np.zeros((3, 40))
    alone = compare(rows, none, clusters=PARTS)
    folded = compare(rows, none, clusters=Folded(clusters=PARTS, folds=FOLDS))
    assert alone.word == "better"
    assert folded.word == "not enough data to tell"
    # shares 1, 1, 1, 0, 0: variance 0.3, so 2.776 x sqrt(0.3 / 5) = 0.68
    assert folded.high - folded.difference == pytest.approx(0.40, abs=0.01)  # cut off at 1
    assert folded.low == pytest.approx(0.6 - 0.68, abs=0.001)
    assert folded.p_value > 0.05 > alone.p_value
    assert folded.n_clusters == alone.n_clusters == 20
    assert folded.power_note == ""


def test_folds_never_narrow_an_interval() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.integers(0, 2, (2, 3, 40)).astype(float)
        alone = compare(a, b, clusters=PARTS)
        folded = compare(a, b, clusters=Folded(clusters=PARTS, folds=FOLDS))
        assert folded.difference == pytest.approx(alone.difference)
        assert folded.high - folded.low >= alone.high - alone.low - 1e-12
        assert folded.p_value >= alone.p_value - 1e-12
        assert folded.equivalence_p >= alone.equivalence_p - 1e-12


def test_auroc_is_averaged_over_folds() -> None:
    positive = np.arange(40) % 2 == 1
    offset = 100.0 * FOLDS  # each fold's model has scores of its own
    right = np.where(positive, 1.0, 0.0) + offset
    tied = offset.copy()
    clusters = Folded(clusters=PARTS, folds=FOLDS)
    found = compare(
        [right, right], [tied, tied], clusters=clusters, figure="auroc", positive=positive
    )
    assert found.difference == pytest.approx(0.5)  # 1 in each fold against 0.5 in each fold

    mixed = np.where(FOLDS < 2, right, tied)  # two of five folds are ranked
    half = compare(
        [mixed, mixed], [tied, tied], clusters=clusters, figure="auroc", positive=positive
    )
    assert half.difference == pytest.approx(0.2)
    # folds differ by 0.5, 0.5, 0, 0, 0: variance 0.075, so 2.776 x sqrt(0.075 / 5) = 0.34
    assert half.high - half.difference == pytest.approx(0.34, abs=0.001)


def test_a_fold_of_one_label_has_no_auroc() -> None:
    positive = (np.arange(40) % 2 == 1) & (FOLDS > 0)
    scores = np.zeros((2, 40))
    with pytest.raises(UserError, match="all 8 records of one fold have the same label"):
        compare(
            scores,
            scores,
            clusters=Folded(clusters=PARTS, folds=FOLDS),
            figure="auroc",
            positive=positive,
        )


def test_folds_of_other_length_are_refused() -> None:
    with pytest.raises(UserError, match="folds 39"):
        compare(
            np.zeros((2, 40)),
            np.zeros((2, 40)),
            clusters=Folded(clusters=PARTS, folds=FOLDS[:39]),
        )


@pytest.mark.parametrize(
    "world",
    [
        WORLD,
        replace(WORLD, tau=1.0),
        replace(WORLD, tau=0.5, spreads=(0.3, 0.3), same_seeds=True),
    ],
)
def test_training_sets_that_differ_keep_the_level(world: FoldWorld) -> None:
    row = false_verdicts(world, times=150)
    assert row["ours"] < 0.11  # 150 draws of 5 %: 99.9 % of counts are below 17


def test_parts_alone_do_not_see_training_sets() -> None:
    row = false_verdicts(replace(WORLD, tau=1.0), times=150)
    assert row["parts_and_seeds"] > 0.15
    assert set(RULES) < set(row)


def test_the_recorded_worlds_have_names_of_their_own() -> None:
    worlds = fold_worlds()
    assert len({repr(world) for world in worlds}) == len(worlds)
