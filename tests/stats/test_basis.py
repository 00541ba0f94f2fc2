"""The records that a run's decisions are measured on, and a simulation of what choosing does."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from tests.helpers.predictions import answers
from vlmbench.stats import (
    Calibration,
    Source,
    Threshold,
    calibrate,
    cheapest_threshold,
    find_basis,
)
from vlmbench.types import PLANTED, Prediction, Probe, UserError

SKILL = 1.0  # mean margin of an abnormal part, and minus that of a normal one; deviation 1
CHECKPOINTS = 20
DRAWS = 60


def judged(
    rng: np.random.Generator, n: int, *, part_size: int = 1, name: str = "r"
) -> list[Prediction]:
    """Return answers of a judge with SKILL to n records, every second part abnormal."""
    positive = np.arange(n) // part_size % 2 == 0
    margins = rng.normal(np.where(positive, SKILL, -SKILL), 1.0)
    made = answers(margins.tolist(), positive.tolist(), part_size=part_size)
    return [replace(one, id=f"{name}{one.id}", group=f"{name}{one.group}") for one in made]


def follow(records: list[Prediction], parts: int) -> list[Prediction]:
    """Return the records with the first parts marked as followed by training."""
    names = list(dict.fromkeys(one.cluster for one in records))[:parts]
    return [replace(one, followed=one.cluster in names) for one in records]


def source_of(test: list[Prediction] | None, validation: list[Prediction], checkpoints: int = 20):
    return find_basis(test, validation, calibrate(validation), checkpoints=checkpoints)


def test_test_records_come_first() -> None:
    rng = np.random.default_rng(0)
    test, validation = judged(rng, 40, name="t"), judged(rng, 40)
    basis = source_of(test, validation)
    assert basis.source is Source.TEST
    assert list(basis.records) == test
    assert not basis.chose
    assert not basis.is_small
    assert basis.effective_parts == 20
    assert basis.why_not_test == ""

    calibration = calibrate(validation)
    expected = [calibration.slope * (one.margin or 0) + calibration.intercept for one in test]
    assert basis.log_odds == pytest.approx(expected)
    right = [one.expected == "abnormal" for one in test]
    losses = [math.log1p(math.exp(-x if r else x)) for x, r in zip(expected, right, strict=True)]
    assert basis.log_loss == pytest.approx(np.mean(losses))


def test_probes_and_records_of_strangers_are_no_test_records() -> None:
    rng = np.random.default_rng(0)
    test, validation = judged(rng, 40, name="t"), judged(rng, 40)
    odd = [
        replace(test[0], probe=Probe.SWAP, of=("x",)),
        replace(test[0], scores={}),
        replace(test[0], scores={"yes": 0.0, "no": 1.0}),
        replace(test[0], expected="perhaps"),
        replace(test[0], scores={"normal": -1e308, "abnormal": 1e308}),
    ]
    assert list(source_of([*odd, *test], validation).records) == test
    generated = source_of([replace(one, scores={}) for one in test], validation)
    assert generated.source is Source.VALIDATION
    assert generated.why_not_test == "the run has no test records with scores"


@pytest.mark.parametrize(("parts", "source"), [(19, Source.VALIDATION), (20, Source.TEST)])
def test_ten_parts_of_each_label_are_enough(parts: int, source: Source) -> None:
    # 20 parts of 3 records, every second part abnormal: 10 parts of each label. One part less
    # leaves 9 normal parts.
    rng = np.random.default_rng(0)
    basis = source_of(judged(rng, 3 * parts, part_size=3, name="t"), judged(rng, 60))
    assert basis.source is source
    if source is Source.VALIDATION:
        assert basis.why_not_test == (
            "the test split is too small: 57 records of 19 parts tell as much as 9 equal parts of "
            "the rarer label, and 10 are needed"
        )


def test_a_sealed_test_split_leaves_the_parts_that_training_did_not_follow() -> None:
    rng = np.random.default_rng(0)
    validation = follow(judged(rng, 60), parts=40)
    basis = source_of(None, validation)
    assert basis.source is Source.UNFOLLOWED
    assert [one.id for one in basis.records] == [one.id for one in validation[40:]]
    assert not basis.chose
    assert basis.why_not_test == "the test split is sealed"

    whole = source_of(None, validation, checkpoints=1)
    assert whole.source is Source.VALIDATION
    assert len(whole.records) == 60
    assert basis.log_odds.tolist() == whole.log_odds[40:].tolist()


def test_validation_records_that_chose_say_among_how_many() -> None:
    rng = np.random.default_rng(0)
    validation = judged(rng, 60)
    for records in (follow(validation, parts=41), validation):  # 19 parts are left, or unknown
        basis = source_of(None, records)
        assert basis.source is Source.VALIDATION
        assert basis.chose
        assert basis.checkpoints == 20
    assert not source_of(None, validation, checkpoints=1).chose


def test_few_test_parts_are_taken_where_validation_has_no_more() -> None:
    rng = np.random.default_rng(0)
    basis = source_of(judged(rng, 18, name="t"), judged(rng, 80, part_size=5))
    assert basis.source is Source.TEST
    assert basis.is_small


def test_too_few_validation_records_are_refused() -> None:
    calibration = Calibration(slope=1, intercept=0, n=40, n_parts=40, n_positive=20)
    with pytest.raises(UserError, match="too few to calibrate"):
        find_basis(None, judged(np.random.default_rng(0), 8), calibration, checkpoints=0)


def test_the_cost_on_test_records_is_counted_by_hand() -> None:
    # The calibration is the model's own odds, so the threshold of costs 3 to 1 is 0.25: margin
    # -ln(3) = -1.1. 10 abnormal parts at -2 and 10 at 2; 10 normal parts at -1 and 10 at -2:
    # 10 misses of 3 and 10 overkills of 1, in 40 records. To stop every part costs 20 / 40.
    margins = [-2.0] * 10 + [2.0] * 10 + [-1.0] * 10 + [-2.0] * 10
    test = answers(margins, [True] * 20 + [False] * 20)
    calibration = Calibration(slope=1, intercept=0, n=40, n_parts=40, n_positive=20)
    basis = find_basis(test, [], calibration, checkpoints=20)
    found = threshold_of(basis, calibration, miss=3.0)
    assert found.cost.value == pytest.approx(1.0)
    assert (found.miss_rate.value, found.overkill_rate.value) == (0.5, 0.5)
    assert found.cost_without_model == pytest.approx(0.5)
    assert found.saving.value == pytest.approx(-0.5)
    assert found.saving.high < 0
    assert not found.is_cheaper
    assert (found.measured_on, found.checkpoints) == (Source.TEST, 0)


def threshold_of(basis, calibration: Calibration, *, miss: float) -> Threshold:
    return cheapest_threshold(
        basis, calibration, cost_miss=miss, cost_overkill=1.0, prevalence=None, seed=0
    )


def true_cost(calibration: Calibration, *, miss: float) -> float:
    """Return the expected cost of a record of `judged` at the threshold for these costs."""
    margin = (-math.log(miss) - calibration.intercept) / calibration.slope
    return 0.5 * miss * float(norm.cdf(margin - SKILL)) + 0.5 * float(norm.sf(margin + SKILL))


def balanced_accuracy(records: list[Prediction]) -> float:
    positive = np.array([one.expected == "abnormal" for one in records])
    right = np.array([one.correct for one in records])
    return float((right[positive].mean() + right[~positive].mean()) / 2)


def plant(records: list[Prediction]) -> list[Prediction]:
    """Return the records with planted defects in place of real ones."""
    return [
        replace(one, meta={PLANTED: "hole"}) if one.expected == "abnormal" else one
        for one in records
    ]


def test_planted_defects_are_measured_on_only_if_there_is_no_real_one() -> None:
    rng = np.random.default_rng(0)
    validation = plant(judged(rng, 40))
    assert calibrate(validation).n_planted == calibrate(validation).n_positive == 20
    assert calibrate(judged(rng, 40)).n_planted == 0

    test = judged(rng, 12, name="t")
    few = source_of(test, validation)
    assert few.source is Source.TEST  # 6 parts with real defects, against 20 planted ones
    assert few.is_small

    good = [one for one in test if one.expected == "normal"]
    basis = source_of(good, validation)
    assert basis.source is Source.PLANTED
    assert basis.why_not_test == "the test split has no abnormal record"
    assert basis.summary()["records"] == "planted"
    assert source_of(good, follow(validation, parts=0)).source is Source.PLANTED
    assert source_of(None, validation).source is Source.PLANTED


@pytest.mark.slow
def test_the_cost_of_the_chosen_checkpoint_is_its_true_cost() -> None:
    """Among 20 equal checkpoints, the best on the followed records is kept.

    Costs of test records and of records that training did not follow are right on average. Costs of
    the records that chose are too low, and their basis says so.
    """
    rng = np.random.default_rng(0)
    sources = (Source.TEST, Source.UNFOLLOWED, Source.VALIDATION)
    errors: dict[Source, list[float]] = {source: [] for source in sources}

    for _ in range(DRAWS):
        drawn = [judged(rng, 60) for _ in range(CHECKPOINTS)]
        best = max(range(CHECKPOINTS), key=lambda each: balanced_accuracy(drawn[each][:40]))
        validation = follow(drawn[best], parts=40)
        calibration = calibrate(validation)
        truth = true_cost(calibration, miss=2.0)

        for test, records in (
            (judged(rng, 40, name="t"), validation),
            (None, validation),
            (None, follow(validation[:40], parts=40)),
        ):
            basis = find_basis(test, records, calibration, checkpoints=CHECKPOINTS)
            assert basis.chose is (basis.source is Source.VALIDATION)
            found = threshold_of(basis, calibration, miss=2.0)
            errors[basis.source].append(found.cost.value - truth)

    mean = {source: float(np.mean(values)) for source, values in errors.items()}
    error = {s: float(np.std(values) / np.sqrt(len(values))) for s, values in errors.items()}
    assert [len(values) for values in errors.values()] == [DRAWS] * 3
    for source in (Source.TEST, Source.UNFOLLOWED):
        assert abs(mean[source]) < 3 * error[source], (source, mean, error)
    assert mean[Source.VALIDATION] < -5 * error[Source.VALIDATION], (mean, error)
