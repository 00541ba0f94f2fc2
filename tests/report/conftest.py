"""Fixtures: a sweep folder with two finished variants and a failed one, with small real images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.reports import (
    DEFECTS,
    HOSTILE,
    LABEL_ERROR,
    WRONG_WITH,
    WRONG_WITHOUT,
    RunMaker,
    _draw_part,
    make_log,
    make_metrics,
    make_predictions,
    sweep_of,
    wrong_prediction,
)
from vlmbench.report import write_report
from vlmbench.runs.folder import RunDir, State
from vlmbench.runs.sweep import SweepDir
from vlmbench.types import Probe


@pytest.fixture(scope="session")
def image_paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the paths of 12 drawn parts; every fourth part has no defect."""
    folder = tmp_path_factory.mktemp("images")
    return [str(_draw_part(folder / f"p{i:03}.png", i, DEFECTS[i % 4])) for i in range(12)]


@pytest.fixture
def make_run(tmp_path: Path, image_paths: list[str]) -> RunMaker:
    """Return a function that writes a run; a file can be replaced, or left out by None."""
    return _run_maker(tmp_path, image_paths)


def _run_maker(folder: Path, image_paths: list[str]) -> RunMaker:
    def make(
        number: int,
        data: str,
        *,
        better: float = 0.0,
        wrong: Sequence[int] = WRONG_WITHOUT,
        **given: Any,
    ) -> RunDir:
        values = {
            "state": State.FINISHED,
            "details": {},
            "env": {
                "command": "python -m vlmbench experiment=quick",
                "engine": "transformers",
                "engine_reason": "no CUDA GPU",
                "vision": "frozen",
                "device": "cpu: AMD EPYC 7B13",
                "versions": {"torch": "2.13.0", "transformers": "5.17.0", "trl": "1.14.2"},
                "git": "1a2b3c4",
            },
            "config": {
                "seed": 0,
                "run_label": f"run-{number}",
                "data_dir": str(Path(image_paths[0]).parent),
                "model": {"lora": {"r": 8}},
                "source": {"num_parts": 320, "labels": {}},
                "data": {"comparison": ["views", "shapes"]} if data == "with_comparison" else {},
            },
            "metrics": make_metrics(better),
            "log": make_log(300, 0.35 - better),
            "predictions": make_predictions(image_paths, wrong),
        } | given
        run = RunDir(folder / "2026-11-22_quick" / f"{number}_smol_{data}_s0")
        run.path.mkdir(parents=True)
        status = {
            "seconds": 312.0,
            "joules": None,
            "model": "smol",
            "data": data,
            "seed": 0,
            "error": "",
        }
        status["overrides"] = ["experiment=quick", f"data={data}"]
        run.write_start(values["env"], run_hash="9f8e7d")
        run.write_status(values["state"], run_hash="9f8e7d", **(status | values["details"]))
        if values["config"] is not None:
            run.write_config(yaml.safe_dump(values["config"]))
        if values["metrics"] is not None:
            run.write_metrics(values["metrics"])
        for row in values["log"]:
            run.append_train_log(row)
        if values["predictions"] is not None:
            run.write_predictions(values["predictions"])
        return run

    return make


@pytest.fixture
def sweep(make_run: RunMaker) -> SweepDir:
    """Return a sweep: without and with comparison records, finished, and the control, failed."""
    return _make_sweep(make_run)


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory, image_paths: list[str]) -> SweepDir:
    """Return the same sweep with its report, for tests that only read. A report takes 3 s."""
    sweep = _make_sweep(_run_maker(tmp_path_factory.mktemp("reported"), image_paths))
    write_report(sweep)
    return sweep


def _make_sweep(make_run: RunMaker) -> SweepDir:
    first = make_run(0, "without_comparison")
    make_run(1, "with_comparison", better=0.1, wrong=WRONG_WITH)
    make_run(
        2,
        "matched_control",
        state=State.FAILED,
        details={"error": LABEL_ERROR, "seconds": 41.0},
        metrics=None,
        log=make_log(80, 0.4),
        predictions=None,
    )
    return SweepDir(first.path.parent)


@pytest.fixture
def hostile_sweep(make_run: RunMaker) -> SweepDir:
    estimate = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10, "n_parts": 5}
    scores = {
        "judge_pair": {"raw": {"accuracy": estimate, HOSTILE: estimate}},
        HOSTILE: {HOSTILE: {"ece": estimate}},
    }
    metrics = {
        "scores": scores,
        "data": {
            "warnings": [HOSTILE],
            "by_task": {HOSTILE: 1},
            "parts": {HOSTILE: 1},
            "steps": 3,
        },
        "notes": [HOSTILE + "2"],
    }
    keys = ("command", "engine", "engine_reason", "vision", "device", "git")
    env = dict.fromkeys(keys, HOSTILE) | {"versions": {HOSTILE: HOSTILE}}
    texts = dict.fromkeys(
        ("id", "group", "expected", "predicted", "text", "question", "answer"), HOSTILE
    )
    wrong = wrong_prediction(
        **texts | {"predicted": HOSTILE + "!"},
        images=(HOSTILE, f"/x/{HOSTILE}"),
        meta={"defect": HOSTILE, HOSTILE: HOSTILE},
        scores={HOSTILE: -1.0, HOSTILE + "!": -0.5},
    )
    unlabelled = wrong_prediction(**texts | {"predicted": None}, view=HOSTILE, probe=Probe.BLANK)
    names = {"model": HOSTILE, "overrides": [HOSTILE, f"a={HOSTILE}"]}
    run = make_run(
        0,
        "without_comparison",
        metrics=metrics,
        env=env,
        predictions=[wrong, unlabelled],
        details=names,
    )
    make_run(
        1,
        "with_comparison",
        metrics=metrics,
        env=env,
        predictions=[wrong, unlabelled],
        details=names,
    )
    make_run(2, "x", state=State.FAILED, details=names | {"error": HOSTILE, "data": HOSTILE})
    return sweep_of(run)
