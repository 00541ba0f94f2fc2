"""Which checkpoint a run goes on from, and when it was stopping already."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from vlmbench.system.files import seal
from vlmbench.train.callbacks import Patience
from vlmbench.train.checkpoints import explain_write_errors, keep, last_whole
from vlmbench.types import UserError


def save(folder: Path, step: int, *, best: int | None = None, owner: str = "run") -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    best_path = None if best is None else f"/where/it/was/checkpoint-{best}"
    (checkpoint / "trainer_state.json").write_text(json.dumps({"best_model_checkpoint": best_path}))
    (checkpoint / "weights").write_bytes(os.urandom(20))
    seal(checkpoint, of=owner)
    return checkpoint


def test_the_last_whole_checkpoint_is_taken_and_damaged_ones_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    save(tmp_path, 2), save(tmp_path, 4), save(tmp_path, 10)
    (tmp_path / "checkpoint-10" / "weights").write_bytes(b"")
    assert last_whole(tmp_path, owner="run") == tmp_path / "checkpoint-4"
    assert "checkpoint-10 is not used: weights is damaged" in caplog.text
    assert not (tmp_path / "checkpoint-10").exists()


def test_a_checkpoint_whose_best_adapter_is_damaged_is_not_taken(tmp_path: Path) -> None:
    save(tmp_path, 2)
    save(tmp_path, 4, best=4)
    save(tmp_path, 6, best=4)
    (tmp_path / "checkpoint-4" / "weights").write_bytes(b"")
    assert last_whole(tmp_path, owner="run") == tmp_path / "checkpoint-2"


def test_checkpoints_of_other_data_are_not_taken(tmp_path: Path) -> None:
    save(tmp_path, 2, owner="other data")
    assert last_whole(tmp_path, owner="run") is None


def test_what_is_kept_goes_by_steps_not_by_the_clock(tmp_path: Path) -> None:
    for step, time in ((2, 3000), (4, 2000), (6, 1000)):
        os.utime(save(tmp_path, step), (time, time))
    keep(tmp_path / "checkpoint-6", owner="run", best=str(tmp_path / "checkpoint-2"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-6"]


def test_torchs_words_for_a_full_disk_are_understood(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"), explain_write_errors(tmp_path):
        raise RuntimeError(
            "[enforce fail at inline_container.cc:664] PytorchStreamWriter failed writing data/1"
        )
    with pytest.raises(RuntimeError, match="shapes"), explain_write_errors(tmp_path):
        raise RuntimeError("shapes differ")


@pytest.mark.parametrize(
    ("figures", "exhausted"),
    [
        ([], False),
        ([0.5], False),
        ([0.5, 0.5], False),
        ([0.5, 0.5, 0.4], True),
        ([0.5, 0.4, 0.6], False),
    ],
)
def test_patience_is_counted_in_the_history(figures: list[float], exhausted: bool) -> None:
    history = [
        row for figure in figures for row in ({"loss": 1.0}, {"eval_balanced_accuracy": figure})
    ]
    assert Patience(2).is_exhausted(history) is exhausted
