"""Settings of families: where adapters go, what is exported, and whether training learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.helpers.backbones import (
    BACKBONES,
    LABELS,
    build,
    draw_lora_b,
    make_request,
    sample,
    train_losses,
)
from vlmbench.backbones.llama32 import Llama32TinyConfig
from vlmbench.config import LoraConfig, Vision
from vlmbench.types import UserError


@pytest.mark.slow
@pytest.mark.parametrize("name", list(BACKBONES))
def test_an_exported_model_answers_as_the_merged_one(
    name: str, shared_cache: Path, tmp_path: Path
) -> None:
    backbone = build(name, shared_cache)
    draw_lora_b(backbone)
    backbone.model.eval()
    backbone.merge()
    expected = backbone.score([sample(0)], LABELS)

    backbone.save_merged(tmp_path)
    exported = build(name, shared_cache, merged=tmp_path)
    exported.model.eval()
    torch.testing.assert_close(exported.score([sample(0)], LABELS), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in BACKBONES if name != "smol"])
def test_training_lowers_the_loss(name: str, shared_cache: Path) -> None:
    losses = train_losses(build(name, shared_cache), 30)
    assert sum(losses[-5:]) < sum(losses[:5])


@pytest.mark.parametrize("vision", list(Vision))
@pytest.mark.parametrize("name", ["llama32_tiny", "phi3_tiny", "plain_tiny"])
def test_vision_adapters_are_drawn_only_where_they_are_asked_for(
    name: str, shared_cache: Path, vision: Vision
) -> None:
    backbone = build(name, shared_cache, vision=vision)
    backbone.model(**backbone.collate([sample(0)], with_answer=True)).loss.backward()

    trained = [key for key, weight in backbone.model.named_parameters() if weight.grad is not None]
    reaches_tower = any("vision_model" in key or "vision_tower" in key for key in trained)
    assert reaches_tower is (vision is Vision.lora)


def test_a_family_without_vision_targets_refuses_to_train_the_tower(
    shared_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Llama32TinyConfig, "vision_targets", None)
    with pytest.raises(
        UserError, match=r"no adapters in its vision tower; set trainer\.vision=frozen"
    ):
        build("llama32_tiny", shared_cache, vision=Vision.lora)
    build("llama32_tiny", shared_cache, vision=Vision.frozen)


def test_lora_has_the_rank_that_was_asked_for(shared_cache: Path) -> None:
    config = Llama32TinyConfig(lora=LoraConfig(r=3, alpha=6))
    backbone = config.build(make_request(shared_cache))
    weights = backbone.model.named_parameters()
    assert {weight.shape[0] for key, weight in weights if "lora_A" in key} == {3}
