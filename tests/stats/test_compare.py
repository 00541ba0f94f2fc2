"""Two arms on the same records: differences, intervals, words."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import rankdata, ttest_ind
from sklearn.metrics import roc_auc_score
from statsmodels.stats.multitest import multipletests

from vlmbench.stats import Compared, Comparison, Costs, compare, holm
from vlmbench.stats.clusters import Design
from vlmbench.stats.compare import paired
from vlmbench.stats.power import parts_needed, sources
from vlmbench.stats.spread import Variance, half_width
from vlmbench.types import UserError

UNKNOWN = "not enough data to tell"
Floats = NDArray[np.float64]


def first(k: int, n: int) -> Floats:
    """Return 1 for the first k of n records, else 0."""
    return (np.arange(n) < k).astype(np.float64)


def alone(n: int) -> NDArray[np.intp]:
    """Return a cluster for each record."""
    return np.arange(n)


def uneven(sizes: Sequence[int]) -> NDArray[np.intp]:
    return np.repeat(np.arange(len(sizes)), sizes)


def seeds(row: Floats, number: int = 3) -> Floats:
    return np.tile(row, (number, 1))


# The interval


def test_the_difference_of_one_seed_each_is_a_paired_t_interval() -> None:
    # 10 records, a right on all, b on 5: differences 1 and 0, squares 2.5 x 10/9,
    # error sqrt(2.778 / 100) = 0.1667; t(9) = 2.262: 0.5 +- 0.377; t = 3: p = 0.0150
    found = compare([first(10, 10)], [first(5, 10)], clusters=alone(10))
    assert found.difference == 0.5
    assert (found.low, found.high) == pytest.approx((0.123, 0.877), abs=0.001)
    assert found.p_value == pytest.approx(0.0150, abs=0.0002)
    assert (found.n_records, found.n_clusters, found.seeds) == (10, 10, (1, 1))
    assert found.effective_clusters == 10


def test_seeds_on_records_that_agree_are_welchs_t_test() -> None:
    # No record differs from another, so all that varies are the seeds' means.
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.8, 0.1, 12), rng.normal(0.7, 0.02, 10)
    found = compare(*(np.tile(arm[:, None], 4000) for arm in (a, b)), clusters=alone(4000))
    welch = ttest_ind(a, b, equal_var=False)
    assert found.p_value == pytest.approx(welch.pvalue, rel=0.5)
    low, high = welch.confidence_interval()
    assert found.low == pytest.approx(low, abs=0.01)
    assert found.high == pytest.approx(high, abs=0.01)


def test_the_p_value_and_the_interval_agree() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        a, b = ((rng.random((3, 200)) < rate).astype(float) for rate in (0.8, 0.72))
        found = compare(a, b, clusters=np.arange(200) // 4)
        assert (found.low > 0 or found.high < 0) == (found.p_value < 0.05)


def test_a_comparison_changes_its_sign_with_the_order() -> None:
    rng = np.random.default_rng(0)
    a, b = ((rng.random((3, 200)) < rate).astype(float) for rate in (0.9, 0.6))
    there, back = (compare(*pair, clusters=alone(200)) for pair in ((a, b), (b, a)))
    assert (back.difference, back.low, back.high) == pytest.approx(
        (-there.difference, -there.high, -there.low)
    )
    assert (there.word, back.word) == ("better", "worse")
    assert back.p_value == pytest.approx(there.p_value)


def test_one_cluster_has_no_interval() -> None:
    found = compare(seeds(first(5, 5)), seeds(first(0, 5)), clusters=["one"] * 5)
    assert (found.difference, found.low, found.high, found.p_value) == (1.0, -1.0, 1.0, 1.0)
    assert found.word == UNKNOWN
    assert "at least two are needed" in found.power_note


def test_a_arm_without_seeds_adds_no_variance_of_seeds() -> None:
    rng = np.random.default_rng(1)
    trained = (rng.random((3, 400)) < 0.8).astype(float)
    fixed = (rng.random((1, 400)) < 0.6).astype(float)
    found = compare(trained, fixed, clusters=alone(400), fixed=True)
    assert found.seeds == (3, 0)
    assert found.word == "better"
    assert compare(trained, fixed, clusters=alone(400)).word == UNKNOWN


# The figures


def test_balanced_accuracy_weighs_both_labels_alike() -> None:
    # 2 % abnormal. a says normal to everything; b finds 95 % with 3 % overkill.
    positive = first(40, 2000) > 0
    b = np.where(positive, first(38, 2000), 1.0)
    b[-59:] = 0  # 3 % of 1960
    a = np.where(positive, 0.0, 1.0)
    arguments: dict[str, Any] = {"clusters": alone(2000), "positive": positive}
    assert compare(seeds(a), seeds(b), **arguments).difference == pytest.approx(0.0105)
    found = compare(seeds(a), seeds(b), figure="balanced_accuracy", **arguments)
    assert found.difference == pytest.approx(0.5 - (0.95 + 1 - 59 / 1960) / 2)
    assert found.word == "worse"


def test_misses_and_overkill_have_verdicts_of_their_own() -> None:
    # misses 12 and overkill 2 % against 2 and 12 %
    positive = first(500, 1000) > 0
    numbers = np.tile(np.arange(500), 2)
    a = np.where(positive, numbers >= 60, numbers >= 10).astype(float)
    b = np.where(positive, numbers >= 10, numbers >= 60).astype(float)
    words = {}
    for figure in ("balanced_accuracy", "misses", "overkill"):
        found = compare(seeds(a), seeds(b), clusters=alone(1000), positive=positive, figure=figure)
        words[figure] = (found.word, round(found.difference, 3))
    assert words == {
        "balanced_accuracy": ("no difference larger than 2 points", 0.0),
        "misses": ("worse", 0.1),
        "overkill": ("better", -0.1),
    }


def test_the_auroc_is_that_of_scikit_learn_and_does_not_see_a_lean() -> None:
    rng = np.random.default_rng(0)
    positive = np.arange(300) % 2 == 1
    scores = np.round(rng.normal(positive * 1.0, 1.0), 1)  # with ties
    leaning = np.stack([scores + 1.5] * 3)
    found = compare(
        leaning, seeds(scores), clusters=alone(300), positive=positive, figure=Compared.AUROC
    )
    assert found.difference == pytest.approx(0.0)
    other = rng.normal(positive * 0.5, 1.0)
    found = compare(
        seeds(scores), seeds(other), clusters=alone(300), positive=positive, figure="auroc"
    )
    truth = roc_auc_score(positive, scores) - roc_auc_score(positive, other)
    assert found.difference == pytest.approx(truth)


def test_the_interval_of_an_auroc_is_delongs() -> None:
    # DeLong et al. 1988 for one curve against a constant: S10 / m + S01 / n, by hand
    rng = np.random.default_rng(0)
    positive = np.arange(80) < 30
    scores = rng.normal(positive * 1.0, 1.0)
    pair = paired(
        [scores],
        [np.zeros(80)],
        clusters=alone(80),
        figure=Compared.AUROC,
        positive=positive,
        fixed=True,
    )
    ranks = rankdata(scores)
    v10 = (ranks[positive] - rankdata(scores[positive])) / 50
    v01 = 1 - (ranks[~positive] - rankdata(scores[~positive])) / 30
    delong = v10.var(ddof=1) / 30 + v01.var(ddof=1) / 50
    assert pair.spread.clusters.value == pytest.approx(delong, rel=0.03)


def test_costs_are_in_the_users_unit_and_lower_is_better() -> None:
    positive = first(100, 1000) > 0
    misses = np.where(positive, 0.0, 1.0)
    stops = np.where(positive, 1.0, 0.0)
    arguments: dict[str, Any] = {"clusters": alone(1000), "positive": positive, "figure": "cost"}
    costs = Costs(miss=50.0, overkill=1.0, prevalence=0.01)
    found = compare(seeds(misses), seeds(stops), costs=costs, **arguments)
    assert found.difference == pytest.approx(0.01 * 50 - 0.99 * 1)  # 0.5 against 0.99
    assert found.word == "better"
    assert found.margin == pytest.approx(0.02 * (0.01 * 50 + 0.99))
    own = compare(seeds(misses), seeds(stops), costs=Costs(miss=50, overkill=1), **arguments)
    assert own.difference == pytest.approx(0.1 * 50 - 0.9)
    assert own.word == "worse"


# The words


def test_one_seed_never_gives_a_verdict() -> None:
    found = compare([first(190, 200)], [first(100, 200)], clusters=alone(200))
    assert found.word == UNKNOWN
    assert found.models_differ
    assert "One seed" in found.power_note
    more = compare(seeds(first(190, 200)), seeds(first(100, 200)), clusters=alone(200))
    assert more.word == "better"
    uneven_seeds = compare(seeds(first(190, 200)), [first(100, 200)], clusters=alone(200))
    assert uneven_seeds.word == UNKNOWN


@pytest.mark.parametrize(
    ("sizes", "effective"),
    [([100] + [2] * 40, 3.2), ([60, 60] + [4] * 20, 5.3), ([20] * 5, 5.0), ([20] * 9, 9.0)],
)
def test_few_effective_parts_give_no_verdict(sizes: list[int], effective: float) -> None:
    clusters = uneven(sizes)
    n = len(clusters)
    found = compare(seeds(first(n, n)), seeds(first(0, n)), clusters=clusters)
    assert found.word == UNKNOWN
    assert not found.models_differ
    assert found.effective_clusters == pytest.approx(effective, abs=0.1)


def test_the_class_with_the_fewest_parts_decides() -> None:
    positive = first(6, 300) > 0
    found = compare(
        seeds(first(300, 300)),
        seeds(first(3, 300)),
        clusters=alone(300),
        positive=positive,
        figure="balanced_accuracy",
    )
    assert found.effective_clusters == 6
    assert found.word == UNKNOWN


def test_no_difference_needs_many_parts_even_if_none_was_seen() -> None:
    # 10 parts of 15 records agree wholly; one and a half parts may still change:
    # t(9) x sqrt(1.5) / 10 = 0.277; t(119) x sqrt(1.5) / 120 = 0.0202, t(129): 0.0186
    words = {}
    for parts in (10, 120, 130):
        n = parts * 15
        found = compare(seeds(first(n, n)), seeds(first(n, n)), clusters=np.arange(n) // 15)
        words[parts] = found.word
    assert words == {
        10: UNKNOWN,
        120: UNKNOWN,
        130: "no difference larger than 2 points",
    }


def test_a_small_but_certain_effect_is_called_small() -> None:
    a, b = first(50_000, 50_000), first(49_700, 50_000)
    assert compare(seeds(a), seeds(b), clusters=alone(50_000)).word == "slightly better"
    assert compare(seeds(b), seeds(a), clusters=alone(50_000)).word == "slightly worse"


def test_the_margin_is_named_in_the_word() -> None:
    rows = seeds(first(500, 500))
    word = compare(rows, rows, clusters=alone(500), margin=0.05).word
    assert word == "no difference larger than 5 points"


def test_the_word_of_a_family_follows_from_corrected_p_values() -> None:
    rng = np.random.default_rng(5)
    a, b = ((rng.random((3, 200)) < rate).astype(float) for rate in (0.83, 0.76))
    found = compare(a, b, clusters=alone(200))
    assert found.word == "better"
    assert found.verdict(p_value=max(20 * found.p_value, 0.051)) == UNKNOWN
    assert found.verdict(level=found.p_value / 2) == UNKNOWN


def test_holm_multiplies_the_smallest_p_value_by_their_number_and_keeps_the_order() -> None:
    # sorted 0.01 x 3 = 0.03, 0.03 x 2 = 0.06, 0.04 x 1 but not below the one before it
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2, 9])
def test_holm_agrees_with_statsmodels(number: int) -> None:
    drawn = np.random.default_rng(number).uniform(0, 0.2, number).tolist()
    p_values = [*drawn, drawn[0]]  # with a tie
    expected = multipletests(p_values, method="holm")[1]
    assert holm(p_values) == pytest.approx(expected)


# False verdicts between equal arms. bench.statistics has many more worlds and draws.

Draw = Callable[[np.random.Generator], tuple[Floats, Floats]]


def false_verdicts(draw: Draw, clusters: NDArray[np.intp], times: int = 300) -> float:
    """Return how often one of two equal arms is found to be better than the other."""
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(times):
        a, b = draw(rng)
        pair = paired(a, b, clusters=clusters, figure=Compared.ACCURACY)
        wrong += abs(pair.difference) > pair.spread.half_width()
    return wrong / times


def coin(rng: np.random.Generator, number: int, n: int, rate: float, spread: float) -> Floats:
    """Return answers of seeds whose accuracy varies by `spread`."""
    rates = rate + spread * rng.standard_normal((number, 1))
    return (rng.random((number, n)) < rates).astype(float)


@pytest.mark.parametrize(
    ("numbers", "spreads"),
    [((3, 3), (0.06, 0.0)), ((2, 8), (0.06, 0.0)), ((3, 3), (0.05, 0.05)), ((3, 10), (0.06, 0.0))],
)
def test_seeds_of_unlike_spread_and_number_keep_the_level(
    numbers: tuple[int, int], spreads: tuple[float, float]
) -> None:
    def draw(rng: np.random.Generator) -> tuple[Floats, Floats]:
        a, b = (coin(rng, k, 300, 0.75, s) for k, s in zip(numbers, spreads, strict=True))
        return a, b

    # 300 draws of 5 %: 99.9 % of counts are below 28 = 9.3 %; before it was 12 to 39 %
    assert false_verdicts(draw, np.arange(300) // 3) < 0.093


@pytest.mark.parametrize(
    "sizes", [[100] + [2] * 40, [60, 60] + [4] * 20, [20] * 5, [40] + [2] * 60, [4] * 60]
)
def test_uneven_parts_that_differ_as_wholes_keep_the_level(sizes: list[int]) -> None:
    clusters = uneven(sizes)

    def draw(rng: np.random.Generator) -> tuple[Floats, Floats]:
        arms = []
        for _ in range(2):
            of_part = rng.standard_normal(len(sizes))[clusters]
            noise = rng.standard_normal((3, len(clusters)))
            arms.append((0.6 * of_part + 0.8 * noise < 0.7).astype(float))
        return arms[0], arms[1]

    assert false_verdicts(draw, clusters) < 0.093


def test_the_jackknife_is_the_figure_without_each_part() -> None:
    rng = np.random.default_rng(0)
    clusters, classes = uneven([30, 5, 9, 2, 14]), rng.integers(0, 2, 60)
    design = Design(clusters=clusters, classes=classes, class_weights=np.array([0.5, 0.5]))
    values = rng.random(60)

    def balanced(keep: NDArray[np.bool_]) -> float:
        means = [values[keep & (classes == label)].mean() for label in (0, 1)]
        return float(np.mean(means))

    everything = np.ones(60, dtype=bool)
    changes = [balanced(clusters != part) - balanced(everything) for part in range(5)]
    means = np.array([values[classes == label].mean() for label in (0, 1)])
    found = design.variance(values - means[classes])
    assert found == pytest.approx(4 / 5 * float(np.sum(np.square(changes))))


def test_equal_parts_have_one_degree_of_freedom_less_than_parts() -> None:
    design = Design(
        clusters=np.arange(120) // 6, classes=np.zeros(120, dtype=np.intp), class_weights=np.ones(1)
    )
    for likeness in (0.0, 0.3, 1.0):
        assert design.freedom(likeness) == pytest.approx(19.0)
    assert design.effective_clusters == 20


def test_a_large_part_costs_degrees_of_freedom_the_more_its_records_are_alike() -> None:
    clusters = uneven([40] + [2] * 60)
    design = Design(
        clusters=clusters,
        classes=np.zeros(len(clusters), dtype=np.intp),
        class_weights=np.ones(1),
    )
    few, some, many = (design.freedom(likeness) for likeness in (1.0, 0.2, 0.0))
    assert 1 < few < some < many < 61


def test_two_seeds_are_wider_than_welchs() -> None:
    components = (
        Variance(value=0.0001, freedom=40),
        Variance(value=0.001, freedom=1),
        Variance(value=0.001, freedom=7),
    )
    # Howe: sqrt(0.0001 x 2.021^2 + 0.001 x 12.706^2 + 0.001 x 2.365^2)
    assert half_width(components) == pytest.approx(0.4092, abs=0.001)


# Power


def test_power_is_planned_from_the_observed_spread() -> None:
    # variance 0.2778 a part; t(10) = 2.228 and 0.879: 0.2778 x (3.107 / 0.5)^2 = 10.7
    note = compare([first(10, 10)], [first(5, 10)], clusters=alone(10)).power_note
    assert note.startswith(
        "About 11 parts give 80 % power to see a difference of 50.0 points; there are 10."
    )


def test_seeds_that_vary_ask_for_more_seeds() -> None:
    a, b = (np.stack([first(k, 100) for k in ks]) for ks in ((60, 80, 100), (40, 60, 80)))
    found = compare(a, b, clusters=alone(100))
    assert found.difference == pytest.approx(0.2)
    assert found.word == UNKNOWN
    # variance of a seed 0.04 x 4 / 3.357 (chi-square's median) for each variant:
    # 2 x 0.0477 x (2.802 / 0.2)^2 = 18.7
    match = re.fullmatch(
        r"About (\d+) seeds per variant give 80 % power to see a difference of 20.0 points, more "
        r"parts alone do not; there are 100 parts and 3 seeds\.",
        found.power_note,
    )
    assert match, found.power_note
    assert 17 <= int(match[1]) <= 22


@pytest.mark.slow
def test_a_plan_has_the_power_that_it_promises() -> None:
    # 3 seeds and 150 parts. a is right with 0.8, b with 0.7, independently.
    def draw(n: int, rng: np.random.Generator) -> Any:
        a, b = ((rng.random((3, n)) < rate).astype(float) for rate in (0.8, 0.7))
        return paired(a, b, clusters=alone(n), figure=Compared.ACCURACY)

    rng = np.random.default_rng(0)
    plans = [
        parts_needed(sources(draw(150, rng).spread), 0.1, n_seeds=3) or 10**9 for _ in range(41)
    ]
    median = sorted(plans)[20]
    pairs = [draw(median, rng) for _ in range(300)]
    seen = np.mean([pair.difference > pair.spread.half_width() for pair in pairs])
    assert 0.72 < seen < 0.9


# Wrong input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": np.ones(10)}, r"outcomes_a has shape \(10,\); give an array of \(seeds, records\)"),
        ({"a": np.full((1, 10), np.nan)}, "outcomes_a holds a number that is not finite"),
        ({"b": np.ones((1, 9))}, "the numbers of records differ: outcomes_a 10, outcomes_b 9"),
        ({"clusters": [0] * 9}, "the numbers of records differ"),
        ({"figure": "misses"}, "needs positive="),
        ({"figure": "auroc", "positive": [1] * 10}, "needs records of both labels"),
        ({"figure": "cost", "positive": [1, 0] * 5}, "the figure cost needs costs=Costs"),
        ({"figure": "f1"}, "figure 'f1' is not known; choose accuracy, balanced_accuracy"),
    ],
)
def test_wrong_arrays_are_refused(change: dict[str, Any], message: str) -> None:
    given = {"a": np.ones((1, 10)), "b": np.ones((1, 10)), "clusters": alone(10)} | change
    with pytest.raises(UserError, match=message):
        compare(given.pop("a"), given.pop("b"), **given)


def test_a_comparison_says_what_it_rests_on() -> None:
    found = compare(seeds(first(10, 20)), seeds(first(10, 20)), clusters=np.arange(20) // 2)
    assert isinstance(found, Comparison)
    assert (found.n_records, found.n_clusters, found.seeds) == (20, 10, (3, 3))


@pytest.mark.parametrize("num_clusters", [1, 2, 3])
def test_designs_of_few_clusters_give_no_verdict_and_no_error(num_clusters: int) -> None:
    """Random sizes and labels: with one cluster, a division by 0 ended the report of 7 records."""
    rng = np.random.default_rng(num_clusters)
    for _ in range(300):
        size = int(rng.integers(2, 40))
        positive = rng.random(size) < 0.5
        if positive.all() or not positive.any():
            continue
        clusters = rng.integers(0, num_clusters, size).tolist()
        right, other = (rng.random((seeds, size)) < 0.7 for seeds in (3, 1))
        for figure in ("balanced_accuracy", "auroc", "accuracy"):
            found = compare(
                right, other, clusters=clusters, figure=figure, positive=positive, fixed=True
            )
            assert found.word == "not enough data to tell"
            assert not np.isnan(found.p_value)
