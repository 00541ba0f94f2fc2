"""A metric is one file: put it into the package, and its figures are in every report."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vlmbench.metrics
from vlmbench.metrics import (
    MetricInfo,
    all_figures,
    all_metrics,
    decision_metrics,
    describe,
    figures_in,
)
from vlmbench.report.card import _figures as card_rows
from vlmbench.report.runs import RunResult
from vlmbench.report.tables import consistency_tables, further_tables, headline_table
from vlmbench.report.terminal import plain_tables
from vlmbench.types import Prediction, Task, UserError

# A metric file of the form that CONTRIBUTING.md shows.
SKELETON = '''"""How often the answer is right and names the part as abnormal."""

from __future__ import annotations

from collections.abc import Sequence

from vlmbench.metrics import MetricInfo
from vlmbench.metrics._select import select_ordinary, share
from vlmbench.types import Prediction, Rate

FIGURES = (
    MetricInfo(
        name="found_share",
        title="Found",
        unit="share",
        better="higher",
        meaning="Share of records that are rightly judged abnormal.",
        section="headline",
    ),
)


def measure(predictions: Sequence[Prediction]) -> dict[str, Rate | float]:
    """Return `found_share`: the share of records that are rightly judged abnormal."""
    records = select_ordinary(predictions)
    if not records:
        return {}

    is_found = lambda record: record.correct and record.predicted == "abnormal"
    return {"found_share": share(records, is_found)}
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A second folder of the package vlmbench.metrics, for the time of one test."""
    monkeypatch.setattr(vlmbench.metrics, "__path__", [*vlmbench.metrics.__path__, str(tmp_path)])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    yield tmp_path

    for path in tmp_path.glob("*.py"):
        sys.modules.pop(f"vlmbench.metrics.{path.stem}", None)
        vlmbench.metrics.__dict__.pop(path.stem, None)


def run_with(figures: dict[str, Any]) -> RunResult:
    return RunResult(
        name="0_smol",
        model="smol",
        data="single",
        seed=0,
        setting="",
        config={},
        status={"state": "finished"},
        env={},
        metrics={"scores": {"judge_pair": {"raw": figures}}},
        log=[],
        predictions=[],
    )


def row(value: float) -> dict[str, Any]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 60, "n_parts": 20}


def test_one_file_is_measured_and_shown_everywhere(folder: Path) -> None:
    (folder / "mine.py").write_text(SKELETON)
    abnormal = Prediction(
        id="1",
        task=Task.JUDGE_PAIR,
        group="part-1",
        view="raw",
        expected="abnormal",
        predicted="abnormal",
    )
    assert all_metrics()["mine"]([abnormal])["found_share"].hits == (True,)

    run = run_with({"accuracy": row(0.8), "found_share": row(0.4)})
    table = headline_table([run])
    assert (table.columns[-1].title, table.columns[-1].better) == ("Found", "↑")
    assert table.rows[0].figures[-1].sentence == "40.0 % (30.0 to 50.0 %; n 60, 20 parts)"
    assert ("Found", "Share of records that are rightly judged abnormal.") in table.legend

    (detail,) = further_tables([run])
    assert [column.title for column in detail.columns] == ["Found"]

    first_block = plain_tables([run]).split("\n\n")[0].splitlines()
    assert first_block[1].endswith("overkill  found")
    assert first_block[2].endswith("40.0 (30.0-50.0)")

    rows = card_rows(run.scores, [Task.JUDGE_PAIR])
    assert [(figure["name"], figure["value"]) for figure in rows] == [
        ("accuracy", 0.8),
        ("Found", 0.4),
    ]


def test_the_workspace_has_a_panel_for_it(folder: Path) -> None:
    pytest.importorskip("wandb_workspaces")
    from vlmbench.tracking.workspace import _figure_sections

    (folder / "mine.py").write_text(SKELETON)
    (section,) = _figure_sections([("judge_pair", "raw")])
    assert [panel.title for panel in section.panels][-1] == "Found"
    assert section.panels[-1].metrics == ["judge_pair/raw/found_share"]


def test_a_detail_is_in_the_detail_table_and_not_in_the_headline(folder: Path) -> None:
    text = SKELETON.replace('section="headline"', 'order=35, on_card=False, better="lower"')
    (folder / "mine.py").write_text(text.replace('        better="higher",\n', ""))
    run = run_with({"miss_rate": row(0.3), "found_share": row(0.4), "balanced_accuracy": row(0.7)})
    (detail,) = further_tables([run])
    assert [(column.name, column.better) for column in detail.columns] == [
        ("balanced_accuracy", "↑"),
        ("found_share", "↓"),
        ("miss_rate", "↓"),
    ]
    assert "found_share" not in [column.name for column in headline_table([run]).columns]
    assert "Found" not in [figure["name"] for figure in card_rows(run.scores, [Task.JUDGE_PAIR])]


def test_a_consistency_figure_is_in_the_consistency_table(folder: Path) -> None:
    (folder / "mine.py").write_text(SKELETON.replace('"headline"', '"consistency"'))
    (table,) = consistency_tables([run_with({"found_share": row(0.4)})])
    assert [column.title for column in table.columns] == ["Found"]
    assert further_tables([run_with({"found_share": row(0.4)})]) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("FIGURES =", "OTHERS =", r"mine\.py: it does not describe its figures; add FIGURES = \("),
        ("def measure(", "def count(", r"mine\.py: it has no function `measure`; add `def measure"),
        ('unit="share"', 'unit="%"', r"found_share has unit='%'; use one of \"share\", \"points\""),
        ('better="higher"', 'better="up"', r"has better='up'; use one of \"higher\", \"lower\""),
        ('section="headline"', 'section="top"', r"has section='top'; use one of \"headline\""),
        ('title="Found"', 'title=" "', r"found_share has no title; write title=\"\.\.\.\""),
        ('name="found_share"', 'name="found share"', r"must be an identifier, got 'found share'"),
        ('name="found_share"', 'name="ece"', r"calibration\.py both have a figure named ece"),
        ('unit="share"', 'unit="index", of_decisions=True', r"of_decisions=True and unit='index'"),
    ],
)
def test_an_incomplete_description_is_refused(
    folder: Path, old: str, new: str, message: str
) -> None:
    assert old in SKELETON
    (folder / "mine.py").write_text(SKELETON.replace(old, new))
    with pytest.raises(UserError, match=message):
        all_metrics()


def test_the_cure_for_a_missing_description_can_be_typed(folder: Path) -> None:
    bare = SKELETON[: SKELETON.index("FIGURES")] + SKELETON[SKELETON.index("def measure") :]
    (folder / "mine.py").write_text(bare)
    with pytest.raises(UserError) as refusal:
        all_metrics()

    cure = str(refusal.value).partition("; add ")[2]
    (folder / "cured.py").write_text(f"{bare}\n\n{cure}\n")
    (folder / "mine.py").unlink()
    sys.modules.pop("vlmbench.metrics.mine", None)
    assert describe("my_figure").title == "My figure"


def test_the_order_of_columns_cards_and_pages() -> None:
    assert [info.name for info in all_figures()] == [
        *("accuracy", "balanced_accuracy", "mean_type_accuracy", "miss_rate", "overkill_rate"),
        *("auroc", "ece", "unparsed", "region_iou", "region_named"),
        *("swap_symmetry", "self_pair", "transitivity"),
        *("other_reference_accuracy", "reference_gain", "reference_flips"),
        *("blank_reference_accuracy", "robust_accuracy"),
        *("flips_blurred", "flips_darkened", "flips_jpeg", "flips_rotated", "flips_shifted"),
        *("flips_reworded", "flips_leading"),
    ]
    assert [info.name for info in figures_in("headline")] == [
        *("accuracy", "balanced_accuracy", "miss_rate", "overkill_rate", "auroc"),
    ]
    assert {info.name: info.card_title for info in all_figures() if info.on_card} == {
        "accuracy": "accuracy",
        "balanced_accuracy": "balanced accuracy",
        "miss_rate": "miss rate",
        "overkill_rate": "overkill rate",
        "auroc": "AUROC",
        "ece": "expected calibration error",
        "region_iou": "overlap of the answered region with the marked one",
        "reference_gain": "what the own reference adds to accuracy",
        "swap_symmetry": "same label when swapped",
        "robust_accuracy": "right under every small change of the query",
        "flips_reworded": "other answer to the question in other words",
        "flips_leading": "other answer to a leading question",
    }
    assert list(decision_metrics()) == ["accuracy", "errors"]
    assert [info.name for info in all_figures() if info.of_decisions] == [
        *("accuracy", "miss_rate", "overkill_rate"),
    ]


def test_a_type_of_multiple_choice_is_titled_by_its_own_name() -> None:
    info = describe("accuracy_structural_anomalies")
    assert (info.title, info.unit, info.better) == ("Structural anomalies", "share", "higher")


def test_a_figure_without_a_file_is_a_number_under_its_own_name() -> None:
    assert describe("edge_score") == MetricInfo(
        name="edge_score", title="edge score", unit="number", meaning="", on_card=False
    )
