"""Two limits with a promised error rate: conformal prediction on parts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.helpers.predictions import answers
from vlmbench.stats import Promise, promise
from vlmbench.stats.basis import Basis, Source
from vlmbench.stats.promise import least_parts
from vlmbench.types import UserError

Draw = tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.intp]]


def basis_of(margins: NDArray[np.float64], positive: NDArray[np.bool_], parts: NDArray) -> Basis:
    records = [
        replace(record, group=f"part-{part}")
        for record, part in zip(answers(margins.tolist(), positive.tolist()), parts, strict=True)
    ]
    return Basis(
        source=Source.TEST,
        records=tuple(records),
        log_odds=margins,
        checkpoints=0,
        effective_parts=50.0,
        why_not_test="",
    )


def evenly(abnormal: int, normal: int, *, distance: float) -> Basis:
    """Return single records: normal margins 1, 2, 3, ..., abnormal ones from `distance` on."""
    margins = np.array([*(distance + np.arange(abnormal)), *(1.0 + np.arange(normal))])
    positive = np.array([True] * abnormal + [False] * normal)
    return basis_of(margins, positive, np.arange(abnormal + normal))


def test_the_limits_are_order_statistics_of_single_records() -> None:
    # Of 39 abnormal margins 5, 6, ..., at most 10 % of 40 lie below the limit: 3 and the new one.
    # Of 39 normal margins 1 to 39, at most 5 % of 40 lie above: 1 and the new one.
    given = promise(evenly(39, 39, distance=5), max_miss=0.1, max_overkill=0.05)

    assert (given.pass_below, given.stop_above) == (8.0, 38.0)
    assert [given.label(margin) for margin in (7.9, 8.0, 38.0, 38.1)] == [0, None, None, 1]
    assert (given.n_abnormal, given.n_normal) == (39, 39)
    assert given.looked_at_normal.value == pytest.approx(31 / 39)


def test_limits_that_cross_become_one_and_nothing_is_looked_at() -> None:
    given = promise(evenly(40, 40, distance=100), max_miss=0.05, max_overkill=0.05)

    assert given.pass_below == given.stop_above
    assert given.looked_at_normal.value == given.looked_at_abnormal.value == 0.0


def test_a_part_with_many_records_counts_once() -> None:
    few = evenly(39, 39, distance=5)
    many = basis_of(
        np.concatenate([few.log_odds, np.full(1000, -50.0)]),
        np.concatenate([[r.expected == "abnormal" for r in few.records], np.full(1000, True)]),
        np.concatenate([np.arange(78), np.full(1000, 78)]),
    )
    given = promise(many, max_miss=0.1, max_overkill=0.05)
    # 40 abnormal parts: the new one, the large one and two others are 4 of 41.
    assert given.pass_below == 7.0


@pytest.mark.parametrize(("rate", "needed"), [(0.5, 1), (0.1, 9), (0.05, 19), (0.01, 99)])
def test_a_promise_needs_parts(rate: float, needed: int) -> None:
    assert least_parts(rate) == needed
    promise(evenly(needed, needed, distance=3), max_miss=rate, max_overkill=rate)
    if needed > 1:
        with pytest.raises(UserError, match=f"needs {needed} abnormal parts .*there are"):
            promise(evenly(needed - 1, 99, distance=3), max_miss=rate, max_overkill=rate)
    with pytest.raises(UserError, match="normal parts that chose nothing"):
        promise(evenly(99, needed, distance=3), max_miss=rate, max_overkill=rate / 2)


def test_records_that_chose_a_checkpoint_promise_nothing() -> None:
    chose = replace(evenly(40, 40, distance=3), checkpoints=5, why_not_test="the split is sealed")
    with pytest.raises(UserError, match="chose the best of 5 checkpoints"):
        promise(chose, max_miss=0.1, max_overkill=0.1)


def draw(rng: np.random.Generator, parts: int, *, spread: float, shift: float, most: int) -> Draw:
    """Return margins, labels and parts; parts differ in size and in their own mean."""
    sizes = rng.integers(1, most + 1, parts)
    positive = np.arange(parts) % 2 == 0
    means = spread * rng.standard_t(3, parts) + shift * (positive - 0.5)

    part_of = np.repeat(np.arange(parts), sizes)
    return means[part_of] + rng.normal(size=len(part_of)), positive[part_of], part_of


def error_rates(given: Promise, new: Draw) -> tuple[float, float]:
    """Return the misses and the overkill on new parts, each part with the same weight."""
    margins, positive, parts = new
    rates = []
    for label, wrong in ((True, margins < given.pass_below), (False, margins > given.stop_above)):
        _, part_of, sizes = np.unique(
            parts[positive == label], return_inverse=True, return_counts=True
        )
        rates.append(float((np.bincount(part_of, wrong[positive == label]) / sizes).mean()))
    return rates[0], rates[1]


def test_the_promise_holds_in_200_simulated_worlds() -> None:
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(200):
        world = {
            "spread": rng.uniform(0, 2),
            "shift": rng.uniform(0, 4),
            "most": int(rng.integers(1, 6)),
        }
        known = draw(rng, 44, **world)
        given = promise(basis_of(*known), max_miss=0.1, max_overkill=0.15)
        rates.append(error_rates(given, draw(rng, 400, **world)))

    misses, overkill = np.array(rates).T
    for found, promised in ((misses, 0.1), (overkill, 0.15)):
        error = found.std(ddof=1) / np.sqrt(len(found))
        assert found.mean() <= promised + 3 * error
        assert found.mean() >= promised / 2  # the promise is not kept by passing nothing


def test_planted_defects_promise_nothing() -> None:
    basis = replace(evenly(60, 60, distance=100.0), source=Source.PLANTED)
    with pytest.raises(UserError, match="are planted, and say nothing of real ones; use costs"):
        promise(basis, max_miss=0.1, max_overkill=0.1)
