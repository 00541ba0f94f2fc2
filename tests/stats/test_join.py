"""Records of a part joined to one answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.helpers.predictions import answers
from vlmbench.config import Join
from vlmbench.stats import (
    Source,
    calibrate,
    deciding,
    find_basis,
    join_predictions,
    join_records,
    join_tiles,
    promise,
    shape_of,
)
from vlmbench.stats.join import JOINS
from vlmbench.types import Prediction, Probe


@pytest.mark.parametrize(
    ("how", "margin", "decider"), [("max", 4.0, 1), ("mean", 1.0, 1), ("median", 0.0, 2)]
)
def test_margins_are_joined(how: str, margin: float, decider: int) -> None:
    members = answers([-1.0, 4.0, 0.0], [False] * 3, part_size=3)
    assert join_predictions(members, how).margin == pytest.approx(margin)
    assert deciding([-1.0, 4.0, 0.0], how) == decider


def test_the_most_suspicious_tile_decides() -> None:
    joined, chosen = join_tiles(answers([-1.0, 4.0, 0.0], [False] * 3, part_size=3))
    assert chosen == 1
    assert joined.margin == pytest.approx(4.0)
    assert joined.predicted == "abnormal"


@pytest.mark.parametrize(
    ("labels", "chosen"),
    [
        (["normal", "abnormal", "abnormal"], 1),
        (["normal", None, "normal"], 1),  # an answer without a label is never taken as normal
        (["normal", None, "abnormal"], 2),
        (["normal", "normal", "normal"], 0),
    ],
)
def test_generated_answers_of_tiles_are_joined(labels: list[str | None], chosen: int) -> None:
    members = [
        replace(each, scores={}, text=str(label), predicted=label)
        for each, label in zip(answers([0.0] * 3, [True] * 3), labels, strict=True)
    ]
    assert join_tiles(members) == (members[chosen], chosen)


@pytest.mark.parametrize("limit", [-2.0, 0.5, 3.0])
def test_the_median_is_a_majority_vote_at_every_threshold(limit: float) -> None:
    rng = np.random.default_rng(0)
    for margins in rng.normal(0, 3, (200, 5)):
        (joined,) = join_records(photos_of_a_part(margins.tolist()), (1,) * 5, "median")
        assert joined.margin is not None
        assert (joined.margin > limit) == (np.sum(margins > limit) >= 3)


def test_each_join_that_can_be_set_is_computed() -> None:
    assert set(JOINS) == set(Join)


def photos_of_a_part(margins: list[float]) -> list[Prediction]:
    return answers(margins, [True] * len(margins), part_size=len(margins))


def test_scores_stay_log_probabilities() -> None:
    joined = join_predictions(answers([300.0, 2.0], [True] * 2, part_size=2), "max")
    assert np.exp(list(joined.scores.values())).sum() == pytest.approx(1.0)
    assert joined.margin == pytest.approx(300.0)
    assert joined.predicted == "abnormal"


def test_a_part_with_one_defect_is_abnormal_and_one_unknown_label_makes_it_unknown() -> None:
    members = answers([0.0, 1.0], [False, True], part_size=2)
    assert join_predictions(members, "max").expected == "abnormal"
    assert join_predictions([*members, replace(members[0], expected="")], "max").expected == ""


def test_records_without_scores_are_not_joined() -> None:
    (one,) = answers([1.0], [True])
    with pytest.raises(ValueError, match="without scores"):
        join_predictions([one, replace(one, scores={})], "max")


def test_references_of_a_photo_are_not_photos_of_a_part() -> None:
    """A part with two photos, one beside three references and one beside two."""
    shown = [("r1", "a"), ("r2", "a"), ("r3", "a"), ("r1", "b"), ("r2", "b")]
    made = answers([1.0, 2.0, 3.0, 4.0, 5.0], [True] * 5, part_size=5)
    records = [replace(one, images=images) for one, images in zip(made, shown, strict=True)]
    assert shape_of([query for _, query in shown]) == (3, 2)

    def margins(*shape: int) -> list[float | None]:
        return [round(each.margin or 0, 9) for each in join_records(records, shape, "max")]

    assert margins(3) == [3.0]
    assert margins(2) == [2.0, 5.0]
    assert margins(3, 2) == [5.0]
    assert margins(3, 3) == []
    assert sorted(margins(1)) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert margins(1, 1) == [4.0, 5.0]


def test_labels_parts_and_probes_do_not_mix() -> None:
    made = answers([1.0, 2.0, 3.0, 4.0], [True, False, True, False], part_size=4)
    joined = join_records(made, (1, 1), "max")
    assert {(one.expected, round(one.margin or 0, 9)) for one in joined} == {
        ("abnormal", 3.0),
        ("normal", 4.0),
    }
    assert join_records(answers([1.0, 2.0], [True] * 2), (1, 1), "max") == []
    assert join_records([replace(one, probe=Probe.SELF) for one in made], (1, 1), "max") == []


def world(parts: int, photos: int, rng: np.random.Generator) -> list[Prediction]:
    """Return photos of parts; photos of one part are alike, every second part is abnormal."""
    positive = np.repeat(np.arange(parts) % 2 == 0, photos)
    margins = rng.normal(0, 1, parts).repeat(photos) + rng.normal(0, 1.5, parts * photos)
    return answers((margins + 2.0 * positive).tolist(), positive.tolist(), part_size=photos)


@pytest.mark.slow
def test_the_promise_holds_for_joined_records_and_breaks_for_a_maximum_without() -> None:
    """200 worlds with 60 calibration parts; the promised overkill is 10 %."""
    rng = np.random.default_rng(7)
    shape = (1, 1, 1, 1)
    joined_rates, single_rates = [], []

    for _ in range(200):
        calibration, new = world(60, 4, rng), world(60, 4, rng)
        parts = [each for each in join_records(new, shape, "max") if each.expected == "normal"]
        assert len(parts) == 30

        for records, rates in (
            (join_records(calibration, shape, "max"), joined_rates),
            (calibration, single_rates),
        ):
            basis = find_basis(records, (), calibrate(records), checkpoints=0)
            assert basis.source is Source.TEST
            given = promise(basis, max_miss=0.1, max_overkill=0.1)
            rates.append(np.mean([given.label(each.margin or 0.0) == 1 for each in parts]))

    error = np.std(joined_rates) / np.sqrt(200)
    assert np.mean(joined_rates) <= 0.1 + 3 * error
    assert np.mean(joined_rates) >= 0.05  # not by stopping nothing
    assert np.mean(single_rates) > 0.15
