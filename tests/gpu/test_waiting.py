"""Neither a training step nor scoring makes the processor wait for the GPU.

After such a wait the GPU would stand idle until the processor has queued new work.

Needs any CUDA GPU: `python -m pytest -m gpu tests/gpu/test_waiting.py`
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.helpers.backbones import build
from vlmbench.backbones.batches import complete_batch
from vlmbench.backbones.devices import to_device
from vlmbench.config import StoreConfig
from vlmbench.features.store import TokenStore
from vlmbench.types import LazyImage, Record, Sample, Task

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def lazy_image(*colour: int) -> LazyImage:
    return LazyImage(
        lambda: Image.new("RGB", (64, 64), colour), version=("gpu waiting test", colour)
    )


def make_samples() -> list[Sample]:
    samples = []
    for number, question in enumerate(("Normal?", "Is the second part normal or abnormal?")):
        record = Record(
            id=f"r{number}",
            task=Task.JUDGE_PAIR,
            images=(),
            answer="normal",
            label="normal",
            group="g",
        )
        images = (lazy_image(number, 0, 0), lazy_image(number, 1, 0))
        samples.append(
            Sample(record=record, images=images, question=question, answer="abnormal: a dent")
        )
    return samples


@pytest.fixture
def backbone(tmp_path: Path) -> Any:
    built = build("llama32_tiny", tmp_path)
    built.model.to("cuda")
    settings = StoreConfig(disk_gb=0)
    built.store = TokenStore(tmp_path, "f", device=torch.device("cuda"), settings=settings)
    return built


def test_a_training_step_waits_for_nothing(backbone: Any) -> None:
    samples = make_samples()
    backbone.model.train()

    def step() -> None:
        batch = to_device(complete_batch(backbone.train_batch(samples)), backbone.model)
        backbone.model(**batch, use_cache=False).loss.backward()

    step()
    with waiting_is_an_error():
        step()


def test_scoring_waits_for_nothing(backbone: Any) -> None:
    samples = make_samples()
    backbone.model.eval()
    expected = backbone.score(samples, ["normal", "abnormal"])
    with waiting_is_an_error():
        scores = backbone.score(samples, ["normal", "abnormal"])
    torch.testing.assert_close(scores, expected)
