"""Calibration and thresholds by cost, against hand computation and simulated judges."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from tests.helpers.predictions import answers
from vlmbench.stats import (
    Calibration,
    Compared,
    Rule,
    calibrate,
    calibration_shortages,
    cheapest_threshold,
    find_basis,
)
from vlmbench.stats.calibrate import fit
from vlmbench.types import Prediction, Probe, UserError


def judge(n: int, *, slope: float, intercept: float, seed: int = 0) -> list[Prediction]:
    """Return answers of a judge whose true log-odds are `slope * margin + intercept`."""
    rng = np.random.default_rng(seed)
    margins = rng.normal(0, 3, n)
    positive = rng.random(n) < 1 / (1 + np.exp(-(slope * margins + intercept)))
    return answers(margins.tolist(), positive.tolist())


def calibration(**values: float) -> Calibration:
    rest = {"n": 100, "n_parts": 50, "n_positive": 50}
    return Calibration(**{"slope": 1.0, "intercept": 0.0, **rest, **values})


def test_two_margins_are_fitted_to_platts_targets():
    # 10 records at margin -1, none positive; 10 at margin 1, all positive. Platt's targets are
    # 11/12 and 1/12. The two free parameters meet them exactly: slope = ln(11), intercept 0.
    slope, intercept = fit(np.repeat([-1.0, 1.0], 10), np.repeat([False, True], 10))
    assert slope == pytest.approx(math.log(11), rel=1e-4)
    assert intercept == pytest.approx(0, abs=1e-4)


def test_the_size_of_the_margins_does_not_matter_to_the_fit():
    positive = np.repeat([False, True], 10)
    small, _ = fit(np.repeat([-1e-4, 1e-4], 10), positive)
    large, _ = fit(np.repeat([-1e3, 1e3], 10), positive)
    assert small == pytest.approx(1e4 * math.log(11), rel=1e-3)
    assert large == pytest.approx(1e-3 * math.log(11), rel=1e-3)


@pytest.mark.parametrize("offset", [0.0, 3.0, -50.0])
def test_the_fit_is_that_of_scikit_learn(offset: float):
    from sklearn.linear_model import LogisticRegression

    # Targets between 0 and 1 are two weighted records, one of each label.
    rng = np.random.default_rng(0)
    margins = rng.normal(0, 2, 80)
    positive = margins + rng.normal(0, 2, 80) > 1
    targets = np.where(positive, (positive.sum() + 1) / (positive.sum() + 2), 0.0)
    targets[~positive] = 1 / ((~positive).sum() + 2)
    expected = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(
        np.concatenate([margins, margins])[:, None],
        np.repeat([1, 0], 80),
        sample_weight=np.concatenate([targets, 1 - targets]),
    )
    slope, intercept = fit(margins + offset, positive)
    assert slope == pytest.approx(expected.coef_[0, 0], rel=1e-4)
    assert intercept + slope * offset == pytest.approx(expected.intercept_[0], abs=1e-4)


@pytest.mark.parametrize(("slope", "intercept"), [(0.4, 0.0), (1.0, -2.0), (2.0, 1.0)])
def test_many_records_recover_the_true_parameters(slope: float, intercept: float):
    found = calibrate(judge(4000, slope=slope, intercept=intercept))
    assert found.slope == pytest.approx(slope, rel=0.15)
    assert found.intercept == pytest.approx(intercept, abs=0.25)
    assert (found.n, found.n_parts) == (4000, 4000)


def test_a_score_is_the_share_of_abnormal_records():
    found = calibrate(judge(4000, slope=0.4, intercept=-1.0))
    unseen = judge(20000, slope=0.4, intercept=-1.0, seed=1)
    scores = np.array([found.score(one.margin or 0.0) for one in unseen])
    truth = np.array([one.expected == "abnormal" for one in unseen])
    for low in np.arange(0, 1, 0.2):
        members = (scores >= low) & (scores < low + 0.2)
        if members.sum() > 500:
            assert truth[members].mean() == pytest.approx(scores[members].mean(), abs=0.03)


def test_another_prevalence_shifts_the_odds():
    # The fit has 50 % abnormal records. With 1 in 100, the odds at margin 0 are 1 to 99.
    assert calibration().score(0.0) == 0.5
    assert calibration().score(0.0, prevalence=0.01) == pytest.approx(0.01)
    assert calibration(intercept=math.log(3)).score(0.0, prevalence=0.25) == pytest.approx(0.5)


def test_a_judge_that_is_reversed_is_not_corrected():
    positive = [i % 2 == 0 for i in range(40)]
    found = calibrate(answers([-1.0 if one else 1.0 for one in positive], positive))
    assert found.is_blind
    assert found.score(5.0) == found.score(-5.0) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("positive", "part_size"),
    [([True] * 4 + [False] * 30, 1), ([True] * 30 + [False] * 4, 1), ([True, False] * 20, 20)],
    ids=["four abnormal", "four normal", "two parts"],
)
def test_too_few_records_are_refused(positive: list[bool], part_size: int):
    records = answers([1.0 if one else -1.0 for one in positive], positive, part_size=part_size)
    with pytest.raises(UserError, match="too few to calibrate"):
        calibrate(records)


@pytest.mark.parametrize(
    ("positive", "part_size", "is_rough"),
    [
        ([True] * 5 + [False] * 30, 1, True),
        ([True] * 9 + [False] * 30, 1, True),
        ([True, False] * 20, 10, True),
        ([True, False] * 20, 8, False),
    ],
    ids=["five abnormal", "nine abnormal", "four parts", "five parts"],
)
def test_few_records_are_calibrated_roughly(positive: list[bool], part_size: int, is_rough: bool):
    # All margins are 3 too high: with the judge's own threshold, everything is abnormal.
    margins = [4.0 if one else 2.0 for one in positive]
    found = calibrate(answers(margins, positive, part_size=part_size))
    assert bool(found.why_rough) is is_rough
    rule = Rule(figure=Compared.BALANCED_ACCURACY)
    assert not rule.is_positive(2.0, found)
    assert rule.is_positive(4.0, found)


def test_each_shortage_names_its_scores_and_its_reason():
    enough, few, none = (20, 10, 5), (40, 20, 4), (0, 0, 0)
    assert calibration_shortages({("judge_pair", "raw"): enough}) == []
    counts = {("judge_pair", "raw"): few, ("judge_pair", "rt"): few, ("judge_single", "raw"): none}
    pairs, single = calibration_shortages(counts)
    assert pairs.startswith(
        "scores would be calibrated only roughly (judge_pair raw, judge_pair rt): 40 validation rec"
    )
    assert single.startswith(
        "scores would not be calibrated (judge_single raw): 0 validation records of 0 parts"
    )


def test_probes_do_not_change_the_calibration():
    records = judge(200, slope=1.0, intercept=0.0)
    probes = [
        replace(one, id=f"swap:{one.id}", probe=Probe.SWAP, expected="abnormal", of=(one.id,))
        for one in records
    ]
    assert calibrate([*records, *probes]) == calibrate(records)


def threshold_for(
    records: list[Prediction], miss: float, overkill: float, prevalence: float | None = None
):
    """Return the threshold of validation records that chose nothing, without test records."""
    calibrated = calibrate(records)
    basis = find_basis(None, records, calibrated, checkpoints=1)
    return cheapest_threshold(
        basis,
        calibrated,
        cost_miss=miss,
        cost_overkill=overkill,
        prevalence=prevalence,
        seed=0,
    )


@pytest.mark.slow
def test_the_threshold_follows_from_the_costs():
    records = judge(1000, slope=1.0, intercept=0.0)
    assert threshold_for(records, 9.0, 1.0).value == pytest.approx(0.1)
    assert threshold_for(records, 1.0, 1.0).value == 0.5
    dear = threshold_for(records, 9.0, 1.0)
    cheap = threshold_for(records, 1.0, 9.0)
    assert dear.miss_rate.value < cheap.miss_rate.value
    assert dear.overkill_rate.value > cheap.overkill_rate.value


@pytest.mark.slow
def test_no_other_threshold_costs_much_less():
    records = judge(4000, slope=0.7, intercept=-0.5)
    calibrated = calibrate(records)
    chosen = threshold_for(records, 5.0, 1.0)
    assert chosen.is_cheaper
    truth = np.array([one.expected == "abnormal" for one in records])
    scores = np.array([calibrated.score(one.margin or 0.0) for one in records])
    costs = [
        5 * (truth & (scores <= line)).mean() + (~truth & (scores > line)).mean()
        for line in np.linspace(0, 1, 101)
    ]
    assert chosen.cost.low <= min(costs) <= chosen.cost.high
    assert chosen.cost.value <= min(costs) * 1.05


def test_the_cost_is_counted_by_hand():
    # 20 parts at margin -1, two of them abnormal; 20 at margin 1, two of them normal. The costs are
    # equal, so the threshold is 0.5, between the two: 4 wrong of 40, and each costs 3.
    positive = [i < 2 for i in range(20)] + [i >= 2 for i in range(20)]
    found = threshold_for(answers([-1.0] * 20 + [1.0] * 20, positive), 3.0, 3.0)
    assert found.cost.value == pytest.approx(3 * 4 / 40)
    assert (found.miss_rate.value, found.miss_rate.n) == (0.1, 20)
    assert (found.overkill_rate.value, found.overkill_rate.n) == (0.1, 20)
    assert found.cost.low < 0.3 < found.cost.high
    assert found.cost_without_model == 1.5
    assert found.saving.value == pytest.approx(1.2)
    assert found.is_cheaper
    # With 1 abnormal part in 10, a record has 0.1 * 0.1 misses and 0.9 * 0.1 overkills. Passing
    # every part costs 0.1 * 3.
    rare = threshold_for(answers([-1.0] * 20 + [1.0] * 20, positive), 3.0, 3.0, prevalence=0.1)
    assert rare.cost_without_model == pytest.approx(0.3)
    assert rare.rule_without_model == "pass every part"


def test_a_random_judge_is_no_cheaper_than_no_model():
    rng = np.random.default_rng(0)
    records = answers(rng.normal(0, 1, 200).tolist(), (rng.random(200) < 0.5).tolist())
    found = threshold_for(records, 10.0, 1.0)
    assert not found.is_cheaper
    assert found.saving.low < found.saving.value < found.saving.high
    assert found.rule_without_model == "stop every part"
