"""Thresholds with other validation parts, against hand computation and simulated judges."""

from __future__ import annotations

import numpy as np
import pytest

from bench.thresholds import ThresholdWorld
from tests.helpers.predictions import answers
from vlmbench.stats import Compared, Decided, Rule, compare, redraw
from vlmbench.stats.calibrate import calibrate
from vlmbench.types import Prediction, UserError

RULE = Rule(figure=Compared.BALANCED_ACCURACY)
EVEN = np.arange(12) % 2 == 0
PARTS = np.arange(12) // 2


def leaning(shifts: list[float]) -> list[Prediction]:
    """Return validation records of one part for each shift: margins of shift + 1 and shift - 1."""
    margins = [shift + sign for shift in shifts for sign in (1.0, -1.0)]
    positive = [True, False] * len(shifts)
    return answers(margins, positive, part_size=2)


def threshold(line: np.ndarray) -> float:
    return -line[1] / line[0]


def test_thresholds_deviate_as_the_parts_do() -> None:
    # Each part alone puts the threshold at its shift. The jackknife's variance of their mean is
    # that of a mean, so redrawn thresholds scatter around 3 by about the root of 2.5 / 5.
    shifts = [1.0, 2.0, 3.0, 4.0, 5.0]
    records = leaning(shifts)
    found = redraw([records], RULE)
    assert found is not None
    assert found.lines.shape == (5, 1, 2)
    assert threshold(np.array(RULE.line(calibrate(records)))) == pytest.approx(3, abs=0.01)
    scatter = [threshold(line) - 3 for line in found.lines[:, 0]]
    assert np.sqrt(np.mean(np.square(scatter))) == pytest.approx(np.sqrt(2.5 / 5), rel=0.15)
    assert np.sign(scatter).tolist() == [1, 1, pytest.approx(0, abs=1), -1, -1]


def test_a_judge_no_better_than_chance_keeps_its_own_labels() -> None:
    flat = answers([-9.0] * 20, [True, False] * 10)
    calibration = calibrate(flat)
    assert calibration.is_blind
    assert not RULE.is_positive(-9.0, calibration)
    assert RULE.is_positive(1.0, calibration)
    assert RULE.limit_score(calibration, 0.02) == pytest.approx(0.02)


def test_equal_parts_leave_the_threshold_alone() -> None:
    found = redraw([leaning([2.0] * 6)], RULE)
    assert found is not None
    assert np.ptp(found.lines[:, 0], axis=0) == pytest.approx(0, abs=1e-6)


def test_many_parts_make_ten_groups() -> None:
    found = redraw([leaning([0.0] * 37)] * 3, RULE)
    assert found is not None
    assert found.lines.shape == (10, 3, 2)


def test_there_is_nothing_to_redraw_without_a_calibration_or_with_other_parts() -> None:
    assert redraw([leaning([0.0, 1.0])], RULE) is None
    assert redraw([leaning([0.0] * 5), leaning([0.0] * 6)], RULE) is None
    assert redraw([[]], RULE) is None


def decided(redrawn: np.ndarray, parts: str = "v") -> Decided:
    return Decided(outcomes=np.ones((2, 12)), redrawn=redrawn, parts=(parts,))


def thresholds_of(a: Decided, b: Decided) -> list[float]:
    spread = compare(a, b, clusters=PARTS, positive=EVEN).spread
    assert spread is not None
    return [one.value for one in spread.thresholds]


def test_the_variance_is_that_of_what_thresholds_change() -> None:
    # One redrawn threshold of 3 loses 6 of 12 records, one of each part; the others lose none. The
    # mean square change is (1 / 2)^2 / 3. Equal parts lose equally, so nothing of it is chance.
    redrawn = np.ones((3, 2, 12))
    redrawn[0, :, EVEN] = 0
    same = decided(np.ones((3, 2, 12)))
    assert thresholds_of(decided(redrawn), same) == pytest.approx([1 / 12])
    assert thresholds_of(decided(redrawn), decided(redrawn)) == [0.0]


def test_arms_of_other_validation_parts_vary_apart() -> None:
    redrawn = np.ones((3, 2, 12))
    redrawn[0, :, EVEN] = 0
    found = thresholds_of(decided(redrawn), decided(redrawn, parts="w"))
    assert found == pytest.approx([1 / 12, 1 / 12])


def test_the_chance_of_the_test_records_is_taken_off() -> None:
    # A threshold that changes one record of one part may have changed none: chance explains it.
    redrawn = np.ones((3, 2, 12))
    redrawn[0, :, 0] = 0
    assert thresholds_of(decided(redrawn), decided(np.ones((3, 2, 12)))) == pytest.approx([0.0])


def test_the_interval_is_wider_with_thresholds() -> None:
    redrawn = np.ones((3, 2, 12))
    redrawn[0, :, EVEN] = 0
    plain = compare(np.ones((2, 12)), np.ones((2, 12)), clusters=PARTS, positive=EVEN)
    wide = compare(decided(redrawn), np.ones((2, 12)), clusters=PARTS, positive=EVEN)
    assert wide.high > 1.5 * plain.high


@pytest.mark.parametrize("shape", [(1, 2, 12), (3, 2, 11), (3, 12)])
def test_redrawn_outcomes_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"redrawn has shape .*give an array of \(groups, seeds"):
        thresholds_of(decided(np.ones(shape)), decided(np.ones((3, 2, 12))))


@pytest.mark.slow
def test_few_validation_parts_seldom_make_equal_variants_differ() -> None:
    """Three validation parts seldom show how far another choice would move the thresholds."""
    world = ThresholdWorld(validation=3, test=60, own=0.2)
    rng = world.rng()
    wrong = np.zeros(2)
    for _ in range(100):
        for rule, pair in enumerate(world.pairs(rng)):
            wrong[rule] += abs(pair.difference) > pair.spread.half_width()
    without, ours = wrong / 100
    assert ours <= 0.06
    assert without > ours
