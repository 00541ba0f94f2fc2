from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from vlmbench.stats import estimate
from vlmbench.types import Difference, Estimate, Prediction, Probe, Rate, Task

OK, NG = "normal", "abnormal"


def accuracy(predictions: Sequence[Prediction]) -> dict[str, Rate | float]:
    hits, parts = tuple(p.correct for p in predictions), tuple(p.group for p in predictions)
    return {"accuracy": Rate(hits=hits, parts=parts)}


def mean(predictions: Sequence[Prediction]) -> dict[str, Rate | float]:
    return {"mean": sum(p.correct for p in predictions) / len(predictions)}


def run(hits: Sequence[bool | int], *, part_size: int = 1, expected: str = OK) -> list[Prediction]:
    """Return a record for each hit; neighbours share a part."""
    return [
        Prediction(
            id=f"r{i}",
            task=Task.JUDGE_PAIR,
            group=f"part-{i // part_size}",
            view="raw",
            expected=expected,
            predicted=expected if hit else None,
        )
        for i, hit in enumerate(hits)
    ]


def rate(hits: Sequence[bool | int], *, part_size: int = 1) -> Estimate:
    return estimate(accuracy, run(hits, part_size=part_size), seed=0)["accuracy"]


def bounds(found: Estimate) -> tuple[float, float]:
    return found.low, found.high


def first(k: int, n: int) -> list[bool]:
    """Return hits on the first k of n records."""
    return [i < k for i in range(n)]


# estimate: rates


def test_the_interval_of_independent_records_is_wilsons():
    # 9 of 10, z = 1.96: (0.9 + z^2/20 +- z sqrt(0.09/10 + z^2/400)) / (1 + z^2/10)
    # = 0.7890 +- 0.1931
    found = rate(first(9, 10))
    assert found.value == 0.9
    assert bounds(found) == pytest.approx((0.5959, 0.9821), abs=2e-4)
    assert (found.n, found.n_parts) == (10, 10)


def test_a_rate_of_one_has_an_interval():
    # Wilson for n of n: n / (n + z^2) = 10 / 13.8415
    assert bounds(rate([1] * 10)) == pytest.approx((0.7225, 1.0), abs=1e-4)


def test_records_of_one_part_that_are_alike_count_little_more_than_once():
    # 10 parts of 2 alike records, 8 of them right. The parts' residuals are 8 x 0.4 and 2 x -1.6:
    # squares 6.4, times 10/9 = 7.111. Half a miss in a part of 2 gives the design effect
    # (7.111 + 1) / (20 x 0.16 + 0.5) = 2.192, so 9.123 effective records.
    # Wilson with t(9) = 2.2622: 0.6922 +- 0.2629
    found = rate(first(16, 20), part_size=2)
    assert bounds(found) == pytest.approx((0.4293, 0.9551), abs=2e-4)
    assert (found.n, found.n_parts) == (20, 10)
    assert found.high - found.low > (alone := rate(first(16, 20))).high - alone.low


def test_groups_without_a_miss_count_as_one_record_each():
    # 5 parts of 4, all right: 5 / (5 + t(4)^2) with t = 2.7764
    assert bounds(rate([1] * 20, part_size=4)) == pytest.approx((0.3934, 1.0), abs=1e-4)


def test_one_part_says_nothing_about_the_others():
    assert rate(first(3, 4), part_size=4) == Estimate(value=0.75, low=0.0, high=1.0, n=4, n_parts=1)


def test_higher_confidence_widens_the_interval():
    predictions = run(first(16, 20), part_size=2)
    wide = estimate(accuracy, predictions, seed=0, confidence=0.99)["accuracy"]
    narrow = estimate(accuracy, predictions, seed=0, confidence=0.8)["accuracy"]
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


# estimate: floats


def test_a_bootstrap_interval_is_near_the_closed_form():
    # 60 of 100 independent: error 1.984 x sqrt(0.24 / 99) = 0.0977, on the z scale
    # / (1 - 0.36) = 0.1527; artanh(0.6) = 0.6931: tanh(0.5404) = 0.493, tanh(0.8458) = 0.689
    found = estimate(mean, run(first(60, 100)), seed=0)["mean"]
    assert bounds(found) == pytest.approx((0.493, 0.689), abs=0.012)
    assert (found.n, found.n_parts) == (100, 100)


def test_the_bootstrap_draws_whole_parts():
    # 10 parts of 10 alike, 6 right: sqrt(0.24 / 9) x t(9) = 0.3694, on the z scale
    # / 0.64 = 0.5772: tanh(0.6931 -+ 0.5772) = 0.115 and 0.854
    found = estimate(mean, run(first(60, 100), part_size=10), seed=0)["mean"]
    assert bounds(found) == pytest.approx((0.115, 0.854), abs=0.04)
    assert found.n_parts == 10


def test_the_same_seed_gives_the_same_interval_whatever_the_order_of_the_predictions():
    predictions = run(first(1200, 2000), part_size=4)  # 500 parts, which are joined at random
    shuffled = random.Random(1).sample(predictions, k=2000)
    assert estimate(mean, predictions, seed=7) == estimate(mean, shuffled, seed=7)
    assert estimate(mean, predictions, seed=7) != estimate(mean, predictions, seed=8)


def test_a_figure_without_spread_still_has_an_interval():
    # 4 parts: t(3)^2 = 10.128; margin 10.128 / 14.128 = 0.7169
    found = estimate(mean, run([1, 0] * 4, part_size=2), seed=0)["mean"]
    assert bounds(found) == (0.0, 1.0)
    # 20 parts: t(19)^2 = 4.381; margin 4.381 / 24.381 = 0.1797
    found = estimate(mean, run([1, 0] * 20, part_size=2), seed=0)["mean"]
    assert bounds(found) == pytest.approx((0.3203, 0.6797), abs=1e-4)


@pytest.mark.parametrize(
    ("correct", "part_size"),
    [
        ([1, 0] * 3, 2),
        ([1, 1, 0, 1], 2),
        ([1] * 6, 2),
        ([0] * 6, 2),
        ([0] * 9 + [1], 1),
        ([1, 0], 2),
    ],
)
def test_no_interval_goes_beyond_what_its_figure_can_be(correct: list[int], part_size: int):
    def lost(predictions: Sequence[Prediction]) -> dict[str, Rate | float]:
        return {
            "share": mean(predictions)["mean"],
            "difference": Difference(mean(predictions)["mean"] - 1),
        }

    found = estimate(lost, run(correct, part_size=part_size), seed=0)
    for name, least, most in (("share", 0, 1), ("difference", -1, 1)):
        assert least <= found[name].low <= found[name].value <= found[name].high <= most


def test_a_figure_that_many_resamples_leave_undefined_has_no_interval():
    def recall_gap(predictions: Sequence[Prediction]) -> dict[str, Rate | float]:
        hits = [[p.correct for p in predictions if p.expected == label] for label in (OK, NG)]
        recalls = [sum(row) / len(row) for row in hits if row]
        return {"gap": Difference(recalls[0] - recalls[1])} if len(recalls) == 2 else {}

    abnormal = [
        Prediction(id="x", task=Task.JUDGE_PAIR, group="x", view="raw", expected=NG, predicted=NG)
    ]
    # one abnormal record of 11: absent from (10/11)^11 = 35 % of the resamples
    assert bounds(estimate(recall_gap, run(first(5, 10)) + abnormal, seed=0)["gap"]) == (-1.0, 1.0)


def test_a_float_rests_on_the_records_of_the_rates_beside_it():
    def both(predictions: Sequence[Prediction]) -> dict[str, Rate | float]:
        few = [p for p in predictions if p.id in ("r0", "r1", "r2")]
        return {"value": 0.5, **accuracy(few)}

    found = estimate(both, run([1] * 10), seed=0)
    assert list(found) == ["value", "accuracy"]
    assert (found["value"].n, found["value"].n_parts) == (3, 3)


def test_joins_by_id_survive_resampling():
    def gain(predictions: Sequence[Prediction]) -> dict[str, Rate | float]:
        bases = {p.id: p for p in predictions if p.probe is Probe.NONE}
        gains = [bases[p.of[0]].correct - p.correct for p in predictions if p.probe is Probe.BLANK]
        return {"gain": sum(gains) / len(gains)}

    records = run(first(30, 40))
    probes = [
        replace(record, id=f"b{i}", predicted=None, probe=Probe.BLANK, of=(record.id,))
        for i, record in enumerate(records)
    ]
    found = estimate(gain, [*records, *probes], seed=0)["gain"]
    assert found.value == 0.75
    assert 0.5 < found.low < 0.75 < found.high < 0.95
    assert (found.n, found.n_parts) == (40, 40)
