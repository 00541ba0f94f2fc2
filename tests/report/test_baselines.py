"""The report's first question: is tuning worth it here?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.helpers.baselines import KEY, heat_map, keep_baseline, share_key, sign, with_margins
from tests.helpers.predictions import answers
from tests.helpers.reports import HOSTILE, RunMaker
from vlmbench.report.baseline_answers import decide, decide_all
from vlmbench.report.baseline_figures import estimates
from vlmbench.report.baselines import baseline_section, summary_figures
from vlmbench.report.build import comparison_table, write_report
from vlmbench.report.runs import read_runs
from vlmbench.runs.baselines import BaselineDir
from vlmbench.runs.folder import RunDir
from vlmbench.runs.sweep import SweepDir
from vlmbench.types import Prediction, Task

OTHER = KEY[::-1]


@pytest.fixture
def asked(sweep: SweepDir) -> SweepDir:
    """Return the sweep with a baseline that is always right and one that knows nothing."""
    runs = sweep.runs()
    predictions = runs[0].read_predictions()
    right = with_margins(predictions, lambda each: 0.3 + 0.1 * sign(each))
    heat = {(each.id, each.task, each.view): heat_map() for each in right if each.view == "raw"}
    keep_baseline(
        sweep.path,
        "patch_nn",
        right,
        validation=right,
        heat=heat,
        errors={"judge_single raw": "no reference"},
    )
    blind = with_margins(predictions, lambda each: -0.1)
    keep_baseline(sweep.path, "majority", blind, key=OTHER, validation=blind)
    for run in runs[:2]:
        share_key(run, patch_nn=KEY, majority=OTHER)
        run.write_validation(run.read_predictions())
    return sweep


def test_the_table_has_baselines_beside_tuned_series(asked: SweepDir) -> None:
    section = baseline_section(asked.path, read_runs(asked))
    raw, rt = section.tables
    assert (raw.view, rt.view) == ("raw", "rt")
    rows = {row.name: row for row in raw.rows}
    assert list(rows) == [
        "patch_nn",
        "majority",
        "smol · without_comparison",
        "smol · with_comparison",
    ]

    texts = [figure.text for figure in rows["patch_nn"].figures]
    assert texts == ["100.0 %", "1.000", "0.0 %", "0.0 %"]
    assert rows["patch_nn"].time == "1.8 s"
    assert rows["patch_nn"].figures[0].count == "n 60, 20 parts"
    assert [figure.text for figure in rows["majority"].figures] == [
        "50.0 %",
        "0.500",
        "100.0 %",
        "0.0 %",
    ]
    assert rows["smol · with_comparison"].time == "312.0 s"
    assert rows["smol · with_comparison"].figures[0].value == pytest.approx(0.8, abs=0.03)


def test_one_seed_gives_no_verdict_on_tuning(asked: SweepDir) -> None:
    section = baseline_section(asked.path, read_runs(asked))
    assert section.verdict == "not enough data to tell"
    assert section.sentence.startswith(
        "These runs do not tell whether tuning is worth it on held-out raw pairs: "
        "smol · without_comparison against patch_nn −30.0 points of balanced accuracy "
    )
    assert "60 records of 20 parts, 1 seed" in section.sentence
    assert section.sentence.endswith("One seed gives no verdict.")


@pytest.mark.slow
def test_a_left_out_baseline_is_named_with_its_reason(asked: SweepDir) -> None:
    runs = asked.runs()
    runs[1].write_baselines(
        {"linear_probe": {"error": "the tower has no map"}, "patch_nn": {"key": "../x"}}
    )
    with (BaselineDir(asked.path / "baselines" / OTHER).path / "facts.json").open("a") as file:
        file.write(" ")

    section = baseline_section(asked.path, read_runs(asked))
    reasons = {(each.name, each.about): each.reason for each in section.left_out}
    second = ("smol · with_comparison · seed 0",)
    assert reasons["linear_probe", second] == "the tower has no map"
    assert "is no key of a baseline" in reasons["patch_nn", second]
    assert reasons["patch_nn", ("judge_single raw",)] == "no reference"
    assert "facts.json is damaged" in reasons["majority", ("smol · without_comparison · seed 0",)]

    page = write_report(asked).read_text(encoding="utf-8")
    assert "Baseline linear_probe has no answers: the tower has no map" in page


@pytest.mark.slow
def test_the_page_asks_first_whether_tuning_is_worth_it(asked: SweepDir) -> None:
    page = write_report(asked).read_text(encoding="utf-8")
    assert page.index('<section id="baselines">') < page.index('<section id="result">')
    text = (asked.report / "report.md").read_text(encoding="utf-8")
    assert text.index("## Is tuning worth it here?") < text.index("does the variant help?")
    assert "These runs do not tell whether tuning is worth it" in text
    assert "| patch_nn (about patch_nn) | 100.0 %" in text
    assert "where patch_nn sees a difference; this is not the tuned model" in page

    table = comparison_table(asked)
    assert "judge_pair raw, held out: is tuning worth it?" in table
    assert "These runs do not tell whether tuning is worth it" in table
    assert table.isascii() or "·" in table


@pytest.mark.slow
def test_a_sweep_without_baselines_has_no_such_section(sweep: SweepDir) -> None:
    page = write_report(sweep).read_text(encoding="utf-8")
    assert "Is tuning worth it" not in page
    assert "tuning worth it" not in (sweep.report / "report.md").read_text(encoding="utf-8")
    assert "tuning worth it" not in comparison_table(sweep)


def test_hostile_answers_of_a_baseline_are_harmless(hostile_sweep: SweepDir) -> None:
    run = hostile_sweep.runs()[0]
    hostile = [
        replace(each, id=HOSTILE, group=HOSTILE, question=HOSTILE, meta={HOSTILE: HOSTILE})
        for each in answers([1.0, -1.0], [True, False])
    ]
    keep_baseline(
        hostile_sweep.path,
        HOSTILE,
        hostile,
        title=HOSTILE,
        notes={HOSTILE: HOSTILE},
        errors={HOSTILE: HOSTILE},
    )
    run.write_baselines({HOSTILE: {"key": KEY}, HOSTILE + "2": {"error": HOSTILE}})
    page = write_report(hostile_sweep).read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "onerror=alert(1)>" not in page.replace("&gt;", "")
    assert "\x1b" not in comparison_table(hostile_sweep)


@pytest.mark.parametrize("text", ["[]", "{", '{"majority": 3}', '{"majority": {"key": 5}}'])
def test_a_damaged_list_of_baselines_costs_no_report(asked: SweepDir, text: str) -> None:
    (asked.runs()[0].path / "baselines.json").write_text(text)
    section = baseline_section(asked.path, read_runs(asked))
    assert section.tables  # those of the other run
    assert section.left_out


def margins_of(share_right: float, num_positive: int, num_negative: int) -> list[Prediction]:
    rng = np.random.default_rng(0)
    positive = [True] * num_positive + [False] * num_negative
    right = rng.random(len(positive)) < share_right
    margins = [5.0 + (1.0 if p == r else 0.0) for p, r in zip(positive, right, strict=True)]
    return answers(margins, positive)


def test_the_threshold_weighs_both_errors_the_same_however_rare_defects_are() -> None:
    records = margins_of(0.8, 40, 360)
    decided = decide(records, records)
    # The likelier label would be "normal" for all: 10 % are abnormal.
    recalls = [
        np.mean([each.correct for each in decided if each.expected == label])
        for label in ("normal", "abnormal")
    ]
    assert min(recalls) > 0.7


def test_without_validation_records_the_labels_stay() -> None:
    records = margins_of(0.8, 10, 10)
    assert decide(records[:3], records) == records
    assert decide([], records) == records


def test_figures_of_several_runs_are_their_mean() -> None:
    first = answers([1, 1, -1, -1], [True, True, False, False])
    second = answers([1, -1, -1, -1], [True, True, False, False])
    found = estimates([first, second], seed=0)
    assert found["balanced_accuracy"].value == pytest.approx((1.0 + 0.75) / 2)
    assert found["auroc"].value == pytest.approx((1.0 + 0.75) / 2)
    assert found["miss_rate"].value == pytest.approx(1 / 4)
    assert (found["auroc"].n, found["auroc"].n_parts) == (4, 4)


def test_figures_for_the_tracker_name_the_baseline(asked: SweepDir) -> None:
    rows = {"patch_nn": {"key": KEY}, "untuned": {"error": "no"}}
    figures = summary_figures(asked.path, rows, seed=0)
    assert figures["baseline/patch_nn/auroc"]["value"] == 1.0
    assert figures["baseline/patch_nn/judge_pair/rt/miss_rate"]["value"] == 0.0
    assert set(figures["baseline/patch_nn/auroc"]) >= {"value", "low", "high", "n"}
    assert not any("untuned" in name for name in figures)


def test_probes_are_no_answers_of_a_baseline(make_run: RunMaker) -> None:
    run: RunDir = make_run(0, "without_comparison")
    kinds = decide_all([], run.read_predictions())
    assert all(each.probe == "none" for own in kinds.values() for each in own)
    assert (Task.JUDGE_PAIR, "raw") in kinds
