"""Batches by length, and a model that is left as it was found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.utils.data import DataLoader
from transformers import TrainerControl, TrainerState

from tests.helpers.backbones import build, sample
from vlmbench.train.trainer import BucketSampler, PruneCallback, undo_preparation

BUCKETS = [1, 2, 3] * 40
BATCH = 4


def test_every_record_comes_once_an_epoch_and_batches_are_of_one_bucket() -> None:
    order = list(BucketSampler(BATCH, BUCKETS, seed=0))
    assert sorted(order) == list(range(len(BUCKETS)))
    batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    mixed = [batch for batch in batches if len({BUCKETS[i] for i in batch}) > 1]
    # 120 records are sorted in five heaps of seven batches. In each heap a bucket ends twice.
    assert len(mixed) <= 5 * 2


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    sampler = BucketSampler(BATCH, BUCKETS, seed=3)
    first = list(sampler)
    assert list(sampler) == first
    loader = Accelerator(cpu=True).prepare(
        DataLoader(torch.arange(len(BUCKETS)), batch_size=BATCH, sampler=sampler)
    )
    loader.set_epoch(1)  # as the trainer does
    second = torch.cat(list(loader)).tolist()
    assert second != first
    resumed = BucketSampler(BATCH, BUCKETS, seed=3)
    resumed.set_epoch(1)
    assert list(resumed) == second
    assert list(BucketSampler(BATCH, BUCKETS, seed=4)) != first


@pytest.fixture
def _fresh_accelerator() -> Iterator[None]:
    """Accelerators of one process share their precision, unless they are made to forget it."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("_fresh_accelerator")
def test_each_run_puts_its_own_mixed_precision_on_a_model_and_takes_it_off(
    shared_cache: Path,
) -> None:
    backbone = build("phi3_tiny", shared_cache)
    backbone.model.eval()

    def score() -> torch.Tensor:
        return backbone.score([sample(0)], ["normal", "abnormal"])

    plain, rounded = score(), []
    for _ in range(2):
        accelerator = Accelerator(mixed_precision="bf16", cpu=True)
        model = accelerator.prepare(backbone.model)
        rounded.append(score())
        undo_preparation(accelerator, model)
        assert torch.equal(score(), plain)
    assert not torch.equal(rounded[0], plain)
    assert torch.equal(rounded[1], rounded[0])


def test_training_is_pruned_after_any_evaluation_but_the_last() -> None:
    asked = []
    pruning = PruneCallback(lambda: bool(asked.append(1)) or len(asked) == 2)
    for step, stops in ((10, False), (20, True)):
        control = TrainerControl()
        pruning.on_evaluate(None, TrainerState(global_step=step, max_steps=30), control)
        assert control.should_training_stop is stops
    assert pruning.step == 20
    at_the_end = PruneCallback(lambda: True)
    control = TrainerControl()
    at_the_end.on_evaluate(None, TrainerState(global_step=30, max_steps=30), control)
    assert not control.should_training_stop
    assert at_the_end.step is None
