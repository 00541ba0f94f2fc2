"""The vision-token store on a GPU: copies on a stream of their own, in places that are used again.

Needs any CUDA GPU: `python -m pytest -m gpu tests/gpu/test_store.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vlmbench.config import StoreConfig
from vlmbench.data.pictures import Picture
from vlmbench.features.store import TokenStore

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]
SHAPES = ((400, 1024), (800, 1024))  # of the tokens of pictures with odd and even numbers
ENTRY = 800 * 1024 * 2  # bytes of the larger
PICTURES, SHOWN, STEPS, RUN = 40, 8, 300, 5


def picture(number: int) -> Picture:
    image = Image.new("RGB", (2, 2), (number, 0, 0))
    return Picture(lambda: image, place=("picture", number))


def tokens_of(number: int) -> torch.Tensor:
    generator = torch.Generator("cuda").manual_seed(number)
    return torch.randn(SHAPES[number % 2], device="cuda", dtype=torch.bfloat16, generator=generator)


def encode(pictures: Sequence[Picture]) -> Iterator[torch.Tensor]:
    return (tokens_of(one.image.getpixel((0, 0))[0]) for one in pictures)


def test_each_picture_has_its_own_tokens_while_the_gpu_is_busy(tmp_path: Path) -> None:
    """Every level holds some of the pictures only, and runs are short, so that entries move all the time; batches are
    fetched one ahead."""
    settings = StoreConfig(device_gb=6 * ENTRY / 1e9, host_gb=16 * ENTRY / 1e9, disk_gb=1)
    store = TokenStore(tmp_path, "f", device=torch.device("cuda"), settings=settings)
    expected = [tokens_of(number) for number in range(PICTURES)]
    work = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
    wrong = torch.zeros((), device="cuda", dtype=torch.int64)
    rng = np.random.default_rng(0)
    found = dict.fromkeys(("device", "host", "disk", "encoded"), 0)
    ahead = None
    for step in range(STEPS):
        if step % RUN == 0:
            store.begin_run()
        numbers = rng.integers(PICTURES, size=SHOWN).tolist()
        fetched = store.fetch([picture(number) for number in numbers], encode)
        if ahead is not None:
            for number, tokens in zip(ahead[0], ahead[1].wait(), strict=True):
                wrong += (tokens != expected[number]).any()
        ahead = numbers, fetched
        for _ in range(3):
            work = (work @ work).clamp(-1, 1)
    for level, count in store.found.items():
        found[level] += count
    store.close()
    assert int(wrong) == 0
    assert min(found[level] for level in ("device", "host", "disk")) > STEPS / 4, found
    assert found["encoded"] >= PICTURES
