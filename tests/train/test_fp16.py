"""Training in fp16 with a scaled loss, played on the CPU: PyTorch's scaler works there too.

Accelerate gives a CPU neither scaler nor fp16. These tests put both into its place; the rest is the
trainer as it is.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.backbones import make_request, sample
from tests.helpers.twins import twin_config
from vlmbench.config import Precision, TrainerConfig
from vlmbench.runs.folder import RunDir
from vlmbench.train import TrainJob, train, trainer
from vlmbench.train.trainer import JudgeTrainer
from vlmbench.types import Sample, UserError

STEPS = 8
Play = Callable[..., None]


class NoTracker:
    """Keeps the rows that training logs."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def log(self, row: dict[str, Any]) -> None:
        self.rows.append(row)


def samples() -> list[Sample]:
    return [sample(seed, "normal" if seed % 2 else "abnormal: a dent") for seed in range(8)]


def make_job(folder: Path, **settings: Any) -> TrainJob:
    """Return a training of a few steps; its tracker keeps what is logged."""
    chosen = {"batch_size": 4, "max_steps": STEPS, "log_steps": 1, "eval_steps": None}
    tracker: Any = NoTracker()
    return TrainJob(
        samples=samples(),
        settings=TrainerConfig(**{**chosen, "precision": Precision.fp16, **settings}),
        seed=0,
        folder=RunDir(folder),
        run_hash="fp16",
        title="fp16",
        tracker=tracker,
        validation=samples()[:4],
        validate=lambda: {"balanced_accuracy": 0.5},
    )


def rows_of(job: TrainJob) -> list[dict[str, Any]]:
    """Return what was logged of each step."""
    tracker: Any = job.tracker
    return [row for row in tracker.rows if "loss" in row]


def trained_weights(backbone: Any) -> dict[str, torch.Tensor]:
    named = backbone.model.named_parameters()
    return {name: weight.detach().clone() for name, weight in named if weight.requires_grad}


@pytest.fixture
def play_scaler(monkeypatch: pytest.MonkeyPatch) -> Play:
    """Return a function that gives trainers fp16 and a scaler, which begins at a scale.

    In the steps that `overflows` names, all gradients are infinite.
    """

    def play(scale: float = 2.0**16, overflows: Callable[[int], bool] = lambda step: False) -> None:
        class PlayedTrainer(JudgeTrainer):
            def __init__(self, *args: Any) -> None:
                super().__init__(*args)
                self.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
                self.accelerator.native_amp = True
                steps = count(1)
                weight = next(one for one in self.model.parameters() if one.requires_grad)
                weight.register_hook(
                    lambda gradient: gradient * float("inf") if overflows(next(steps)) else gradient
                )

        monkeypatch.setattr(trainer, "JudgeTrainer", PlayedTrainer)

    return play


@pytest.fixture
def backbone(tmp_path: Path) -> Any:
    request = make_request(tmp_path / "cache", precision=Precision.fp16)
    return twin_config("qwen3_vl").build(request)


def test_the_loss_is_finite_and_falls_and_the_scale_is_logged(
    backbone: Any, play_scaler: Play, tmp_path: Path
) -> None:
    types = {weight.dtype for weight in backbone.model.get_base_model().parameters()}
    assert types == {torch.float16, torch.float32}  # the frozen weights, and the adapters

    play_scaler()
    job = make_job(tmp_path, learning_rate=1e-2)
    assert train(backbone, job).steps == STEPS
    losses = [row["loss"] for row in rows_of(job)]
    assert losses[-1] < losses[0] - 1
    assert {row["loss_scale"] for row in rows_of(job)} == {2.0**16}
    assert backbone.score(samples()[:2], ["normal", "abnormal"]).isfinite().all()


def test_a_step_whose_scaled_gradients_overflow_is_skipped_and_is_no_nan(
    backbone: Any, play_scaler: Play, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    play_scaler(8.0, overflows=lambda step: step in (2, 3))
    job = make_job(tmp_path)
    train(backbone, job)

    rows = RunDir(tmp_path).read_train_log()
    assert [row["loss_scale"] for row in rows] == [8.0, 4.0, *[2.0] * 6]
    assert ["grad_norm" in row for row in rows] == [True, False, False, *[True] * 5]
    assert "in 2 steps scaled gradients overflowed" in caplog.text


def test_a_skipped_step_leaves_the_weights_alone(
    backbone: Any, play_scaler: Play, tmp_path: Path
) -> None:
    before = trained_weights(backbone)
    play_scaler(2.0**16, overflows=lambda step: True)
    with pytest.raises(UserError, match="all 3 steps were skipped"):
        train(backbone, make_job(tmp_path, max_steps=3, learning_rate=1e-2, warmup_ratio=0))
    after = trained_weights(backbone)
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


@pytest.mark.slow
def test_a_training_too_short_for_its_scale_names_a_number_of_steps_that_suffices(
    backbone: Any, play_scaler: Play, tmp_path: Path
) -> None:
    play_scaler(2.0**16, overflows=lambda step: step <= 4)
    with pytest.raises(UserError, match="all 4 steps were skipped") as refused:
        train(backbone, make_job(tmp_path / "short", max_steps=4))

    steps = int(re.search(r"trainer\.max_steps=(\d+)$", str(refused.value))[1])
    assert train(backbone, make_job(tmp_path / "long", max_steps=steps)).steps == steps == 20


def test_a_scale_that_collapses_ends_the_run_with_a_cure(
    backbone: Any, play_scaler: Play, tmp_path: Path
) -> None:
    """The played gradients overflow at learning rates above a limit."""
    rate = 5e-4
    play_scaler(4.0, overflows=lambda step: rate > 1e-4)
    with pytest.raises(UserError, match="step 3: gradients overflow in fp16") as refused:
        train(backbone, make_job(tmp_path / "fast", learning_rate=rate))

    rate = float(re.search(r"trainer\.learning_rate, such as (\S+),", str(refused.value))[1])
    assert train(backbone, make_job(tmp_path / "slow", learning_rate=rate)).steps == STEPS


def test_numbers_beyond_fp16_in_the_forward_pass_are_a_loss_that_is_not_finite(
    backbone: Any, play_scaler: Play, tmp_path: Path
) -> None:
    backbone.model.get_base_model().get_output_embeddings().weight.data.fill_(6e4)
    play_scaler()
    with pytest.raises(UserError, match=r"the loss is (nan|inf).* train on a GPU that has bf16"):
        train(backbone, make_job(tmp_path))


def test_adapters_of_16_bits_are_widened_because_their_gradients_cannot_be_scaled_back(
    backbone: Any, play_scaler: Play, tmp_path: Path
) -> None:
    for weight in backbone.model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.half()  # TRL makes those of a model of 4 bits bf16
    play_scaler()
    train(backbone, make_job(tmp_path, max_steps=2))
    assert {weight.dtype for weight in trained_weights(backbone).values()} == {torch.float32}


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_its_scale(
    backbone: Any, play_scaler: Play, tmp_path: Path
) -> None:
    play_scaler(2.0)
    train(backbone, make_job(tmp_path, max_steps=4, eval_steps=4))
    assert list(tmp_path.glob("checkpoints/*/scaler.pt"))

    play_scaler(2.0**16)
    job = make_job(tmp_path, eval_steps=4)
    assert train(backbone, job).resumed_from == 4
    assert [row["loss_scale"] for row in rows_of(job)] == [2.0] * 4


@pytest.mark.slow
def test_the_next_run_of_a_process_has_its_own_precision(
    backbone: Any, play_scaler: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "JudgeTrainer", trainer.JudgeTrainer)
        play_scaler()
        train(backbone, make_job(tmp_path / "fp16", max_steps=1))

    monkeypatch.setattr(trainer, "JudgeTrainer", JudgeTrainer)
    other = twin_config("qwen3_vl").build(make_request(tmp_path / "cache"))
    job = make_job(tmp_path / "fp32", max_steps=1, precision=Precision.auto)
    train(other, job)
    assert "loss_scale" not in rows_of(job)[0]
    assert other.model.dtype is torch.float32
