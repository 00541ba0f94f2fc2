"""Controls that a run fails are said first, in words."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from vlmbench.report.alarms import Alarm, Control, alarms
from vlmbench.report.runs import RunResult
from vlmbench.types import Prediction, Probe, Task

MARGIN = {"normal": -2.0, "abnormal": 2.0}


def answer(
    number: int,
    label: str,
    *,
    expected: str = "normal",
    probe: Probe = Probe.NONE,
    view: str = "raw",
) -> Prediction:
    base = f"r{number}"
    return Prediction(
        id=base if probe is Probe.NONE else f"{probe}:{base}",
        task=Task.JUDGE_PAIR,
        group=f"part-{number}",
        view=view,
        expected=expected,
        predicted=label,
        scores={"normal": 0.0, "abnormal": MARGIN[label]},
        probe=probe,
        of=() if probe is Probe.NONE else (base,),
    )


def sound(count: int = 20) -> list[Prediction]:
    """Return right answers to both labels, to self pairs, and to other references: half change."""
    truth = ["abnormal" if i % 2 else "normal" for i in range(count)]
    rows = [answer(i, label, expected=label) for i, label in enumerate(truth)]
    rows += [answer(i, "normal", probe=Probe.SELF) for i in range(count)]
    return rows + [answer(i, "abnormal", probe=Probe.OTHER) for i in range(count)]


def run(
    predictions: Sequence[Prediction],
    *,
    seed: int = 0,
    state: str = "finished",
    trained: str = "judge_pair",
    calibration: dict[str, object] | None = None,
    validation: Sequence[Prediction] = (),
) -> RunResult:
    return RunResult(
        name=f"run-{seed}",
        model="smol",
        data="without_comparison",
        seed=seed,
        setting="",
        config={},
        status={"state": state},
        env={},
        metrics={"data": {"by_task": {trained: 5}}},
        log=[],
        predictions=predictions,
        calibration=calibration or {},
        validation=validation,
    )


def said(predictions: Sequence[Prediction]) -> list[tuple[Control, str]]:
    return [(alarm.control, alarm.text) for alarm in alarms([run(predictions)])]


def instead(kind: Probe, rows: Sequence[Prediction]) -> list[Prediction]:
    """Return sound answers with those of one kind replaced."""
    return [each for each in sound() if each.probe is not kind] + list(rows)


def test_a_sound_run_has_no_alarm() -> None:
    assert said(sound()) == []


@pytest.mark.parametrize(
    ("predictions", "control", "words"),
    [
        (
            instead(
                Probe.SELF,
                [answer(i, "abnormal" if i else "normal", probe=Probe.SELF) for i in range(15)],
            ),
            Control.self_pair,
            "judge pair, raw: 14 of 15 images beside themselves are judged abnormal, so the "
            "answers are not about differences between the two images",
        ),
        (
            instead(
                Probe.NONE,
                [
                    answer(i, "normal", expected="abnormal" if i % 2 else "normal")
                    for i in range(20)
                ],
            ),
            Control.one_label,
            "judge pair, raw: all 20 records are judged normal",
        ),
        (
            instead(
                Probe.OTHER,
                [
                    answer(i, "abnormal" if i % 2 else "normal", probe=Probe.OTHER)
                    for i in range(20)
                ],
            ),
            Control.reference,
            "judge pair, raw: the reference does not matter: with the reference of another part, "
            "0 of 20 answers change",
        ),
    ],
    ids=["self_pair", "one_label", "reference"],
)
def test_each_failed_control_is_said_in_words(
    predictions: Sequence[Prediction], control: Control, words: str
) -> None:
    assert said(predictions) == [(control, words)]


def test_without_other_references_a_grey_one_that_changes_nothing_is_enough() -> None:
    grey = [answer(i, "abnormal" if i % 2 else "normal", probe=Probe.BLANK) for i in range(20)]
    ((control, words),) = said(instead(Probe.OTHER, grey))
    assert control is Control.reference
    assert "with a grey image as the reference, 0 of 20 answers change" in words


def test_a_grey_reference_is_no_alarm_where_another_part_makes_a_difference() -> None:
    grey = [answer(i, "abnormal" if i % 2 else "normal", probe=Probe.BLANK) for i in range(20)]
    assert said([*sound(), *grey]) == []


def test_a_few_answers_of_one_label_may_be_chance() -> None:
    few = [answer(i, "normal", expected="abnormal" if i % 2 else "normal") for i in range(9)]
    few += [answer(i, "normal", probe=Probe.OTHER) for i in range(9)]
    assert said(few) == []


def test_two_thirds_of_few_self_pairs_are_no_proof_of_a_fault() -> None:
    three = [answer(i, "normal" if i else "abnormal", probe=Probe.SELF) for i in range(3)]
    assert said(instead(Probe.SELF, three)) == []


def test_the_calibrated_threshold_decides() -> None:
    # All margins are shifted by 5 nats: the model's own labels are all abnormal.
    shifted = [
        Prediction(
            id=each.id,
            task=each.task,
            group=each.group,
            view=each.view,
            expected=each.expected,
            predicted="abnormal",
            scores={"normal": 0.0, "abnormal": each.scores["abnormal"] + 5},
            probe=each.probe,
            of=each.of,
        )
        for each in sound()
    ]
    numbers = {"slope": 1.0, "intercept": -5.0, "n": 40, "n_parts": 20, "n_positive": 20}
    calibrated = run(shifted, calibration={"judge_pair": {"raw": numbers}})

    assert alarms([calibrated]) == []
    found = {alarm.control for alarm in alarms([run(shifted)])}
    assert found == {Control.self_pair, Control.one_label}


def test_seeds_of_one_failure_stand_together_and_unfinished_runs_say_nothing() -> None:
    broken = instead(Probe.SELF, [answer(i, "abnormal", probe=Probe.SELF) for i in range(8)])
    found = alarms(
        [
            run(broken, seed=0),
            run(broken, seed=1),
            run(sound(), seed=2),
            run(broken, seed=3, state="failed"),
        ]
    )
    (alarm,) = found
    assert alarm.about == (
        "smol · without_comparison · seed 0",
        "smol · without_comparison · seed 1",
    )
    assert alarm.to_row()["control"] == "self_pair"
    assert alarm.sentence.endswith(
        "(smol · without_comparison · seed 0, smol · without_comparison · seed 1)"
    )
    assert isinstance(alarm, Alarm)


def test_tasks_that_did_not_train_promise_nothing() -> None:
    broken = instead(Probe.SELF, [answer(i, "abnormal", probe=Probe.SELF) for i in range(8)])
    assert alarms([run(broken, trained="judge_single")]) == []


def test_without_abnormal_test_records_one_label_shows_on_validation_records() -> None:
    good = [answer(i, "normal") for i in range(20)]
    blind = [answer(i, "normal", expected="abnormal" if i % 2 else "normal") for i in range(20)]
    (found,) = alarms([run(good, validation=blind)])
    assert found.control is Control.one_label
    assert found.text == "judge pair, raw: all 20 validation records are judged normal"

    seeing = [answer(i, label, expected=label) for i, label in enumerate(("abnormal", "normal"))]
    assert not alarms([run(good, validation=seeing * 10)])
    assert not alarms([run(good)])
