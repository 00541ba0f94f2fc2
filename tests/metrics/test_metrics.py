from __future__ import annotations

import math
from typing import Any

import pytest

from vlmbench.data.changes import CHANGES
from vlmbench.metrics import (
    accuracy,
    all_metrics,
    auroc,
    blank_reference,
    by_task_and_view,
    calibration,
    describe,
    errors,
    image_flips,
    other_reference,
    robust_accuracy,
    self_pair,
    swap_symmetry,
    transitivity,
    wording_flips,
)
from vlmbench.types import Prediction, Probe, Rate, Task, UserError

OK, NG = "normal", "abnormal"


def prediction(
    id: str,  # noqa: A002
    expected: str,
    predicted: str | None,
    *,
    p: float | None = None,
    **rest: Any,
) -> Prediction:
    """Return a prediction; `p` is the probability of the positive label."""
    scores = {} if p is None else {OK: math.log(1 - p), NG: math.log(p)}
    values = {"task": Task.JUDGE_PAIR, "group": f"part-{id}", "view": "raw"} | rest
    return Prediction(id=id, expected=expected, predicted=predicted, scores=scores, **values)


def value(figure: Rate | float) -> float:
    return sum(figure.hits) / len(figure.hits) if isinstance(figure, Rate) else figure


# Four abnormal parts, three of them found. Two normal parts, one of them stopped.
JUDGED = [
    prediction("1", NG, NG),
    prediction("2", NG, NG),
    prediction("3", NG, NG),
    prediction("4", NG, OK),
    prediction("5", OK, OK),
    prediction("6", OK, NG),
]
PROBE = prediction("5-self", OK, NG, probe=Probe.SELF, of=("5",))


def test_every_module_is_a_metric_without_figures_for_no_predictions():
    metrics = all_metrics()
    assert list(metrics) == [
        "accuracy",
        "auroc",
        "blank_reference",
        "calibration",
        "errors",
        "image_flips",
        "option_types",
        "other_reference",
        "region_iou",
        "robust_accuracy",
        "self_pair",
        "swap_symmetry",
        "transitivity",
        "wording_flips",
    ]
    assert [measure([]) for measure in metrics.values()] == [{}] * len(metrics)


def test_each_figure_has_one_metric_file_and_a_description():
    scored = [prediction(p.id, p.expected, p.predicted, p=0.4) for p in JUDGED]
    probes = [
        prediction(f"1-{k}", NG, OK, probe=k, of=("4",), group="part-4")
        for k in (Probe.SWAP, Probe.SELF, Probe.BLANK, Probe.OTHER, Probe.CLOSURE)
    ]
    probes += [asked_again(JUDGED[3], change, OK, Probe.PERTURBED) for change in CHANGES]
    probes += [asked_again(JUDGED[3], words, OK, Probe.REWORDED) for words in ("formal", "leading")]
    names = [name for measure in all_metrics().values() for name in measure([*scored, *probes])]
    assert len(names) == len(set(names)) == 22
    assert all(describe(name).meaning for name in names)


def test_accuracy_counts_each_ordinary_record_with_its_part_and_no_probe():
    figure = accuracy.measure([*JUDGED, PROBE])["accuracy"]
    assert isinstance(figure, Rate)
    assert figure.hits == (True, True, True, False, True, False)
    assert figure.parts == ("part-1", "part-2", "part-3", "part-4", "part-5", "part-6")


def test_an_unparsed_answer_is_counted_and_wrong():
    figures = accuracy.measure([prediction("1", NG, NG), prediction("2", OK, None)])
    assert value(figures["unparsed"]) == 0.5
    assert value(figures["accuracy"]) == 0.5


def test_balanced_accuracy_is_the_mean_of_both_recalls():
    # recalls 3/4 and 1/2
    assert accuracy.measure(JUDGED)["balanced_accuracy"] == pytest.approx(0.625)


def test_balanced_accuracy_is_absent_where_one_class_is():
    assert "balanced_accuracy" not in accuracy.measure(JUDGED[:4])


def test_miss_rate_and_overkill_rate_each_rest_on_their_own_class():
    figures = errors.measure([*JUDGED, PROBE])
    assert (value(figures["miss_rate"]), value(figures["overkill_rate"])) == (0.25, 0.5)
    assert isinstance(figures["miss_rate"], Rate)
    assert len(figures["miss_rate"].hits) == 4


def test_an_unparsed_answer_is_a_miss_on_an_abnormal_part_and_overkill_on_a_normal_one():
    figures = errors.measure([prediction("1", NG, None), prediction("2", OK, None)])
    assert (value(figures["miss_rate"]), value(figures["overkill_rate"])) == (1.0, 1.0)


def test_a_class_that_does_not_occur_has_no_error_rate():
    assert list(errors.measure(JUDGED[:4])) == ["miss_rate"]


def test_errors_use_the_labels_of_the_task():
    same = prediction("1", "same_part", "different_part", task=Task.COMPARE_VIEWS)
    assert {name: value(figure) for name, figure in errors.measure([same]).items()} == {
        "overkill_rate": 1.0
    }


def test_auroc_is_the_share_of_pairs_in_the_right_order_with_ties_as_half():
    # positives 0.9, 0.5 against negatives 0.5, 0.3, 0.1: 3 + (0.5 + 1 + 1) = 5.5 of 6 pairs
    scored = [prediction("1", NG, NG, p=0.9), prediction("2", NG, NG, p=0.5)]
    scored += [prediction(str(i), OK, OK, p=p) for i, p in enumerate((0.5, 0.3, 0.1), start=3)]
    assert auroc.measure(scored)["auroc"] == pytest.approx(5.5 / 6)


def test_auroc_is_absent_without_scores_or_with_one_class():
    assert auroc.measure(JUDGED) == {}
    assert auroc.measure([prediction("1", NG, NG, p=0.9), prediction("2", NG, NG, p=0.5)]) == {}
    assert auroc.measure([prediction("1", NG, NG, p=0.9), prediction("2", OK, OK)]) == {}


def test_ece_is_the_mean_gap_between_confidence_and_accuracy_over_the_bins():
    # bin (0.9, 1]: confidences 0.95, 0.95 (one right): |1 - 1.9| = 0.9
    # bin (0.5, 0.6]: confidences 0.55 (right), 0.6 (right): |2 - 1.15| = 0.85; together 1.75 / 4
    scored = [prediction("1", NG, NG, p=0.95), prediction("2", NG, OK, p=0.05)]
    scored += [prediction("3", NG, NG, p=0.55), prediction("4", OK, OK, p=0.4)]
    assert calibration.measure(scored)["ece"] == pytest.approx(1.75 / 4)


def test_ece_is_absent_without_scores():
    assert calibration.measure(JUDGED) == {}


def test_swap_symmetry_is_the_share_of_swapped_pairs_with_an_unchanged_label():
    # Record 4 stays normal. Record 6, abnormal before, turns normal. Correctness does not matter.
    probes = [prediction(f"{i}-swap", OK, OK, probe=Probe.SWAP, of=(i,)) for i in ("4", "6")]
    figure = swap_symmetry.measure([*JUDGED, *probes])["swap_symmetry"]
    assert isinstance(figure, Rate)
    assert figure.hits == (True, False)


def test_two_unparsed_answers_are_not_symmetric():
    base = prediction("1", OK, None)
    swapped = prediction("1-swap", OK, None, probe=Probe.SWAP, of=("1",))
    assert value(swap_symmetry.measure([base, swapped])["swap_symmetry"]) == 0.0


def test_a_probe_without_its_base_record_is_an_error_that_names_both():
    swapped = prediction("9-swap", OK, OK, probe=Probe.SWAP, of=("9",))
    with pytest.raises(
        UserError, match="'9-swap' is a swap probe of record '9', which has no prediction"
    ):
        swap_symmetry.measure([*JUDGED, swapped])


def test_self_pair_is_the_share_of_references_that_are_judged_normal_beside_themselves():
    probes = [
        PROBE,
        prediction("1-self", OK, OK, probe=Probe.SELF),
        prediction("2-self", OK, None, probe=Probe.SELF),
    ]
    assert value(self_pair.measure([*JUDGED, *probes])["self_pair"]) == pytest.approx(1 / 3)


def test_transitivity_counts_only_closing_pairs_whose_premises_were_both_judged_the_same():
    def pair(id: str, predicted: str | None, of: tuple[str, ...] = ()) -> Prediction:  # noqa: A002
        probe = Probe.CLOSURE if of else Probe.NONE
        return prediction(id, "same_shape", predicted, task=Task.COMPARE_SHAPES, probe=probe, of=of)

    same, different = "same_shape", "different_shape"
    records = [pair("ab", same), pair("ac", same), pair("ad", same), pair("ae", different)]
    closing = [
        pair("bc", same, ("ab", "ac")),
        pair("bd", different, ("ab", "ad")),
        pair("cd", None, ("ac", "ad")),
        pair("be", different, ("ab", "ae")),  # not counted: A and E were judged different
        pair("bf", same, ("ab", "af")),  # not counted: A and F have no prediction
    ]
    figure = transitivity.measure([*records, *closing])["transitivity"]
    assert isinstance(figure, Rate)
    assert figure.hits == (True, False, False)


def test_transitivity_is_absent_where_no_premises_hold():
    closing = prediction("bc", OK, OK, probe=Probe.CLOSURE, of=("1", "2"))
    assert transitivity.measure([*JUDGED, closing]) == {}


def with_reference(kind: Probe, labels: dict[str, str]) -> list[Prediction]:
    """Return JUDGED, and probes of some of them with another reference."""
    truth = {p.id: p.expected for p in JUDGED}
    probes = [
        prediction(f"{i}-b", truth[i], label, probe=kind, of=(i,)) for i, label in labels.items()
    ]
    return [*JUDGED, *probes]


def test_reference_gain_is_the_accuracy_that_the_own_reference_adds_on_the_same_records():
    # Records 1, 4, 5, 6 are right, wrong, right, wrong (2/4).
    # With the reference of another part they are wrong, wrong, right, wrong (1/4).
    figures = other_reference.measure(
        with_reference(Probe.OTHER, {"1": OK, "4": OK, "5": OK, "6": NG})
    )
    assert value(figures["other_reference_accuracy"]) == 0.25
    assert figures["reference_gain"] == 0.25
    assert value(figures["reference_flips"]) == 0.25  # of record 1 alone


def test_a_grey_reference_gives_an_accuracy_and_no_gain():
    predictions = with_reference(Probe.BLANK, {"1": OK, "4": OK, "5": OK, "6": NG})
    figures = blank_reference.measure(predictions)
    assert list(figures) == ["blank_reference_accuracy"]
    assert value(figures["blank_reference_accuracy"]) == 0.25


def test_predictions_are_split_by_task_and_view_and_probes_go_with_their_base_record():
    record = prediction("1", OK, OK, task=Task.JUDGE_LINK, view="raw+rt")
    swapped = prediction(
        "1-swap", OK, OK, task=Task.JUDGE_LINK, view="rt+raw", probe=Probe.SWAP, of=("1",)
    )
    other = prediction("2", OK, OK)
    lonely = prediction("3-swap", OK, OK, view="rt", probe=Probe.SWAP, of=("3",))
    assert by_task_and_view([record, swapped, other, lonely]) == {
        (Task.JUDGE_LINK, "raw+rt"): [record, swapped],
        (Task.JUDGE_PAIR, "raw"): [other],
        (Task.JUDGE_PAIR, "rt"): [lonely],
    }


def asked_again(base: Prediction, change: str, predicted: str | None, probe: Probe) -> Prediction:
    """Return the answer to a record whose query or question was changed."""
    return prediction(
        f"{probe}:{change}:{base.id}",
        base.expected,
        predicted,
        probe=probe,
        of=(base.id,),
        change=change,
        group=base.group,
    )


def test_robust_accuracy_counts_records_that_are_right_under_every_change():
    right, spoilt, wrong = JUDGED[0], JUDGED[4], JUDGED[3]
    again = [
        asked_again(base, change, predicted, Probe.PERTURBED)
        for base, answers in ((right, (NG, NG)), (spoilt, (OK, NG)), (wrong, (NG, NG)))
        for change, predicted in zip(("blurred", "rotated"), answers, strict=True)
    ]
    (figure,) = robust_accuracy.measure([*JUDGED, *again]).values()
    assert isinstance(figure, Rate)
    assert figure.hits == (True, False, False)
    assert figure.parts == ("part-1", "part-5", "part-4")


def test_each_change_has_its_flip_rate_and_no_answer_is_a_flip():
    blurred = [
        asked_again(base, "blurred", predicted, Probe.PERTURBED)
        for base, predicted in zip(JUDGED[:4], (NG, OK, None, OK), strict=True)
    ]
    rotated = [asked_again(JUDGED[0], "rotated", NG, Probe.PERTURBED)]
    figures = image_flips.measure([*JUDGED, *blurred, *rotated])
    assert {name: value(figure) for name, figure in figures.items()} == {
        "flips_blurred": 0.5,
        "flips_rotated": 0.0,
    }


def test_a_leading_question_is_counted_apart_from_neutral_words():
    reworded = [
        asked_again(JUDGED[0], "formal", NG, Probe.REWORDED),
        asked_again(JUDGED[0], "reversed", OK, Probe.REWORDED),
        asked_again(JUDGED[0], "leading", OK, Probe.REWORDED),
        asked_again(JUDGED[5], "leading", NG, Probe.REWORDED),
    ]
    figures = wording_flips.measure([*JUDGED, *reworded])
    assert value(figures["flips_reworded"]) == 0.5
    assert value(figures["flips_leading"]) == 0.5
    assert figures["flips_reworded"].parts == ("part-1", "part-1")


def test_pairs_that_are_asked_again_change_no_other_figure():
    again = [asked_again(JUDGED[0], "blurred", OK, Probe.PERTURBED)]
    again += [asked_again(JUDGED[0], "leading", OK, Probe.REWORDED)]
    for metric in (accuracy, errors, self_pair, swap_symmetry, other_reference, transitivity):
        assert metric.measure([*JUDGED, PROBE]) == metric.measure([*JUDGED, PROBE, *again])
