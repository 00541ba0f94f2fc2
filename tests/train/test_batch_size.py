"""The largest batch is found without touching the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.backbones import build, sample
from tests.helpers.cards import A100, play_card
from vlmbench.config import StoreConfig
from vlmbench.train.batch_size import (
    SHARE,
    choose_batch_size,
    find_batch_size,
    largest_batch,
    search_batch,
)
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


@pytest.mark.parametrize("memory", [999, 1500, 3000, 8_999, 9_000, 80_000, 10_000_000])
@pytest.mark.parametrize("extra", [0, 10])
def test_the_memory_of_few_records_tells_how_many_fit(memory: int, extra: int) -> None:
    """A model of 1,000 bytes, and 100 for each record; each pass leaves `extra` bytes behind."""
    tried: list[int] = []

    def peak_bytes(number: int) -> int | None:
        tried.append(number)
        peak = 1000 + 100 * number + extra * len(tried)
        return peak if peak <= memory else None

    found = search_batch(peak_bytes, memory)
    fitting = (memory - 1000) // 100
    if fitting < 1:
        assert found == 0
        return

    assert 1 <= found <= fitting
    assert found >= 0.75 * SHARE * min(fitting, 512) - 1
    assert found == 1 or found in tried or fitting < 8  # a large number was tried
    assert len(tried) <= (5 if fitting > 20 else 9)


class SmallMemory:
    """Makes a model run out of memory on more rows than `limit_of()`."""

    def __init__(self, model: Any, limit: int) -> None:
        self.limit_of = lambda: limit
        model.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, model: Any, args: Any, inputs: dict[str, Any]) -> None:
        if len(inputs["input_ids"]) > self.limit_of():
            raise torch.OutOfMemoryError("CUDA out of memory")


def test_trying_leaves_adapters_gradients_and_random_state_alone(shared_cache: Path) -> None:
    backbone = build("phi3_tiny", shared_cache)
    SmallMemory(backbone.model, 20)
    before = {name: weight.clone() for name, weight in backbone.model.named_parameters()}
    state = torch.get_rng_state()
    assert find_batch_size(backbone, sample(0)) in range(15, 18)  # a share of 0.85 of 18 to 20
    assert torch.equal(torch.get_rng_state(), state)
    for name, weight in backbone.model.named_parameters():
        assert torch.equal(weight, before[name]), name
        assert weight.grad is None, name


@pytest.mark.slow
def test_checkpointing_is_tried_where_not_even_one_fits_and_left_off_afterwards(
    shared_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = build("phi3_tiny", shared_cache)
    base = backbone.model.get_base_model()
    memory = SmallMemory(backbone.model, 20)
    play_card(monkeypatch, A100)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    assert (
        choose_batch_size(
            backbone, sample(0), checkpointing=False, vision_bytes=0
        ).gradient_checkpointing
        is False
    )
    memory.limit_of = lambda: 20 if base.is_gradient_checkpointing else 0
    for asked in (False, True):
        found = choose_batch_size(backbone, sample(0), checkpointing=asked, vision_bytes=0)
        assert found.gradient_checkpointing
        assert found.batch_size in range(15, 18)
        assert ("not even one" in found.reason) is not asked
        assert not base.is_gradient_checkpointing
    memory.limit_of = lambda: 0
    with pytest.raises(UserError, match=r"'r0' alone .* set model\.bits=4"):
        choose_batch_size(backbone, sample(0), checkpointing=False, vision_bytes=0)


def test_room_is_left_for_tokens_that_the_store_will_keep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A memory of 20 rows, of which each megabyte that is reserved takes one."""
    backbone = build("phi3_tiny", tmp_path, store=StoreConfig(device_gb=0.008))
    reserved: list[int] = []
    empty = torch.empty

    def watched(*args: Any, **kwargs: Any) -> torch.Tensor:
        if kwargs.get("dtype") is torch.uint8:
            reserved.append(args[0])
            args = (0,)
        return empty(*args, **kwargs)

    monkeypatch.setattr(torch, "empty", watched)
    for vision_bytes, expected in ((0, 0), (3_000_000, 3_000_000), (50_000_000, 8_000_000)):
        memory = SmallMemory(backbone.model, 20 - expected // 1_000_000)
        found = find_batch_size(backbone, sample(0), vision_bytes=vision_bytes)
        assert reserved.pop() in range(
            expected - 100_000, expected + 1
        )  # less what is kept of the record tried
        assert found <= memory.limit_of()


def test_without_a_gpu_nothing_is_tried(
    shared_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = choose_batch_size(
        build("phi3_tiny", shared_cache), sample(0), checkpointing=True, vision_bytes=0
    )
    assert found.batch_size == 8
    assert found.gradient_checkpointing
    assert "no CUDA GPU" in found.reason
