"""ROC curves and their bands, against curves computed by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from vlmbench.stats import GRID, RocBand, roc_band
from vlmbench.types import Prediction, Task


def scored(rows: Sequence[tuple[str, float]], *, parts: int | None = None) -> list[Prediction]:
    """Return a prediction for each (true label, probability of abnormal).

    `parts` take the records in turn; None gives every record a part of its own.
    """
    return [
        Prediction(
            id=f"r{i}",
            task=Task.JUDGE_PAIR,
            group=f"g{i if parts is None else i % parts}",
            view="raw",
            expected=label,
            predicted=None,
            scores={"abnormal": math.log(share), "normal": math.log(1 - share)},
        )
        for i, (label, share) in enumerate(rows)
    ]


def drawn(*runs: list[Prediction]) -> RocBand:
    band = roc_band(runs, seed=0)
    assert band is not None
    return band


def at(values: np.ndarray, share: float) -> float:
    return float(values[np.argmin(np.abs(GRID - share))])


FOUR = [("abnormal", 0.9), ("normal", 0.8), ("abnormal", 0.7), ("normal", 0.1)]


def test_the_curve_is_the_one_drawn_by_hand() -> None:
    # (0, 1/2) after the first abnormal, then to (1/2, 1/2), up to (1/2, 1), and across
    band = drawn(scored(FOUR))
    assert [at(band.rate, share) for share in (0.0, 0.25, 0.49, 0.5, 0.75, 1.0)] == [
        0.5,
        0.5,
        0.5,
        1.0,
        1.0,
        1.0,
    ]
    assert (band.n_positive, band.n_negative, band.n_parts, band.n_seeds) == (2, 2, 4, 1)


def test_records_of_one_score_are_one_step_across() -> None:
    # all alike: the threshold takes all or none, so the curve is the diagonal
    band = drawn(scored([("abnormal", 0.5), ("normal", 0.5)] * 3))
    assert np.allclose(band.rate, GRID)


def test_seeds_are_averaged_at_equal_false_positive_rates() -> None:
    # every pair is in the wrong order
    reversed_scores = [
        ("abnormal", 0.1),
        ("normal", 0.8),
        ("abnormal", 0.2),
        ("normal", 0.9),
    ]
    band = drawn(scored(FOUR), scored(reversed_scores))
    assert at(band.rate, 0.25) == pytest.approx((0.5 + 0.0) / 2)
    assert at(band.rate, 0.75) == pytest.approx((1.0 + 0.0) / 2)
    assert band.n_seeds == 2


def test_the_order_of_records_does_not_matter() -> None:
    rows = scored(FOUR * 5, parts=7)
    forward, backward = drawn(rows), drawn(rows[::-1])
    for name in ("rate", "low", "high"):
        assert np.array_equal(getattr(forward, name), getattr(backward, name))


def test_bounds_hold_the_curve_and_never_fall() -> None:
    rng = np.random.default_rng(3)
    rows = [
        (label, float(share))
        for label in ("normal", "abnormal")
        for share in rng.uniform(0.01, 0.99, 40) ** (2.0 if label == "normal" else 0.7)
    ]
    band = drawn(scored(rows, parts=16))
    assert (band.low <= band.rate).all()
    assert (band.rate <= band.high).all()
    assert (np.diff(band.low) >= 0).all()
    assert (np.diff(band.high) >= 0).all()
    assert 0.05 < at(band.high - band.low, 0.3) < 0.6


def test_a_perfect_judge_of_few_parts_has_wilsons_margin() -> None:
    band = drawn(scored([("abnormal", 0.9), ("normal", 0.1)] * 10))
    # no resample differs; 10 parts have positives: 1.96^2 / (10 + 1.96^2)
    assert at(band.low, 0.5) == pytest.approx(1 - 3.8415 / 13.8415, abs=1e-4)
    assert at(band.high, 0.5) == 1.0


def test_the_band_covers_the_true_curve() -> None:
    # Scores are normal with means 0 and 1. At a false-positive rate of 0.2 the true-positive rate
    # is 1 - Phi(0.8416 - 1) = 0.5629.
    hits = 0
    for draw in range(60):
        rng = np.random.default_rng([5, draw])
        margins = [("normal", m) for m in rng.normal(0, 1, 60)] + [
            ("abnormal", m) for m in rng.normal(1, 1, 60)
        ]
        rows = [(label, 1 / (1 + math.exp(-m))) for label, m in margins]
        band = roc_band([scored(rows)], seed=draw, resamples=200)
        assert band is not None
        hits += at(band.low, 0.2) <= 0.5629 <= at(band.high, 0.2)
    assert hits >= 52  # of 60; 57 expected


def test_whole_parts_are_drawn_so_that_alike_records_widen_the_band() -> None:
    rng = np.random.default_rng(2)
    parts = [
        (label, float(s)) for label in ("normal", "abnormal") for s in rng.uniform(0.1, 0.9, 15)
    ]
    rows = [row for row in parts for _ in range(8)]
    names = [f"part-{i}" for i in range(len(parts)) for _ in range(8)]
    alike = [
        Prediction(
            id=p.id,
            task=p.task,
            group=name,
            view=p.view,
            expected=p.expected,
            predicted=None,
            scores=p.scores,
        )
        for p, name in zip(scored(rows), names, strict=True)
    ]
    together, apart = drawn(alike), drawn(scored(rows))
    assert at(together.high - together.low, 0.5) > 1.8 * at(apart.high - apart.low, 0.5)


def test_one_label_or_no_scores_give_no_curve() -> None:
    assert roc_band([scored([("normal", 0.2), ("normal", 0.3)])], seed=0) is None
    unscored = Prediction(
        id="r", task=Task.JUDGE_PAIR, group="g", view="raw", expected="normal", predicted="normal"
    )
    assert roc_band([[*scored(FOUR), unscored]], seed=0) is None
    assert roc_band([], seed=0) is None


def test_one_part_gives_the_widest_band() -> None:
    band = drawn(scored(FOUR, parts=1))
    assert band.low.max() == 0.0
    assert band.high.min() == 1.0
