"""The page of answers says when scores have drifted since the run was tested."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.deploy.test_decide import asked, decider_of, judged, make_run
from vlmbench.config import PredictConfig
from vlmbench.deploy.drift import find_drifts
from vlmbench.report import drift as module
from vlmbench.report.answers import judgement_page
from vlmbench.report.drift import ScoreDrift
from vlmbench.stats.drift import DRAWS, Drift
from vlmbench.types import Judgement


def judge(tmp_path: Path, margins: list[float]) -> tuple[list[Judgement], list[ScoreDrift]]:
    """Judge parts with these margins by a run whose test records have margins of 2 and -2."""
    run = make_run(tmp_path, judged(40, wrong=2), test=judged(60, wrong=6))
    decider = decider_of(run, PredictConfig())
    judgements = []
    for number, margin in enumerate(margins):
        record, prediction = asked(margin, name=f"now{number}")
        judgements.append(decider.decide(record, prediction, None))
    return judgements, find_drifts(decider, judgements, seed=0)


def page_of(judgements: list[Judgement], drifts: list[ScoreDrift]) -> str:
    return judgement_page("t", judgements, facts=[], notes=[], figures={}, most=99, drifts=drifts)


def test_scores_as_before_are_no_drift(tmp_path: Path) -> None:
    judgements, drifts = judge(tmp_path, [2.0, -2.0] * 15)
    (only,) = drifts
    assert not only.has_drifted
    assert only.sentence.startswith("judge pair, raw: no drift of the scores is seen (30 records")

    page = page_of(judgements, drifts)
    assert "Scores have drifted" not in page
    assert page.count("<svg") == 1
    assert 'href="#drift"' in page


@pytest.mark.parametrize(("margin", "words"), [(4.0, "higher"), (-4.0, "lower")])
def test_scores_that_moved_stand_above_the_answers(
    tmp_path: Path, margin: float, words: str
) -> None:
    judgements, drifts = judge(tmp_path, [margin] * 30)
    (only,) = drifts
    assert only.has_drifted
    assert f"scores for abnormal are {words} than before in " in only.sentence
    assert only.drift is not None
    assert only.drift.p_value == 1 / (1 + DRAWS)  # no exchange has such a distance
    assert "(30 records of 30 parts now, 60 test records of 60 parts before; p = " in only.sentence

    page = page_of(judgements, drifts)
    assert page.index("Scores have drifted") < page.index('id="answers"')


def test_without_matplotlib_the_page_has_the_words_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    page = page_of(*judge(tmp_path, [4.0] * 30))
    assert "Scores have drifted" in page
    assert "<svg" not in page
    assert "coloured" not in page


def test_a_small_p_value_is_told_as_a_doubt() -> None:
    drift = Drift(shift=0.3, p_value=0.02, n=(30, 60), n_parts=(30, 60))
    shown = ScoreDrift(
        title="judge pair, raw",
        positive="abnormal",
        now=(0.5,),
        before=(0.4,),
        drift=drift,
        source="test records",
    )
    assert "scores may have drifted, and more parts would tell (30 records" in shown.sentence
    assert not shown.has_drifted


def test_few_parts_are_too_few_and_one_is_not_asked_about(tmp_path: Path) -> None:
    judgements, drifts = judge(tmp_path / "few", [2.0, 2.0, 2.0])
    assert [each.sentence for each in drifts] == [
        "judge pair, raw: there are too few parts to tell whether scores have drifted; it takes 10"
    ]
    assert not drifts[0].has_drifted
    assert re.search(r"too few parts", page_of(judgements, drifts))

    judgements, drifts = judge(tmp_path / "one", [2.0])
    assert drifts == []
    assert "drift" not in page_of(judgements, drifts).partition("</style>")[2]
