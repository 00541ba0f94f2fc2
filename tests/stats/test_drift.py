"""Drift of scores: seldom seen where there is none, and seen where there is some."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, ks_2samp

from vlmbench.stats import drift as module
from vlmbench.stats.drift import LEVEL, MIN_PARTS, Drift, find_drift


def scores_of(
    rng: np.random.Generator, parts: int, records: int, *, likeness: float, shift: float = 0.0
) -> tuple[list[float], list[str]]:
    """Return scores of parts whose records are alike, and the part of each."""
    own = rng.normal(shift, 1, parts)
    noise = rng.normal(0, 1, (parts, records))
    scores = np.sqrt(likeness) * (own[:, None] - shift) + np.sqrt(1 - likeness) * noise + shift
    names = np.repeat([f"p{number}" for number in range(parts)], records)
    return scores.ravel().tolist(), names.tolist()


def drift_of(rng: np.random.Generator, shift: float, *, likeness: float, parts: int) -> Drift:
    new, new_parts = scores_of(rng, parts, 4, likeness=likeness, shift=shift)
    earlier, earlier_parts = scores_of(rng, 2 * parts, 3, likeness=likeness)
    found = find_drift(new, earlier, new_parts=new_parts, earlier_parts=earlier_parts)
    assert found is not None
    return found


@pytest.mark.parametrize("likeness", [0.0, 0.9])
def test_equal_worlds_are_seldom_called_drifted(
    likeness: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records of a part that are alike would deceive a test of single records."""
    monkeypatch.setattr(module, "DRAWS", 199)
    rng = np.random.default_rng(1)
    found = [drift_of(rng, 0.0, likeness=likeness, parts=12) for _ in range(200)]
    low = sum(one.p_value < 0.05 for one in found)
    assert low <= binom.ppf(0.999, 200, 0.05)
    assert sum(one.has_drifted for one in found) <= binom.ppf(0.999, 200, LEVEL)


@pytest.mark.parametrize(("shift", "sign"), [(1.5, 1), (-1.5, -1)])
def test_a_shift_is_found_with_its_sign(shift: float, sign: int) -> None:
    rng = np.random.default_rng(2)
    found = [drift_of(rng, shift, likeness=0.5, parts=30) for _ in range(10)]
    assert all(one.has_drifted for one in found)
    assert all(np.sign(one.shift) == sign for one in found)
    assert found[0].n == (120, 180)
    assert found[0].n_parts == (30, 60)


def test_the_distance_is_that_of_kolmogorov_and_smirnov_ties_too() -> None:
    rng = np.random.default_rng(3)
    new, earlier = rng.integers(0, 6, 40).tolist(), rng.integers(1, 9, 60).tolist()
    found = find_drift(
        new,
        earlier,
        new_parts=[str(i) for i in range(40)],
        earlier_parts=[str(i) for i in range(60)],
    )
    assert found is not None
    assert abs(found.shift) == pytest.approx(ks_2samp(new, earlier).statistic)


@pytest.mark.parametrize("few", ["new", "earlier"])
def test_few_parts_tell_nothing_however_many_their_records(few: str) -> None:
    many = [f"p{number}" for number in range(100)]
    little = [f"p{number % (MIN_PARTS - 1)}" for number in range(100)]
    scores = [float(number) for number in range(100)]
    new_parts, earlier_parts = (little, many) if few == "new" else (many, little)
    assert find_drift(scores, scores, new_parts=new_parts, earlier_parts=earlier_parts) is None


def test_a_part_of_the_same_name_is_another_part_on_each_page() -> None:
    names = [f"p{number}" for number in range(MIN_PARTS)]
    low, high = [0.0] * MIN_PARTS, [1.0] * MIN_PARTS
    found = find_drift(high, low, new_parts=names, earlier_parts=names)
    assert found is not None
    assert found.shift == 1
    assert found.has_drifted
