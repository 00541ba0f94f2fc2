"""The W&B workspace of a sweep, read back as it would be sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Outcome
from vlmbench.config import TrackingConfig
from vlmbench.runs.folder import RunDir, State
from vlmbench.runs.sweep import SweepDir
from vlmbench.tracking.workspace import make_workspace, save
from vlmbench.types import UserError


@pytest.fixture
def sweep(tmp_path: Path) -> SweepDir:
    run = RunDir(tmp_path / "2026-01-31_quick" / "0_smol_single_s0")
    run.path.mkdir(parents=True)
    run.write_status(State.FINISHED, run_hash="x")
    run.write_metrics(
        {"scores": {"judge_link": {"raw+rt": {}}, "judge_pair": {"rt": {}, "raw": {}}}}
    )
    return SweepDir(run.path.parent)


def sent(sweep: SweepDir) -> dict[str, Any]:
    made = make_workspace(TrackingConfig(entity="works", project="parts"), sweep)
    model: dict[str, Any] = json.loads(made._to_model().model_dump_json(by_alias=True))
    return model


def test_it_holds_the_sweeps_runs_by_variant(sweep: SweepDir) -> None:
    model = sent(sweep)
    assert (model["entity"], model["project"], model["displayName"]) == (
        "works",
        "parts",
        "2026-01-31_quick",
    )
    (runs,) = model["spec"]["section"]["runSets"]
    (condition,) = runs["filters"]["filters"]
    assert (condition["key"]["name"], condition["op"], condition["value"]) == (
        "group",
        "=",
        "2026-01-31_quick",
    )
    assert [one["name"] for one in runs["grouping"]] == ["backbone.value", "variant.value"]


def test_curves_are_over_steps_and_over_tokens_and_figures_are_those_measured(
    sweep: SweepDir,
) -> None:
    sections = sent(sweep)["spec"]["section"]["panelBankConfig"]["sections"]
    drawn = {
        section["name"]: [
            (panel["config"].get("xAxis"), *panel["config"]["metrics"])
            for panel in section["panels"]
            if panel["config"].get("metrics")
        ]
        for section in sections
    }
    assert list(drawn) == [
        "Curves over steps",
        "Curves over tokens",
        "judge pair, raw",
        "judge pair, rt",
        "judge link, raw+rt",
    ]
    assert ("step", "loss") in drawn["Curves over steps"]
    assert ("num_tokens", "by_tokens/eval_loss") in drawn["Curves over tokens"]
    assert len(drawn["judge pair, raw"]) == 5


def test_whose_it_is_must_be_said(sweep: SweepDir) -> None:
    with pytest.raises(UserError, match=r"tracking\.entity="):
        save(TrackingConfig(), sweep)


def test_a_refusal_names_the_location_and_the_cure(
    sweep: SweepDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Any) -> None:
        raise ConnectionError("no such project")

    monkeypatch.setattr("wandb_workspaces.workspaces.Workspace.save", refuse)
    with pytest.raises(
        UserError,
        match=r"works/vlmbench \(ConnectionError: no such project\); log in with `wandb login`",
    ):
        save(TrackingConfig(entity="works"), sweep)


def test_the_command_line_has_it(cli: Callable[..., Outcome], sweep: SweepDir) -> None:
    done = cli("stage=dashboard", f"sweep={sweep.path}")
    assert done.code == 2
    assert "set tracking.entity=my_team" in done.err
    assert "Traceback" not in done.err
