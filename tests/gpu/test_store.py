"""The vision-token store on a GPU: copies on a stream of their own, into slots that are reused.

Needs any CUDA GPU: `python -m pytest -m gpu tests/gpu/test_store.py`
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vlmbench.config import StoreConfig
from vlmbench.features.store import TokenStore
from vlmbench.types import LazyImage

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
SHAPES = ((400, 1024), (800, 1024))  # of the tokens of images with even and odd numbers
ENTRY = 800 * 1024 * 2  # bytes of the larger
NUM_IMAGES, BATCH_SIZE, NUM_STEPS, STEPS_A_RUN = 40, 8, 300, 5


def lazy_image(number: int) -> LazyImage:
    pixels = Image.new("RGB", (2, 2), (number, 0, 0))
    return LazyImage(lambda: pixels, version=("gpu store test", number))


def tokens_of(number: int) -> torch.Tensor:
    generator = torch.Generator("cuda").manual_seed(number)
    return torch.randn(SHAPES[number % 2], device="cuda", dtype=torch.bfloat16, generator=generator)


def encode(images: Sequence[LazyImage]) -> Iterator[torch.Tensor]:
    return (tokens_of(lazy.rgb.getpixel((0, 0))[0]) for lazy in images)


def test_each_image_has_its_own_tokens_while_the_gpu_is_busy(tmp_path: Path) -> None:
    """Each level holds some images only, and runs are short, so entries move all the time.

    Batches are fetched one ahead.
    """
    settings = StoreConfig(device_gb=6 * ENTRY / 1e9, host_gb=16 * ENTRY / 1e9, disk_gb=1)
    store = TokenStore(tmp_path, "f", device=torch.device("cuda"), settings=settings)
    expected = [tokens_of(number) for number in range(NUM_IMAGES)]
    work = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
    num_wrong = torch.zeros((), device="cuda", dtype=torch.int64)
    rng = np.random.default_rng(0)

    last = None
    for step in range(NUM_STEPS):
        if step % STEPS_A_RUN == 0:
            store.begin_run()
        numbers = rng.integers(NUM_IMAGES, size=BATCH_SIZE).tolist()
        fetched = store.fetch([lazy_image(number) for number in numbers], encode)

        if last is not None:
            for number, tokens in zip(last[0], last[1].wait(), strict=True):
                num_wrong += (tokens != expected[number]).any()
        last = numbers, fetched
        for _ in range(3):
            work = (work @ work).clamp(-1, 1)

    lookups = Counter(store.lookups)
    store.close()
    assert int(num_wrong) == 0
    assert min(lookups[level] for level in ("device", "host", "disk")) > NUM_STEPS / 4, lookups
    assert lookups["encoded"] >= NUM_IMAGES
