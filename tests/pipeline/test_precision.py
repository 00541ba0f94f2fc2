"""trainer.precision=auto: the runs of a sweep share one precision, and later uses keep it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.cards import A100, T4, Card, play_card
from vlmbench.config import Precision, TrainerConfig
from vlmbench.pipeline.precision import as_trained, settle_precision
from vlmbench.pipeline.run import Run
from vlmbench.runs.folder import RunDir
from vlmbench.system import processes
from vlmbench.types import UserError


@dataclass(kw_only=True)
class Config:
    """The settings that the choice depends on."""

    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    name: str = "mine"


def make_run(sweep: Path, **trainer: Any) -> Run:
    config: Any = Config(trainer=TrainerConfig(**trainer))
    return Run(config=config, settings={}, folder=RunDir(sweep / "1_new"), choices={}, identity={})


def write_run(
    sweep: Path, precision: str, *, state: str = "finished", setting: str = "auto"
) -> RunDir:
    folder = sweep / "0_old"
    folder.mkdir(parents=True)
    (folder / "env.json").write_text(json.dumps({"precision": precision}))
    (folder / "config.yaml").write_text(f"trainer: {{precision: {setting}}}\n")
    (folder / "status.json").write_text(json.dumps({"state": state, "time": 0}))
    return RunDir(folder)


@pytest.mark.parametrize(
    ("card", "recorded", "chosen"),
    [(A100, "fp16", "fp16"), (T4, "fp16", "fp16"), (A100, "bf16", "bf16"), (None, "fp32", "fp32")],
)
def test_a_sweep_goes_on_as_it_began(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    card: Card | None,
    recorded: str,
    chosen: str,
) -> None:
    play_card(monkeypatch, card)
    write_run(tmp_path, recorded)
    assert settle_precision(make_run(tmp_path)).choose_precision()[0] == chosen


@pytest.mark.parametrize(
    ("card", "recorded", "own"),
    [(T4, "bf16", "fp16"), (T4, "fp32", "fp16"), (A100, "fp32", "bf16")],
)
def test_a_sweep_that_cannot_go_on_as_it_began_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, card: Card, recorded: str, own: str
) -> None:
    play_card(monkeypatch, card)
    old = write_run(tmp_path / "mine", recorded)
    with pytest.raises(
        UserError, match=f"made in {recorded}, .* takes {own} .*{card[0]}"
    ) as refused:
        settle_precision(make_run(tmp_path / "mine"))

    assert str(refused.value).startswith(str(old.path))
    name = re.search(r"set name=(\S+) for", str(refused.value))[1]
    assert settle_precision(make_run(tmp_path / name)).choose_precision()[0] == own


@pytest.mark.parametrize(("recorded", "is_refused"), [("bf16", False), ("fp16", True)])
def test_a_finished_run_may_be_started_again_anywhere_but_not_one_in_fp16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: str, is_refused: bool
) -> None:
    play_card(monkeypatch, None)
    finished = write_run(tmp_path, recorded)
    again = replace(make_run(tmp_path), folder=finished)
    if is_refused:
        with pytest.raises(UserError, match="made in fp16, and this machine takes fp32"):
            settle_precision(again)
    else:
        assert settle_precision(again).choose_precision()[0] == "fp32"


def test_a_gpu_run_is_not_continued_without_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play_card(monkeypatch, None)
    write_run(tmp_path, "fp16")
    with pytest.raises(UserError, match="made in fp16, and this machine takes fp32"):
        settle_precision(make_run(tmp_path))


@pytest.mark.parametrize("counts", [False, True])
def test_a_run_that_failed_before_its_first_checkpoint_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counts: bool
) -> None:
    play_card(monkeypatch, A100)
    failed = write_run(tmp_path, "fp16", state="failed")
    if counts:
        failed.checkpoints.mkdir()
    chosen = settle_precision(make_run(tmp_path)).choose_precision()[0]
    assert chosen == ("fp16" if counts else "bf16")


def test_a_sweep_over_precisions_is_no_mixture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play_card(monkeypatch, A100)
    write_run(tmp_path, "bf16", setting="bf16")
    run = make_run(tmp_path, precision=Precision.fp16)
    assert settle_precision(run).choose_precision()[0] == "fp16"
    assert settle_precision(make_run(tmp_path)).choose_precision()[0] == "bf16"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("env.json", "["),
        ("env.json", '{"precision": 3}'),
        ("env.json", '{"precision": "\\u001b[31m"}'),
        ("config.yaml", "trainer: 3"),
        ("config.yaml", "{"),
        ("config.yaml", "trainer: {engine: auto}"),  # an earlier version's
    ],
)
def test_a_strangers_run_chooses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    play_card(monkeypatch, A100)
    (write_run(tmp_path, "fp16").path / name).write_text(text)
    assert settle_precision(make_run(tmp_path)).choose_precision()[0] == "bf16"


def test_processes_with_different_gpus_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leader has bf16, and this process has not."""
    play_card(monkeypatch, T4)
    monkeypatch.setattr(processes, "from_leader", lambda make: lambda *args: "bf16")
    with pytest.raises(UserError, match="the GPUs of the run's processes differ") as refused:
        settle_precision(make_run(tmp_path))

    precision = re.search(r"set trainer\.precision=(\w+)$", str(refused.value))[1]
    monkeypatch.setattr(processes, "from_leader", lambda make: make)
    settle_precision(make_run(tmp_path, precision=Precision(precision)))


@pytest.mark.parametrize(
    ("card", "recorded", "setting", "chosen"),
    [
        (A100, "fp16", Precision.auto, "fp16"),
        (A100, "fp16", Precision.bf16, "bf16"),
        (A100, "bf16", Precision.auto, "bf16"),
        (T4, "bf16", Precision.auto, "fp16"),
        (T4, "fp16", Precision.auto, "fp16"),
        (None, "fp16", Precision.auto, "fp32"),
    ],
)
def test_a_finished_run_answers_as_it_was_trained_if_the_card_allows(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    card: Card | None,
    recorded: str,
    setting: Precision,
    chosen: str,
) -> None:
    play_card(monkeypatch, card)
    trained = write_run(tmp_path, recorded)
    run = as_trained(make_run(tmp_path, precision=setting), trained)
    assert run.choose_precision()[0] == chosen
