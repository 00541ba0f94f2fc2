"""What a finished run says about its decisions, and from which records it knows."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers.predictions import answers
from vlmbench.config import PredictConfig
from vlmbench.deploy.decide import Decider, load_decider
from vlmbench.deploy.outputs import csv_text
from vlmbench.deploy.predict import decision_figures
from vlmbench.pipeline.calibrate import write_calibration
from vlmbench.report.answers import judgement_page
from vlmbench.runs.folder import RunDir
from vlmbench.stats import Source
from vlmbench.types import (
    LOOK,
    PLANTED,
    ImageRef,
    Prediction,
    Record,
    Role,
    Task,
    UserError,
)

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
    assert last.startswith("judge pair, raw: misses, overkill and log loss are too low: the valid")


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


PROMISE = PredictConfig(max_miss=0.1, max_overkill=0.1)


def asked(margin: float, name: str = "new") -> tuple[Record, Prediction]:
    """Return a new record, and its prediction with a margin in nats."""
    image = ImageRef(path=Path("new.png"), role=Role.QUERY, view="raw")
    record = Record(
        id=name,
        task=Task.JUDGE_PAIR,
        images=(image, image),
        answer="",
        label="",
        group=name,
    )
    (prediction,) = answers([margin], [False])
    return record, replace(prediction, group=name, images=("", ""))


def leaning(parts: int) -> list[Prediction]:
    """Return answers of a judge that ranks well and calls nothing abnormal: 5 nats too low."""
    positive = [i % 2 == 0 for i in range(4 * parts)]
    return answers([-4.0 if one else -6.0 for one in positive], positive, part_size=4)


def test_without_costs_the_calibrated_threshold_decides(tmp_path: Path) -> None:
    run = make_run(tmp_path, leaning(5), test=leaning(20))
    decider = decider_of(run, PredictConfig())
    for margin, decision in ((-4.0, "abnormal"), (-6.0, "normal")):
        judgement = decider.decide(*asked(margin), sentence=None)
        assert judgement.prediction is not None
        assert judgement.prediction.predicted == "normal"
        assert judgement.decision == decision
        assert (judgement.score > judgement.threshold) is (decision == "abnormal")

    rule = decider.notes([KIND])[1]
    assert rule.startswith(
        "judge pair, raw: the threshold is 0.5, the best for balanced accuracy by the calibration: "
        "misses 0.0 % ("
    )
    assert "n = 40 of 20 parts), measured on test records" in rule


def test_another_share_of_abnormal_parts_moves_score_and_threshold_alike(tmp_path: Path) -> None:
    run = make_run(tmp_path, leaning(5), test=leaning(20))
    rare = decider_of(run, PredictConfig(prevalence=0.02)).decide(*asked(-4.0), sentence=None)
    even = decider_of(run, PredictConfig()).decide(*asked(-4.0), sentence=None)
    assert rare.decision == even.decision == "abnormal"
    assert rare.threshold == pytest.approx(0.02)
    assert even.threshold == pytest.approx(0.5)
    assert rare.threshold < rare.score < even.score


def test_few_validation_parts_give_a_rough_threshold(tmp_path: Path) -> None:
    words = "so few parts give a rough threshold; add parts, or raise data.split.val"
    for parts, is_rough in ((3, True), (5, False)):
        run = make_run(tmp_path / str(parts), leaning(parts), test=leaning(20))
        notes = decider_of(run, PredictConfig()).notes([KIND])
        assert any(words in note for note in notes) is is_rough


def test_a_judge_no_better_than_chance_is_measured_by_its_own_labels(tmp_path: Path) -> None:
    # All margins are 1, so everything is called abnormal: no miss, and all normal parts stopped.
    flat = answers([1.0] * 80, [i % 2 == 0 for i in range(80)], part_size=4)
    decider = decider_of(make_run(tmp_path, flat[:20], test=flat), PredictConfig())
    assert decider.calibrations[KIND].is_blind
    assert decider.decide(*asked(1.0), sentence=None).decision == "abnormal"
    assert decider.decide(*asked(-1.0), sentence=None).decision == "normal"
    rule = next(note for note in decider.notes([KIND]) if "overkill" in note)
    assert rule.startswith("judge pair, raw: the likelier label decides (0.5 of the model's own pr")
    assert "misses 0.0 % (" in rule
    assert "overkill 100.0 % (" in rule


def test_without_a_calibration_the_likelier_label_decides(tmp_path: Path) -> None:
    decider = decider_of(make_run(tmp_path, leaning(2), test=leaning(20)), PredictConfig())
    judgement = decider.decide(*asked(-4.0), sentence=None)
    assert (judgement.decision, judgement.calibrated) == ("normal", False)
    assert any("the likelier label decides" in note for note in decider.notes([KIND]))


def test_a_promise_gives_a_third_answer_between_two_limits(tmp_path: Path) -> None:
    # Of 30 abnormal parts 6 have the margin -2, more than a tenth, so -2 is not passed.
    run = make_run(tmp_path, judged(40, wrong=2), test=judged(60, wrong=12))
    decider = decider_of(run, PROMISE)
    given = decider.promises[KIND]
    assert (given.pass_below, given.stop_above) == (-2.0, 2.0)

    found = [decider.decide(*asked(margin), None) for margin in (-2.1, -2.0, 0.0, 2.0, 2.1)]
    assert [each.decision for each in found] == ["normal", LOOK, LOOK, LOOK, "abnormal"]
    assert all(each.look_from < each.threshold < each.look_to for each in found)
    assert found[1].score == pytest.approx(found[1].look_from)
    assert [each.stopped for each in found] == [False, False, False, False, True]

    *_, note = [note for note in decider.notes([KIND]) if "looked at" in note]
    assert "of new abnormal parts at most 10 % are passed" in note
    assert "test records" in note
    assert "To be looked at: 100.0 %" in note


def test_a_promise_that_the_records_cannot_keep_is_refused_with_its_cure(tmp_path: Path) -> None:
    run = make_run(tmp_path, judged(40, wrong=2), test=judged(60, wrong=12))
    with pytest.raises(UserError) as refusal:
        decider_of(run, PredictConfig(max_miss=0.01, max_overkill=0.1))
    assert str(refusal.value) == (
        "predict.max_miss=0.01 predict.max_overkill=0.1: judge_pair in view raw: a promise of 1 % "
        "needs 99 abnormal parts that chose nothing, and there are 30, which suffice for 3.2 %; "
        "or leave both settings out"
    )
    decider_of(run, PredictConfig(max_miss=0.033, max_overkill=0.1))

    sealed = make_run(tmp_path / "sealed", judged(60, wrong=4, followed=True), test=None)
    with pytest.raises(UserError, match="chose the best of 20 checkpoints, and the test split is"):
        decider_of(sealed, PROMISE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_miss": 0.1}, "must be set together; add predict.max_overkill=0.05"),
        ({"max_overkill": 0.1}, "must be set together; add predict.max_miss=0.05"),
        (
            {"max_miss": 0.1, "max_overkill": 0.1, "cost_miss": 2.0, "cost_overkill": 1.0},
            "set predict.max_miss=null predict.max_overkill=null, or leave the costs out",
        ),
        ({"max_miss": 0.0, "max_overkill": 0.1}, "predict.max_miss must be between 0.0001 and 0.5"),
    ],
)
def test_promises_come_in_pairs_and_without_costs(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        PredictConfig(**settings)


def test_records_to_be_looked_at_are_counted_apart_and_never_wrong(tmp_path: Path) -> None:
    run = make_run(tmp_path, judged(40, wrong=2), test=judged(60, wrong=12))
    decider = decider_of(run, PROMISE)
    found = [decider.decide(*asked(margin), None) for margin in (-3.0, 0.0, 0.1, 3.0)]

    assert decision_figures(found, seed=0)["accuracy"].n == 2
    page = judgement_page("t", found, facts=[], notes=[], figures={}, most=9)
    assert "1 stopped · 2 to be looked at · 1 passed" in page
    assert 'id="only-look"' in page
    assert "look at it</span>" in page
    rows = list(csv.DictReader(io.StringIO(csv_text(found).lstrip("\ufeff"))))
    assert [row["decision"] for row in rows] == ["normal", LOOK, LOOK, "abnormal"]
    assert float(rows[0]["look_from"]) < float(rows[0]["look_to"])


def test_each_sentence_on_planted_defects_says_so(tmp_path: Path) -> None:
    validation = [
        replace(one, meta={PLANTED: "hole"}) if one.expected == "abnormal" else one
        for one in judged(40, wrong=2)
    ]
    good = [one for one in judged(60, wrong=6) if one.expected == "normal"]
    run = make_run(tmp_path, validation, test=good, checkpoints=1)
    decider = decider_of(run)
    assert decider.thresholds[KIND].measured_on is Source.PLANTED

    planted, calibrated, cost, why = decider.notes([KIND])
    assert planted.startswith(
        "judge pair, raw: 20 of the 20 abnormal validation records have planted defects"
    )
    assert "Real defects may score lower, and be missed" in planted
    assert "on 40 validation records with planted defects of 40 parts" in calibrated
    assert "n = 40 of 40 parts, validation records with planted defects)" in cost
    assert why.endswith("because the test split has no abnormal record")


def test_scores_that_fit_planted_defects_say_so_beside_figures_of_real_ones(
    tmp_path: Path,
) -> None:
    validation = [
        replace(one, meta={PLANTED: "hole"}) if one.expected == "abnormal" else one
        for one in judged(40, wrong=2)
    ]
    decider = decider_of(make_run(tmp_path, validation, test=judged(60, wrong=6)))
    planted, _, cost = decider.notes([KIND])
    assert "have planted defects, so scores and thresholds fit these" in planted
    assert "test records)" in cost
