"""Is tuning worth it? Claims about the best of several series and baselines, without a choice."""

from __future__ import annotations

import numpy as np
import pytest

from vlmbench.report.worth import Asked, Worth, worth
from vlmbench.stats import Compared, Rule
from vlmbench.types import Prediction, Task, UserError

NORMAL, ABNORMAL = "normal", "abnormal"
N = 400


def asked(name: str, rates: list[float], *, seed: int, records: int = N) -> Asked:
    """Return a method with one run for each rate of right answers; every record is a part."""
    rng = np.random.default_rng([seed, *name.encode()])
    runs = []
    for rate in rates:
        right = rng.random(records) < rate
        labels = [
            (ABNORMAL, NORMAL) if index % 2 else (NORMAL, ABNORMAL) for index in range(records)
        ]
        runs.append(
            [
                Prediction(
                    id=f"r{index}",
                    task=Task.JUDGE_PAIR,
                    group=f"p{index}",
                    view="raw",
                    expected=expected,
                    predicted=expected if is_right else other,
                )
                for index, (is_right, (expected, other)) in enumerate(
                    zip(right, labels, strict=True)
                )
            ]
        )
    return Asked(name=name, answers=runs)


def judge(tuned: list[Asked], baselines: list[Asked]) -> Worth:
    rule = Rule(figure=Compared.BALANCED_ACCURACY)
    return worth(tuned, baselines, what="held-out raw pairs", rule=rule, level=0.05)


def test_tuning_is_worth_it_if_a_series_beats_every_baseline() -> None:
    found = judge(
        [asked("weak", [0.6] * 3, seed=0), asked("strong", [0.92] * 3, seed=0)],
        [asked("majority", [0.5], seed=0), asked("probe", [0.8], seed=0)],
    )
    assert found.word == "worth it"
    assert found.sentence.startswith(
        "Tuning is worth it here: strong judges held-out raw pairs better than every baseline: "
        "strong against probe +"
    )
    assert "400 records of 400 parts, 3 seeds" in found.sentence
    assert len(found.to_row()["comparisons"]) == 4


def test_tuning_is_not_worth_it_if_a_baseline_beats_every_series() -> None:
    found = judge(
        [asked("one", [0.6] * 3, seed=1), asked("other", [0.82] * 3, seed=1)],
        [asked("majority", [0.5], seed=1), asked("probe", [0.9], seed=1)],
    )
    assert found.word == "not worth it"
    assert found.sentence.startswith(
        "Tuning is not worth it here: probe judges held-out raw pairs better than every tuned "
        "series: other against probe −"
    )


def test_a_tie_with_the_best_baseline_is_no_verdict() -> None:
    found = judge(
        [asked("tuned", [0.8] * 3, seed=2)],
        [asked("majority", [0.5], seed=2), asked("probe", [0.8], seed=2)],
    )
    assert found.word == "not enough data to tell"
    assert "tuned against probe" in found.sentence


def test_one_seed_gives_no_verdict() -> None:
    found = judge([asked("tuned", [0.95], seed=3)], [asked("majority", [0.5], seed=3)])
    assert found.word == "not enough data to tell"
    assert found.sentence.endswith("One seed gives no verdict.")


@pytest.mark.slow
def test_equal_series_and_baselines_seldom_get_a_verdict() -> None:
    # The best of 3 series against the best of 4 baselines would differ in most of such draws.
    false = 0
    for seed in range(20):
        tuned = [asked(f"t{k}", [0.7] * 3, seed=seed, records=120) for k in range(3)]
        baselines = [asked(f"b{k}", [0.7], seed=seed, records=120) for k in range(4)]
        false += judge(tuned, baselines).word != "not enough data to tell"
    assert false <= 3  # 20 draws of 5 %: 98 % of counts


def test_other_records_are_refused() -> None:
    tuned, other = asked("tuned", [0.8] * 3, seed=0), asked("b", [0.8], seed=0, records=300)
    with pytest.raises(UserError, match="tuned and b answered different records"):
        judge([tuned], [other])
