"""The largest batch is found without touching the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.backbones.test_contract import build, sample
from vlmbench.train.batch import choose_batch_size, find_batch_size, largest_batch
from vlmbench.types import UserError


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 7, 8, 9, 100, 511, 512, 10_000])
def test_the_largest_number_that_fits_is_found_within_an_eighth(limit: int) -> None:
    tried: list[int] = []

    def fits(number: int) -> bool:
        tried.append(number)
        return number <= limit

    found = largest_batch(fits)
    assert found <= min(limit, 512)
    assert found >= min(limit, 512) * 7 / 8 - 1e-9
    assert len(tried) == len(set(tried)) <= 16


class SmallMemory:
    """Makes a model run out of memory on more rows than `limit`."""

    def __init__(self, model: Any, limit: int) -> None:
        self.limit = limit
        model.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, model: Any, args: Any, inputs: dict[str, Any]) -> None:
        if len(inputs["input_ids"]) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory")


def test_trying_leaves_adapters_gradients_and_random_state_alone(shared_cache: Path) -> None:
    backbone = build("phi3_tiny", shared_cache)
    SmallMemory(backbone.model, 20)
    before = {name: weight.clone() for name, weight in backbone.model.named_parameters()}
    state = torch.get_rng_state()
    assert find_batch_size(backbone, sample(0)) in range(16, 19)  # nine tenths of 18 to 20
    assert torch.equal(torch.get_rng_state(), state)
    for name, weight in backbone.model.named_parameters():
        assert torch.equal(weight, before[name]), name
        assert weight.grad is None, name


def test_a_record_that_does_not_fit_alone_is_named_with_the_cure(shared_cache: Path) -> None:
    backbone = build("phi3_tiny", shared_cache)
    SmallMemory(backbone.model, 0)
    with pytest.raises(UserError, match=r"'r0' alone .*gradient_checkpointing=true or model\.bits=4"):
        find_batch_size(backbone, sample(0))


def test_without_a_gpu_nothing_is_tried(shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    number, why = choose_batch_size(build("phi3_tiny", shared_cache), sample(0))
    assert number == 8
    assert "no CUDA GPU" in why
