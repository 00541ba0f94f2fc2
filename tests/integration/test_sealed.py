"""A sealed test split: nothing of it is answered until stage=reveal answers all of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Outcome
from vlmbench.pipeline.answer import Asker
from vlmbench.runs.folder import RunDir
from vlmbench.runs.ledger import read_ledger
from vlmbench.runs.plan import Plan, read_plan
from vlmbench.runs.sweep import SweepDir
from vlmbench.types import Prediction, Record

Cli = Callable[..., Outcome]
TINY = (
    *("-m", "model=llama32_tiny", "trainer=debug", "source.num_parts=24", "tracking=off"),
    *("eval.limit=8", "sweep=runs/s", "seed=0", "data=without_comparison,with_comparison"),
)
SEALED = "test split is sealed"


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return the ids of all records that a model is asked, probes among them."""
    ids: set[str] = set()
    answer = Asker.answer

    def note(
        self: Asker, records: list[Record], *, progress: str | None = None
    ) -> list[Prediction]:
        ids.update(record.id for record in records)
        return answer(self, records, progress=progress)

    monkeypatch.setattr(Asker, "answer", note)
    return ids


def plan_of(folder: Path) -> Plan:
    plan = read_plan(folder / "runs" / "s")
    assert plan is not None
    return plan


@pytest.mark.slow
def test_a_sealed_test_split_is_answered_once_by_reveal(
    cli: Cli, tmp_path: Path, answered: set[str]
) -> None:
    done = cli(*TINY, "eval.test=sealed")
    assert done.code == 0, done.err[-2000:]
    runs = SweepDir(tmp_path / "runs" / "s").runs()
    _require_sealed(tmp_path, runs, done.out)
    asked = set(answered)
    assert asked >= {one.id for run in runs for one in run.read_validation()}

    status = runs[0].read_status()
    revealed = cli("stage=reveal", "sweep=runs/s")
    assert revealed.code == 0, revealed.err[-2000:]
    assert runs[0].read_status()["run_hash"] == status["run_hash"]
    assert runs[0].read_status()["overrides"] == status["overrides"]
    _require_revealed(tmp_path, runs)
    tested = {one.id for run in runs for one in run.read_predictions()}
    assert tested
    assert asked.isdisjoint(tested)

    times = [run.read_status()["time"] for run in runs]
    again = cli("stage=reveal", "sweep=runs/s")
    assert again.code == 0
    assert "the test split was revealed on" in again.out
    assert [run.read_status()["time"] for run in runs] == times
    assert len(plan_of(tmp_path).reveals) == 1


def _require_sealed(folder: Path, runs: list[RunDir], out: str) -> None:
    assert "judge_pair raw, validation records (test split sealed)" in out
    for run in runs:
        assert not (run.path / "predictions.jsonl").exists()
        metrics = run.read_metrics()
        assert metrics["scores"] == {}
        assert metrics["validation_scores"]["judge_pair"]["raw"]["accuracy"]["n"] > 0
        assert run.read_calibration()
        assert any("chose the best of 2 checkpoints" in note for note in metrics["notes"])
        followed = {one.followed for one in run.read_validation()}
        assert True in followed
        assert None not in followed

    sweep = folder / "runs" / "s"
    assert not (folder / "runs" / "ledger.jsonl").exists()
    assert not (sweep / "looks.json").exists()
    assert plan_of(folder).test_hash
    report = (sweep / "report" / "report.md").read_text(encoding="utf-8")
    assert report.count(SEALED) >= 3  # the note at the top, the figures, the plan
    assert json.loads((sweep / "report" / "verdicts.json").read_text())["findings"] == []


def _require_revealed(folder: Path, runs: list[RunDir]) -> None:
    for run in runs:
        assert run.read_predictions()
        assert run.read_metrics()["scores"]["judge_pair"]["raw"]["accuracy"]["n"] > 0
        assert not run.is_sealed

    rows, damaged = read_ledger(folder / "runs" / "ledger.jsonl")
    assert [row.run for row in rows] == [run.path.name for run in runs]
    assert {row.test_hash for row in rows} == {plan_of(folder).test_hash}
    assert damaged == ()
    assert len(plan_of(folder).reveals) == 1

    report = (folder / "runs/s/report/report.md").read_text(encoding="utf-8")
    assert "was sealed until it was revealed on" in report
    assert "2 runs of 1 sweep were scored on this test split" in report
    assert "Validation figures" not in report


@pytest.mark.slow
def test_there_is_nothing_to_reveal_in_a_sweep_without_a_sealed_run(
    cli: Cli, tmp_path: Path
) -> None:
    run = RunDir(tmp_path / "runs" / "s" / "0_a")
    run.path.mkdir(parents=True)
    (run.path / "status.json").write_text('{"state": "finished", "time": 0}')
    refused = cli("stage=reveal", "sweep=runs/s")
    assert refused.code == 2
    assert "nothing to reveal; set stage=report" in refused.err
    assert cli("stage=report", "sweep=runs/s").code == 0
