"""The article's experiment, whole, on models small enough for a test."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Outcome
from vlmbench.runs.sweep import SweepDir

DATA = (
    "without_comparison",
    "with_views",
    "with_shapes",
    "with_comparison",
    "matched_control",
    "single",
)


@pytest.mark.slow
def test_it_runs_from_the_images_to_the_article_section(
    cli: Callable[..., Outcome], tmp_path: Path, drawn: str
) -> None:
    done = cli(
        drawn,
        *(
            "experiment=vivlm24",
            "model=phi3_tiny,llama32_tiny",
            "seed=0",
            "trainer=debug",
            "trainer.max_steps=2",
            "source.num_parts=24",
        ),
        *("eval.limit=8", "eval.probes=false", "tracking=off", "sweep=runs/s"),
    )
    assert done.code == 0, done.err
    sweep = SweepDir(tmp_path / "runs" / "s")
    runs = [f"{model}_{data}_s0" for model in ("phi3_tiny", "llama32_tiny") for data in DATA]
    assert [run.path.name for run in sweep.runs()] == [
        f"{number}_{run}" for number, run in enumerate(runs)
    ]
    assert {run.read_status()["state"] for run in sweep.runs()} == {"finished"}
    trained = {run.path.name: run.read_metrics()["data"]["by_task"] for run in sweep.runs()[:6]}
    assert {
        name.removesuffix("_s0").partition("tiny_")[2]: sorted(tasks)
        for name, tasks in trained.items()
    } == {
        "without_comparison": ["judge_pair"],
        "with_views": ["compare_views", "judge_pair"],
        "with_shapes": ["compare_shapes", "judge_pair"],
        "with_comparison": ["compare_shapes", "compare_views", "judge_pair"],
        "matched_control": ["judge_pair"],
        "single": ["judge_single"],
    }
    report = (sweep.report / "report.md").read_text(encoding="utf-8")
    section = report[report.index("## Step by step") : report.index("## Learning curves")]
    answers = [len(re.findall("^- ", step, re.MULTILINE)) for step in section.split("###")[1:]]
    assert len(answers) == 6
    assert all(answers)
    assert "No answer in this sweep" not in section
