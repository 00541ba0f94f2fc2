"""Samples and tiny models that the tests of backbones share."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.conftest import image
from tests.helpers import plain_family, twins  # noqa: F401  # defines a tiny twin
from vlmbench.backbones.batches import complete_batch
from vlmbench.backbones.layout import Layout
from vlmbench.backbones.smol import SmolModelConfig
from vlmbench.backbones.tiny import TinyConfig
from vlmbench.config import BuildRequest, Engine, ModelConfig, Vision, register_plugins
from vlmbench.types import LazyImage, Record, Sample, Task

QUESTION = "Is the second part normal?"
LABELS = ["normal", "abnormal"]
SIZES = ((40, 30), (90, 30), (30, 90), (28, 28))  # of one, two and more tiles


def _tiny_twins() -> Iterator[tuple[str, Callable[[], ModelConfig]]]:
    """Return a name and a maker for each tiny twin in each layout; a new one needs no entry."""
    register_plugins()
    for config in TinyConfig.__subclasses__():
        words = re.findall(r"[A-Z][a-z0-9]*", config.__name__.removesuffix("Config"))
        name = "_".join(words).lower()
        yield name, config
        yield f"{name} stitched", partial(config, layout=Layout.stitched)


WHOLE_CONTRACT = ("qwen3_vl", "gemma3", "smolvlm")  # the other types of model=hub run nightly


def _published_twins() -> Iterator[tuple[str, Callable[[], ModelConfig]]]:
    """Return a name and a maker for random models of published types, loaded from a folder."""
    kinds = twins.KINDS if os.environ.get("VLMBENCH_ALL_TYPES") else WHOLE_CONTRACT
    for kind in kinds:
        yield f"hub {kind}", partial(twins.twin_config, kind)


BACKBONES: dict[str, Callable[[], ModelConfig]] = {
    "smol": SmolModelConfig,
    **dict(_tiny_twins()),
    **dict(_published_twins()),
}


def lazy_image(seed: int, size: tuple[int, int] = (64, 56)) -> LazyImage:
    return LazyImage.of(image(seed, size))


def sample(
    seed: int = 0,
    answer: str = "abnormal: a scratch",
    question: str = QUESTION,
    size: tuple[int, int] = (40, 30),
) -> Sample:
    record = Record(
        id=f"r{seed}", task=Task.JUDGE_PAIR, images=(), answer=answer, label=answer[:8], group="g"
    )
    images = (lazy_image(seed, size), lazy_image(seed + 100, size))
    return Sample(
        record=record, images=images, question=question, answer=answer, words=tuple(LABELS)
    )


def make_request(cache: Path, **changes: Any) -> BuildRequest:
    request = BuildRequest(
        seed=0, engine=Engine.transformers, vision=Vision.frozen, cache_dir=cache
    )
    return replace(request, **changes)


def build(name: str, cache: Path, **changes: Any) -> Any:
    return BACKBONES[name]().build(make_request(cache, **changes))


def draw_lora_b(backbone: Any) -> None:
    """Give new adapters weights, so that their effect shows."""
    with torch.no_grad():
        for name, weight in backbone.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.02)


def num_trained(backbone: Any) -> int:
    return sum(weight.numel() for weight in backbone.model.parameters() if weight.requires_grad)


def train_losses(backbone: Any, steps: int) -> list[float]:
    """Return the losses of steps on batches that mix sizes, pairs and single images."""
    backbone.model.train()
    weights = [weight for weight in backbone.model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-3)
    samples = [
        sample(seed, "normal" if seed % 2 else "abnormal: a dent", size=SIZES[seed % 4])
        for seed in range(8)
    ]
    samples[3] = replace(samples[3], images=samples[3].images[:1])

    losses = []
    for step in range(steps):
        rows = [samples[(3 * step + row) % 8] for row in range(4)]
        loss = backbone.model(**complete_batch(backbone.train_batch(rows))).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses
