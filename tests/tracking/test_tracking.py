"""W&B, read back from the file that it writes."""

from __future__ import annotations

import json
import struct
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from wandb.proto import wandb_internal_pb2

from tests.conftest import image
from vlmbench.config import TrackingConfig, TrackingMode
from vlmbench.tracking.tracker import (
    NoTracker,
    WandbTracker,
    publish_report,
    start_tracker,
    verdict_summary,
)
from vlmbench.types import Prediction, Task

HEADER = 7  # bytes before the first record: ":W&B", a magic number, a version
BLOCK = 32768


def scan(content: bytes) -> Iterator[bytes]:
    """Yield the records of a .wandb file, which is a LevelDB log.

    It has chunks of (crc 4, length 2, kind 1, data) in blocks of 32 KiB. A chunk is a whole record
    (1), or its first (2), middle (3) or last (4) part.
    """
    assert content[:4] == b":W&B"
    position, parts = HEADER, b""
    while position + 7 <= len(content):
        left = BLOCK - position % BLOCK
        if left < 7:
            position += left
            continue
        length, kind = struct.unpack_from("<HB", content, position + 4)
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""


def read_back(folder: Path) -> dict[str, list[Any]]:
    """Return the records of a finished run's .wandb file by kind.

    W&B's own process writes it. On a busy machine it ends after the run's process.
    """
    (path,) = folder.rglob("run-*.wandb")
    for _ in range(300):
        found = records(path)
        if found["exit"]:
            break
        time.sleep(0.1)
    return found


def records(path: Path) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = defaultdict(list)
    for data in scan(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        found[kind].append(getattr(record, kind))
    return found


def items(entries: Any) -> dict[str, Any]:
    return {
        entry.key or "/".join(entry.nested_key): json.loads(entry.value_json) for entry in entries
    }


@pytest.fixture
def tracker(tmp_path: Path) -> WandbTracker:
    started = start_tracker(
        TrackingConfig(mode=TrackingMode.offline),
        folder=tmp_path,
        sweep="2026-01-31_quick",
        name="0_smol_single_s0",
        config={"seed": 3, "model": {"lora": {"r": 16}}},
    )
    assert isinstance(started, WandbTracker)
    return started


@pytest.mark.slow
def test_a_run_is_grouped_and_keeps_config_curves_table_and_adapter(
    tracker: WandbTracker, tmp_path: Path
) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    image(0).save(tmp_path / "a.png")
    prediction = Prediction(
        id="p1",
        task=Task.JUDGE_SINGLE,
        group="g",
        view="raw",
        expected="normal",
        predicted="abnormal",
        images=("a",),
    )
    for step in (1, 2):
        tracker.log({"step": step, "num_tokens": 100 * step, "loss": 1 / step})
    tracker.predictions([prediction], lambda path: image(0))
    tracker.adapter(adapter)
    tracker.log({"step": 2, "eval_loss": 0.4})
    tracker.summary(
        {
            "judge_pair/raw/accuracy": {
                "value": 0.75,
                "low": 0.6,
                "high": 0.9,
                "n": 40,
                "n_parts": 20,
            }
        }
    )
    tracker.finish(failed=False)
    found = read_back(tmp_path)
    (run,) = found["run"]
    assert (run.run_group, run.display_name, run.project) == (
        "2026-01-31_quick",
        "0_smol_single_s0",
        "vlmbench",
    )
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["seed"] == 3
    assert config["model"]["lora"]["r"] == 16
    rows = [items(history.item) for history in found["history"]]
    assert [(row["step"], row["num_tokens"], row["loss"]) for row in rows if "loss" in row] == [
        (1, 100, 1.0),
        (2, 200, 0.5),
    ]
    (table,) = (row for row in rows if "predictions/nrows" in row)
    assert (table["predictions/_type"], table["predictions/nrows"]) == ("table-file", 1)
    assert {artifact.type for artifact in found["artifact"]} >= {"model"}
    summary = {}
    for update in found["summary"]:
        summary |= items(update.update)
    figures = {
        name.rpartition("/")[2]: value
        for name, value in summary.items()
        if name.startswith("judge_pair/raw/")
    }
    assert figures == {
        "accuracy": 0.75,
        "accuracy_low": 0.6,
        "accuracy_high": 0.9,
        "accuracy_n": 40,
    }
    over_tokens = [
        (row["num_tokens"], row.get("by_tokens/loss"), row.get("by_tokens/eval_loss"))
        for row in rows
        if "num_tokens" in row
    ]
    assert over_tokens == [(100, 1.0, None), (200, 0.5, None), (200, None, 0.4)]
    drawn_over = {metric.name or metric.glob_name: metric.step_metric for metric in found["metric"]}
    assert drawn_over["by_tokens/*"] == "num_tokens"
    assert drawn_over["*"] == "step"
    assert found["exit"][0].exit_code == 0


@pytest.mark.slow
def test_a_sweeps_report_is_a_run_of_its_group(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    folder.mkdir()
    words = dict.fromkeys(
        ("model", "setting", "variant", "baseline", "task", "view", "verdict", "sentence"), "x"
    )
    numbers = dict.fromkeys(
        ("difference", "low", "high", "p_value", "p_holm", "n_records", "n_clusters"), 0.5
    )
    verdicts = {
        "tuning": {"sentence": "Tuning is worth it here."},
        "findings": [words | numbers | {"seeds": [3, 3]}],
        "plan": {"sentences": ["Planned.", "Both planned runs finished."]},
    }
    (folder / "verdicts.json").write_text(json.dumps(verdicts))
    (folder / "index.html").write_text("<!doctype html><title>report</title>")
    (folder / "report.md").write_text("# report\n")
    publish_report(
        TrackingConfig(mode=TrackingMode.offline), folder=folder, sweep="2026-01-31_quick"
    )
    found = read_back(tmp_path)
    (run,) = found["run"]
    assert (run.run_group, run.display_name, run.job_type) == (
        "2026-01-31_quick",
        "report",
        "report",
    )
    rows = [items(history.item) for history in found["history"]]
    assert any(row.get("verdicts/nrows") == 1 for row in rows)
    assert any(row.get("report/_type") == "html-file" for row in rows)
    assert verdict_summary(folder) == {
        "plan": "Planned. Both planned runs finished.",
        "tuning": "Tuning is worth it here.",
        "verdict_0": "x",
    }
    assert "report" in {artifact.type for artifact in found["artifact"]}


def test_a_report_that_is_not_to_leave_stays(tmp_path: Path) -> None:
    publish_report(
        TrackingConfig(mode=TrackingMode.offline, report=False),
        folder=tmp_path,
        sweep="2026-01-31_quick",
    )
    assert not list(tmp_path.iterdir())


def test_a_failed_run_is_marked_failed(tracker: WandbTracker, tmp_path: Path) -> None:
    tracker.finish(failed=True)
    assert read_back(tmp_path)["exit"][0].exit_code == 1


def test_training_goes_on_when_wandb_breaks(
    tracker: WandbTracker, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        id = "x"

        def log(self, row: dict[str, float], step: int) -> None:
            raise ConnectionError("the server hung up")

        def finish(self, exit_code: int) -> None:
            raise AssertionError("a broken run is left alone")

    tracker.finish(failed=False)
    broken = WandbTracker(Broken(), TrackingConfig())
    broken.log({"step": 1})
    broken.log({"step": 2})
    broken.finish(failed=False)
    assert caplog.text.count("the server hung up") == 1


def test_training_goes_on_when_wandb_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(**_: Any) -> None:
        raise RuntimeError("no service")

    monkeypatch.setattr("wandb.init", refuse)
    started = start_tracker(TrackingConfig(), folder=tmp_path, sweep="s", name="n", config={})
    assert isinstance(started, NoTracker)
    assert "no service" in caplog.text


def test_online_without_a_key_is_logged_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr("vlmbench.tracking.tracker._has_key", lambda: False)
    settings = TrackingConfig(mode=TrackingMode.online)
    started = start_tracker(settings, folder=tmp_path, sweep="s", name="n", config={})
    started.finish(failed=False)
    assert "no W&B key" in caplog.text
    assert read_back(tmp_path)["exit"][0].exit_code == 0


def test_off_writes_nothing(tmp_path: Path) -> None:
    started = start_tracker(
        TrackingConfig(mode=TrackingMode.off), folder=tmp_path, sweep="s", name="n", config={}
    )
    started.log({"step": 1})
    started.finish(failed=True)
    assert list(tmp_path.iterdir()) == []
