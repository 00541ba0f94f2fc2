"""The files of a real run, written and read back: the types of a run's files leave nothing out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vlmbench.runs.folder import RunDir, to_json

READERS = {
    "status.json": RunDir.read_status,
    "env.json": RunDir.read_env,
    "metrics.json": RunDir.read_metrics,
    "calibration.json": RunDir.read_calibration,
    "baselines.json": RunDir.read_baselines,
}


def without_nulls(value: Any) -> Any:
    """Return JSON values without the keys whose value is null: a reader leaves these out."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", READERS)
def test_all_that_a_run_writes_is_read_back(finished: RunDir, name: str) -> None:
    written = json.loads((finished.path / name).read_text(encoding="utf-8"))
    assert written
    assert READERS[name](finished) == without_nulls(written)


def test_what_only_some_runs_write_is_read_back(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    env = {"engine": "transformers", "base_model": "sha256 0", "git": "abc"}
    choices = {"batch_size": 4, "gradient_accumulation": 2, "too_many_at_once": [8]}
    rows = {"untuned": {"key": "a", "of": "b"}, "patch_nn": {"error": "no tower", "of": "c"}}

    (tmp_path / "env.json").write_text(to_json(env))
    run.write_choices(choices)
    run.write_baselines(rows)
    assert (run.read_env(), run.read_choices(), run.read_baselines()) == (env, choices, rows)
