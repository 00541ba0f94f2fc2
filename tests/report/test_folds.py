"""A report takes the folds of a seed together: every part counts once, in its fold."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.helpers.baselines import keep_baseline, share_key
from tests.helpers.reports import RunMaker
from vlmbench.report import write_report
from vlmbench.report.baselines import baseline_section
from vlmbench.report.build import comparison_table, read_sweep
from vlmbench.report.decisions import answers_of
from vlmbench.report.folds import gaps, merge_folds, pool_folds
from vlmbench.report.runs import read_runs
from vlmbench.report.scores import task_view_scores
from vlmbench.report.series import series_of
from vlmbench.report.verdicts import findings
from vlmbench.runs.folder import State
from vlmbench.runs.sweep import SweepDir
from vlmbench.stats import rule_of
from vlmbench.types import LABELS, Prediction, Task, UserError

FOLDS, PARTS = 5, 40  # parts of 2 records; a fold has 8 parts
VARIANTS = ("without_comparison", "with_comparison")


def fold_predictions(fold: int, right: float, shift: float = 0.0) -> list[Prediction]:
    """Return two records of each part of the fold; this share of the parts is judged right."""
    negative, positive = LABELS[Task.JUDGE_PAIR]
    parts = range(fold * PARTS // FOLDS, (fold + 1) * PARTS // FOLDS)
    found = []
    for number, part in enumerate(parts):
        is_right = number < right * len(parts)
        for index, expected in enumerate((negative, positive)):
            margin = (1.0 if (expected == positive) == is_right else -1.0) + shift
            found.append(
                Prediction(
                    id=f"{part}-{index}",
                    task=Task.JUDGE_PAIR,
                    group=f"part-{part}",
                    view="raw",
                    expected=expected,
                    predicted=positive if margin > 0 else negative,
                    scores={positive: margin, negative: 0.0},
                )
            )
    return found


def make_folds(
    make_run: RunMaker,
    rights: dict[str, Sequence[float]],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    without: Sequence[tuple[str, int, int]] = (),
    **given: Any,
) -> SweepDir:
    """Write a run for each variant, seed and fold, but those in `without`: they fail."""
    runs = []
    for data, by_fold in rights.items():
        for seed in seeds:
            for fold, right in enumerate(by_fold):
                overrides = [f"data={data}", f"seed={seed}", "data.folds=5", f"data.fold={fold}"]
                details = {"seed": seed, "overrides": overrides}
                state = State.FINISHED
                if (data, seed, fold) in without:
                    state, details["error"] = State.FAILED, "out of memory"
                config = {
                    "seed": seed,
                    "data": {"folds": 5, "fold": fold, "split_seed": 0},
                    "baseline": {"majority": {}},
                    "eval": {"primary": given.get("primary", "balanced_accuracy")},
                }
                shift = given.get("shift", 0.0) * fold
                run = make_run(
                    len(runs),
                    data,
                    state=state,
                    details=details,
                    config=config,
                    predictions=fold_predictions(fold, right, shift),
                )
                if given.get("calibrated"):
                    run.write_calibration(_calibration(shift))
                runs.append(run)
    return SweepDir(runs[0].path.parent)


def _calibration(shift: float) -> dict[str, Any]:
    numbers = {"slope": 1.0, "intercept": -shift, "n": 20, "n_parts": 10, "n_positive": 10}
    return {"judge_pair": {"raw": numbers}}


EVEN = {VARIANTS[0]: [0.5] * 5, VARIANTS[1]: [1.0] * 5}


def test_every_part_counts_once_for_each_seed(make_run: RunMaker) -> None:
    runs = read_runs(make_folds(make_run, EVEN))
    assert len(runs) == 30
    pooled = pool_folds(runs)
    assert [(run.data, run.seed) for run in pooled] == [
        (data, seed) for data in VARIANTS for seed in range(3)
    ]
    assert all(len(run.answers(Task.JUDGE_PAIR, "raw")) == 2 * PARTS for run in pooled)
    assert pooled[0].label == "smol · without_comparison · seed 0 · 5 folds"
    assert runs[1].label == "smol · without_comparison · seed 0 · fold 1"
    assert pool_folds(pooled) == pooled

    (finding,), refusals = findings(runs)
    assert not refusals
    comparison = finding.comparison
    assert comparison.difference == pytest.approx(0.5)
    assert (comparison.n_records, comparison.n_clusters, comparison.seeds) == (80, 40, (3, 3))
    assert finding.verdict == "better"
    assert "3 seeds, 5 folds" in finding.sentence


def test_folds_that_differ_give_no_verdict(make_run: RunMaker) -> None:
    rights = {VARIANTS[0]: [0.5] * 5, VARIANTS[1]: [1.0, 1.0, 1.0, 0.25, 0.25]}
    (finding,), _ = findings(read_runs(make_folds(make_run, rights)))
    # folds differ by 0.5, 0.5, 0.5, -0.25, -0.25: the mean is 0.2, with 2.776 x 0.411 / sqrt(5)
    assert finding.comparison.difference == pytest.approx(0.2)
    assert finding.comparison.high - 0.2 == pytest.approx(0.51, abs=0.005)
    assert finding.verdict == "not enough data to tell"


@pytest.mark.slow
def test_a_seed_that_lacks_a_fold_is_named_and_does_not_count(make_run: RunMaker) -> None:
    sweep = make_folds(make_run, EVEN, without=[("with_comparison", 1, 3)])
    runs = read_runs(sweep)
    (gap,) = gaps(runs)
    sentence = "smol · with_comparison · seed 1 lacks fold 3 of 5, so this seed does not count"
    assert gap.sentence == sentence

    (finding,), _ = findings(runs)
    assert finding.seeds == ((0, 2), (0, 1, 2))
    assert sentence in finding.sentence
    assert "smol · with_comparison · seed 1 · fold 3 failed" in finding.sentence

    write_report(sweep)
    assert sentence in (sweep.report / "report.md").read_text(encoding="utf-8")
    row = json.loads((sweep.report / "verdicts.json").read_text(encoding="utf-8"))["findings"][0]
    assert row["seeds_of_variant"] == [0, 2]


def test_no_whole_seed_gives_no_verdict(make_run: RunMaker) -> None:
    without = [("with_comparison", seed, 0) for seed in range(3)]
    runs = read_runs(make_folds(make_run, EVEN, without=without))
    assert findings(runs) == ([], [])
    assert [series.data for series in series_of(runs)] == ["without_comparison"]


def test_each_fold_has_a_threshold_of_its_own(make_run: RunMaker) -> None:
    """Scores of fold k are k too high, and so are its calibrated thresholds."""
    sweep = make_folds(make_run, EVEN, shift=1.0, calibrated=True)
    pooled = pool_folds(read_runs(sweep))
    rule = rule_of(pooled[0].config)
    answers = answers_of(pooled[3:], Task.JUDGE_PAIR, "raw", rule)
    assert answers.right.all()
    assert answers.folds == tuple(k for k in range(5) for _ in range(16))
    assert answers.uncalibrated == ""


def test_auroc_compares_no_scores_of_two_folds(make_run: RunMaker) -> None:
    sweep = make_folds(make_run, EVEN, shift=100.0, primary="auroc")
    (finding,), refusals = findings(read_runs(sweep))
    assert not refusals
    assert finding.comparison.figure == "auroc"
    assert finding.comparison.difference == pytest.approx(0.5)  # 1.0 against 0.5 in each fold

    members = task_view_scores(read_runs(sweep))[0].members
    assert all(member.roc is None for member in members)


def test_figures_over_folds_are_means_where_scores_do_not_compare(make_run: RunMaker) -> None:
    runs = read_runs(make_folds(make_run, {VARIANTS[1]: [1.0] * 5}, seeds=[0], shift=3.0))
    (row,) = merge_folds(runs)
    figures = row.scores["judge_pair"]["raw"]
    assert figures["auroc"]["value"] == pytest.approx(1.0)  # among all scores it would be less
    assert figures["auroc"]["n_parts"] == PARTS


def test_a_seed_that_lacks_a_fold_keeps_a_row_for_each(make_run: RunMaker) -> None:
    sweep = make_folds(make_run, EVEN, seeds=[0, 1], without=[("with_comparison", 1, 3)])
    rows = merge_folds(read_runs(sweep))
    assert len(rows) == 3 + 5
    assert [row.label.rpartition(" · ")[2] for row in rows[3:]] == [f"fold {k}" for k in range(5)]
    assert len({row.name for row in rows}) == len(rows)


def test_other_folds_are_not_compared(make_run: RunMaker) -> None:
    sweep = make_folds(make_run, EVEN)
    runs = pool_folds(read_runs(sweep))
    first = answers_of(runs[:3], Task.JUDGE_PAIR, "raw", rule_of(runs[0].config))
    assert first.folds is not None
    # the same records, as if another fold had tested each
    folds = tuple(reversed(runs[3].folds))
    moved = [replace(runs[3], folds=folds), *runs[4:]]
    with pytest.raises(UserError, match=r"data\.folds, data.split_seed"):
        answers_of(moved, Task.JUDGE_PAIR, "raw", rule_of(runs[0].config))


@pytest.mark.slow
def test_the_report_of_folds_is_written_whole(make_run: RunMaker) -> None:
    sweep = make_folds(make_run, EVEN)
    read = read_sweep(sweep)
    page = write_report(sweep, read)
    assert page.exists()
    text = (sweep.report / "report.md").read_text(encoding="utf-8")
    assert "with_comparison judges held-out raw pairs better" in text
    assert len(read.rows) == 6
    assert read.rows[0].scores["judge_pair"]["raw"]["accuracy"]["n"] == 2 * PARTS
    assert "comparison · seed 0 · 5 folds | 100.0 %" in text
    assert "smol with_comparison seed 2 5 folds" in comparison_table(sweep, read)
    assert read.plan.look is not None
    assert read.plan.look.number == 1


def with_probe(sweep: SweepDir, rights: Sequence[float], *, folds: Sequence[int] = ()) -> None:
    """Let all seeds of a fold share the answers of a baseline, right on this share of parts.

    Its scores shift from fold to fold: they can be ordered within a fold, and each fold needs its
    own threshold. The runs of `folds` have none.
    """
    for fold, right in enumerate(rights):
        if fold not in folds:
            answers = fold_predictions(fold, right, shift=4.0 * fold)
            keep_baseline(sweep.path, "probe", answers, key=f"{fold:032x}", validation=answers)
    for run in sweep.runs():
        fold = int(run.read_config()["data"]["fold"])
        if fold not in folds:
            share_key(run, probe=f"{fold:032x}")


def test_baselines_of_folds_are_compared_over_all_parts(make_run: RunMaker) -> None:
    sweep = make_folds(make_run, EVEN)
    with_probe(sweep, [0.75] * 5)
    section = baseline_section(sweep.path, read_runs(sweep))

    assert not section.left_out
    (table,) = section.tables
    probe, *tuned = table.rows
    assert [row.name for row in table.rows] == ["probe", *(row.name for row in tuned)]
    figures = {figure.metric.name: figure for figure in probe.figures}
    assert figures["miss_rate"].n == PARTS
    assert figures["auroc"].value == pytest.approx(0.75)  # over all folds it would be less
    assert probe.seconds == pytest.approx(5 * 1.75)

    assert section.worth is not None
    assert section.worth.word == "worth it"
    assert "80 records of 40 parts, 3 seeds, 5 folds)" in section.sentence
    changes = {
        series.split()[-1]: change.comparison
        for (series, _), change in section.worth.changes.items()
    }
    assert changes["with_comparison"].difference == pytest.approx(0.25)
    assert changes["without_comparison"].difference == pytest.approx(-0.25)
    assert all(one.spread.folds is not None for one in changes.values() if one.spread)


def test_a_baseline_that_lacks_a_fold_is_named(make_run: RunMaker) -> None:
    sweep = make_folds(make_run, EVEN)
    with_probe(sweep, [0.75] * 5, folds=[3])
    section = baseline_section(sweep.path, read_runs(sweep))
    assert not section.tables
    (left_out,) = section.left_out
    assert (left_out.name, left_out.reason) == ("probe", "4 of 5 folds have answers of it")
    assert len(left_out.about) == 6


def test_a_baseline_of_other_folds_is_not_compared(make_run: RunMaker) -> None:
    sweep = make_folds(make_run, EVEN)
    with_probe(sweep, [0.75] * 5)
    answers = [fold_predictions(fold, 0.75) for fold in range(FOLDS)]
    for fold, moved in enumerate([answers[-1], *answers[:-1]]):
        shutil.rmtree(sweep.path / "baselines" / f"{fold:032x}")
        keep_baseline(sweep.path, "probe", moved, key=f"{fold:032x}")
    section = baseline_section(sweep.path, read_runs(sweep))
    assert section.worth is None
    assert "tested the same parts in different folds" in section.sentence


def test_heat_maps_of_folds_have_one_scale(make_run: RunMaker) -> None:
    sweep = make_folds(make_run, EVEN)
    with_probe(sweep, [0.75] * 5)
    for fold, hottest in enumerate((1.0, 4.0)):
        answers = fold_predictions(fold, 0.75)
        key = (answers[0].id, Task.JUDGE_PAIR, "raw")
        shutil.rmtree(sweep.path / "baselines" / f"{fold:032x}")
        keep_baseline(
            sweep.path,
            "probe",
            answers,
            key=f"{fold:032x}",
            heat={key: np.full((2, 2), 200, np.uint8)},
            hottest={"judge_pair raw": hottest},
        )
    (asked,) = baseline_section(sweep.path, read_runs(sweep)).asked
    assert [int(heat[0, 0]) for heat in asked.read_heat().values()] == [50, 200]
