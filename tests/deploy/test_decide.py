"""What a finished run says about its decisions, and from which records it knows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers.predictions import answers
from vlmbench.config import PredictConfig
from vlmbench.deploy.decide import Decider, load_decider
from vlmbench.pipeline.calibrate import write_calibration
from vlmbench.runs.folder import RunDir
from vlmbench.stats import Source
from vlmbench.types import Prediction, Task, UserError

KIND = (Task.JUDGE_PAIR, "raw")
COSTS = PredictConfig(cost_miss=2.0, cost_overkill=1.0)


def judged(n: int, *, wrong: int, followed: bool | None = None) -> list[Prediction]:
    """Return answers to n parts, every second one abnormal; the first `wrong` are wrong."""
    margins = [2.0 if (i % 2 == 0) is (i >= wrong) else -2.0 for i in range(n)]
    made = answers(margins, [i % 2 == 0 for i in range(n)])
    return [replace(one, followed=followed) for one in made]


def make_run(
    path: Path,
    validation: Sequence[Prediction],
    *,
    test: Sequence[Prediction] | None,
    checkpoints: int = 20,
) -> RunDir:
    """Write the part of a run's folder that decisions rest on; `test` None: sealed."""
    run = RunDir(path)
    write_calibration(run, validation)
    run.write_metrics({"scores": {}, **({"test": "sealed"} if test is None else {})})
    run.write_predictions(test or ())
    for step in range(checkpoints):
        run.append_train_log({"step": step, "eval_balanced_accuracy": 0.5})
    return run


def decider_of(run: RunDir, settings: PredictConfig = COSTS) -> Decider:
    return load_decider(run, settings, seed=0)


def test_costs_of_test_records_need_no_further_word(tmp_path: Path) -> None:
    run = make_run(tmp_path, judged(40, wrong=2), test=judged(60, wrong=6))
    decider = decider_of(run)
    threshold = decider.thresholds[KIND]
    assert threshold.measured_on is Source.TEST
    assert threshold.miss_rate.value == pytest.approx(3 / 30)
    assert threshold.cost.value == pytest.approx(3 / 60 * 2 + 3 / 60)

    calibrated, cost = decider.notes([KIND])
    assert "on 60 test records of 60 parts that the fit did not see" in calibrated
    assert f"log loss {decider.bases[KIND].log_loss:.3f}" in calibrated
    assert "n = 60 of 60 parts, test records)" in cost


def test_records_that_chose_are_named_with_the_number_of_checkpoints(tmp_path: Path) -> None:
    run = make_run(tmp_path, judged(40, wrong=2, followed=True), test=None)
    *_, last = decider_of(run).notes([KIND])
    assert last == (
        "judge pair, raw: cost, misses, overkill and log loss are too low: the validation records "
        "that give them chose the best of 20 checkpoints. "
        "They are used because the test split is sealed"
    )
    *_, last = decider_of(run, PredictConfig()).notes([KIND])
    assert last.startswith("judge pair, raw: the log loss is too low: the validation records that ")


def test_a_small_test_split_is_not_taken_and_its_size_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path, judged(40, wrong=2), test=judged(18, wrong=2))
    *_, last = decider_of(run).notes([KIND])
    assert "chose the best of 20 checkpoints" in last
    assert "18 records of 18 parts tell as much as 9 equal parts of the rarer label" in last


def test_parts_that_training_did_not_follow_come_before_those_that_it_did(tmp_path: Path) -> None:
    validation = [
        replace(one, followed=index < 20) for index, one in enumerate(judged(60, wrong=4))
    ]
    run = make_run(tmp_path, validation, test=None)
    decider = decider_of(run)
    assert decider.thresholds[KIND].cost.n == 40
    *_, last = decider.notes([KIND])
    assert "are measured on validation records of parts that training did not follow" in last
    assert "because the test split is sealed" in last


def test_one_checkpoint_is_no_choice(tmp_path: Path) -> None:
    run = make_run(tmp_path, judged(40, wrong=2, followed=True), test=None, checkpoints=1)
    *_, last = decider_of(run).notes([KIND])
    assert "are measured on validation records, which chose no checkpoint" in last


def test_a_saving_that_reaches_nothing_is_told(tmp_path: Path) -> None:
    run = make_run(tmp_path, judged(40, wrong=2), test=judged(60, wrong=28))
    decider = decider_of(run)
    saving = decider.thresholds[KIND].saving
    assert saving.low < 0 < saving.high or saving.high < 0
    assert any(
        f"so the threshold saves {saving.value:.3g} "
        f"(95 % interval {saving.low:.3g} to {saving.high:.3g})" in note
        for note in decider.notes([KIND])
    )


def test_the_basis_is_plain_for_programs(tmp_path: Path) -> None:
    run = make_run(tmp_path, judged(40, wrong=2, followed=True), test=None)
    summary = decider_of(run).bases[KIND].summary()
    assert json.loads(json.dumps(summary)) == summary
    assert (summary["records"], summary["n"], summary["checkpoints"]) == ("validation", 40, 20)


def test_a_calibration_without_its_records_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, judged(40, wrong=2), test=None)
    (tmp_path / "validation.jsonl").write_text("")
    with pytest.raises(UserError, match=r"evaluate the run again .*stage=evaluate"):
        decider_of(run)


def test_a_training_log_of_strangers_counts_no_checkpoint(tmp_path: Path) -> None:
    run = make_run(tmp_path, judged(40, wrong=2), test=None, checkpoints=1)
    run.append_train_log({"step": [1], "eval_balanced_accuracy": 0.5})
    run.append_train_log({"step": 9, "eval_balanced_accuracy": "high"})
    assert list(run.validation_curve()) == [0]
    assert not decider_of(run).bases[KIND].chose
