"""Nothing in a training step or in the scoring of a batch makes the processor wait for the GPU: it would stand idle
afterwards, until the processor has told it what to do next.

Needs any CUDA GPU: `python -m pytest -m gpu tests/gpu/test_waiting.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from vlmbench.backbones.base import ready, to_device
from vlmbench.config import BuildRequest, Engine, StoreConfig, Vision
from vlmbench.data.pictures import Picture
from vlmbench.features.store import TokenStore
from vlmbench.types import Record, Sample, Task

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def sample(number: int, question: str) -> Sample:
    pictures = [Picture(lambda i=i: Image.new("RGB", (64, 64), (number, i, 0)), place=(number, i)) for i in range(2)]
    record = Record(id=f"r{number}", task=Task.JUDGE_PAIR, images=(), answer="normal", label="normal", group="g")
    return Sample(record=record, images=tuple(pictures), question=question, answer="abnormal: a dent")


@pytest.fixture
def backbone(tmp_path: Path) -> Any:
    from vlmbench.backbones.llama32 import Llama32TinyConfig

    request = BuildRequest(seed=0, engine=Engine.transformers, vision=Vision.frozen, cache_dir=tmp_path)
    built = Llama32TinyConfig().build(request)
    built.model.to("cuda")
    built.store = TokenStore(tmp_path, "f", device=torch.device("cuda"), settings=StoreConfig(disk_gb=0))
    return built


def test_a_training_step_waits_for_nothing(backbone: Any) -> None:
    samples = [sample(0, "Normal?"), sample(1, "Is the second part normal or abnormal?")]
    backbone.model.train()

    def step() -> None:
        batch = to_device(ready(backbone.train_batch(samples)), backbone.model)
        backbone.model(**batch, use_cache=False).loss.backward()

    step()
    with waiting_is_an_error():
        step()


def test_scoring_waits_for_nothing(backbone: Any) -> None:
    samples = [sample(0, "Normal?"), sample(1, "Is the second part normal or abnormal?")]
    backbone.model.eval()
    expected = backbone.score(samples, ["normal", "abnormal"])
    with waiting_is_an_error():
        found = backbone.score(samples, ["normal", "abnormal"])
    torch.testing.assert_close(found, expected)
