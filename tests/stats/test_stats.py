from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from vlmbench.stats import Comparison, compare, estimate, holm, interval, verdict
from vlmbench.stats.power import parts_needed, sources
from vlmbench.stats.spread import measure_spread
from vlmbench.types import Difference, Estimate, Prediction, Probe, Rate, Task, UserError

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


def bounds(found: Estimate | Comparison) -> tuple[float, float]:
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
    predictions = run(first(60, 100), part_size=4)
    shuffled = random.Random(1).sample(predictions, k=100)
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

    found = estimate(both, run([1] * 10), seed=0, resamples=10)
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


# compare


def test_the_difference_of_one_seed_each_is_a_paired_t_interval():
    # 10 records, a right on all, b on 5: differences 1 and 0, squares 2.5 x 10/9,
    # error sqrt(2.778 / 100) = 0.1667; t(9) = 2.262: 0.5 +- 0.377; t = 3: p = 0.0150.
    # McNemar: 2 x 0.5^5
    found = compare([run([1] * 10)], [run(first(5, 10))], seed=0)
    assert found.difference == 0.5
    assert bounds(found) == pytest.approx((0.123, 0.877), abs=0.01)
    assert found.p_value == pytest.approx(0.0150, abs=0.003)
    assert found.mcnemar_p == pytest.approx(0.0625)
    assert (found.n_records, found.n_parts, found.n_seeds) == (10, 10, 1)
    assert verdict(found) == "better"


def test_power_is_planned_from_the_observed_spread():
    # variance 0.2778 a part; t(10) = 2.228 and 0.879: 0.2778 x (3.107 / 0.5)^2 = 10.7
    note = compare([run([1] * 10)], [run(first(5, 10))], seed=0).power_note
    assert note.startswith(
        "About 11 parts give 80 % power to see a difference of 50.0 points; there are 10."
    )
    assert "One seed" in note


def test_records_of_one_part_do_not_add_up_to_a_difference():
    # 2 of 4 parts differ: what 20 independent records would show, 4 parts cannot
    a, b = [1] * 20, first(10, 20)
    assert verdict(compare([run(a)], [run(b)], seed=0)) == "better"
    assert (
        verdict(compare([run(a, part_size=5)], [run(b, part_size=5)], seed=0))
        == "not enough data to tell"
    )


def test_two_equal_models_are_known_to_differ_little_only_after_many_parts():
    # one changed part of G: error 1 / G; t(9) / 10 = 0.226, t(199) / 200 = 0.0099
    few, many = (compare([run([1] * n)], [run([1] * n)], seed=0) for n in (10, 200))
    assert few.high == pytest.approx(0.226, abs=0.006)
    assert many.high == pytest.approx(0.0099, abs=0.0003)
    assert (verdict(few), verdict(many)) == (
        "not enough data to tell",
        "no difference larger than 2 points",
    )
    assert few.mcnemar_p == 1.0
    # 5 points: 1 / G = 0.05 / 2.802, so 57 parts, and a few more for the unknown spread
    assert few.power_note.startswith(
        "About 59 parts give 80 % power to see a difference of 5.0 points"
    )


def test_a_difference_within_the_spread_of_the_seeds_gives_no_verdict():
    steady = compare([run(first(80, 100))] * 3, [run(first(60, 100))] * 3, seed=0)
    spread_a, spread_b = ([run(first(k, 100)) for k in ks] for ks in ((60, 80, 100), (40, 60, 80)))
    varied = compare(spread_a, spread_b, seed=0)
    assert steady.difference == pytest.approx(0.2)
    assert varied.difference == pytest.approx(0.2)
    assert (verdict(steady), verdict(varied)) == ("better", "not enough data to tell")
    # seeds' standard deviation 0.2, two means of 3: 0.2 x sqrt(2/3) = 0.163;
    # t(4) x 0.163 = 0.453, less chance
    assert (varied.high - varied.low) / 2 == pytest.approx(0.45, abs=0.04)
    assert varied.n_seeds == 3
    assert varied.mcnemar_p is None
    # variance of a seed 0.04 x 4 / 3.357 (chi-square's median) for each variant:
    # 2 x 0.0477 x (2.802 / 0.2)^2 = 18.7
    assert varied.power_note == (
        "About 20 seeds per variant give 80 % power to see a difference of 20.0 points, more "
        "parts alone do not; there are 100 parts and 3 seeds."
    )


def test_where_seeds_are_steady_parts_or_seeds_may_be_added():
    rng = np.random.default_rng(0)
    a, b = ([run(rng.permutation(first(right, 300))) for _ in range(3)] for right in (240, 228))
    note = compare(a, b, seed=0).power_note
    found = re.fullmatch(
        r"About ([\d,]+) parts, or (\d+) seeds per variant, give 80 % power to see a difference "
        r"of .* points; there are 300 parts and 3 seeds\.",
        note,
    )
    assert found, note
    assert int(found[1].replace(",", "")) > 300
    assert int(found[2]) > 3


def test_a_plan_has_the_power_that_it_promises():
    # 400 ablations of 3 seeds and 150 parts. a is right with 0.8, b with 0.7, independently.
    def draw(n: int, rng: np.random.Generator) -> tuple[Any, Any, Any]:
        return *((rng.random((3, n)) < rate).astype(float) for rate in (0.8, 0.7)), np.arange(n)

    rng = np.random.default_rng(0)
    plans = [
        parts_needed(sources(measure_spread(*draw(150, rng))), 0.1, n_seeds=3) for _ in range(41)
    ]
    median = sorted(plan or 10**9 for plan in plans)[20]
    seen = np.mean([interval(*draw(median, rng), seed=0, draws=1000).low > 0 for _ in range(400)])
    assert 0.72 < seen < 0.88


def test_seeds_may_be_unequal_in_number():
    found = compare([run(first(k, 100)) for k in (70, 72, 74)], [run(first(70, 100))], seed=0)
    assert found.difference == pytest.approx(0.02)
    assert found.n_seeds == 1
    assert found.power_note.endswith("there are 100 parts and 1 seed.")
    assert "One seed:" not in found.power_note  # the three seeds of a show how seeds vary


def test_a_comparison_changes_its_sign_with_the_order():
    a, b = [run(first(90, 100))], [run(first(60, 100))]
    there, back = compare(a, b, seed=0), compare(b, a, seed=0)
    assert (back.difference, back.low, back.high) == pytest.approx(
        (-there.difference, -there.high, -there.low)
    )
    assert (verdict(there), verdict(back)) == ("better", "worse")
    assert back.p_value == there.p_value


def test_probes_are_not_compared():
    probe = Prediction(
        id="x",
        task=Task.JUDGE_PAIR,
        group="x",
        view="raw",
        expected=OK,
        predicted=OK,
        probe=Probe.SELF,
        of=("r0",),
    )
    assert compare([[*run([1] * 10), probe]], [run([1] * 10)], seed=0).n_records == 10


def test_a_record_that_only_one_run_predicted_is_an_error_that_names_it():
    with pytest.raises(UserError, match="record 'r3' was predicted by some"):
        compare([run([1] * 5)], [run([1] * 3)], seed=0)
    with pytest.raises(UserError, match="record 'r3' was predicted by some"):
        compare([run([1] * 3)], [run([1] * 5)], seed=0)


def test_nothing_to_compare_is_an_error():
    with pytest.raises(UserError, match="no records to compare"):
        compare([[]], [[]], seed=0)


def test_one_part_allows_no_verdict():
    found = compare([run([1] * 5, part_size=5)], [run([0] * 5, part_size=5)], seed=0)
    assert (found.difference, found.low, found.high, found.p_value) == (1.0, -1.0, 1.0, 1.0)
    assert verdict(found) == "not enough data to tell"


# verdict and correction


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.001, 0.1, "better"),
        (-0.1, -0.001, "worse"),
        (-0.02, 0.02, "no difference larger than 2 points"),
        (-0.021, 0.01, "not enough data to tell"),
        (0.0, 0.03, "not enough data to tell"),
        (0.005, 0.015, "better"),
    ],
)
def test_the_verdict_follows_from_the_interval_by_rule(low: float, high: float, words: str):
    found = Comparison(
        difference=(low + high) / 2,
        low=low,
        high=high,
        p_value=0.5,
        n_records=9,
        n_parts=9,
        n_seeds=1,
        power_note="",
        mcnemar_p=None,
    )
    assert verdict(found) == words


def test_the_margin_is_named_in_the_verdict():
    found = compare([run([1] * 200)], [run([1] * 200)], seed=0)
    assert verdict(found, margin=0.05) == "no difference larger than 5 points"


def test_holm_multiplies_the_smallest_p_value_by_their_number_and_keeps_the_order():
    # sorted 0.01 x 3 = 0.03, 0.03 x 2 = 0.06, 0.04 x 1 but not below the one before it
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
