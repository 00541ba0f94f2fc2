"""Photos of parts: in memory, and folders of them."""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

import numpy as np

from tests.conftest import image
from vlmbench.data.images import ImageFacts
from vlmbench.data.photos.photo import Photo, PhotoCopy


def copy(
    name: str,
    *,
    label: str = "normal",
    part: str | None = None,
    look: int | None = None,
    **more: str,
) -> PhotoCopy:
    """Return a photo that looks like no other photo, except those with the same `look`."""
    rng = np.random.default_rng([crc32(name.encode())] if look is None else [look])
    facts = ImageFacts(
        sha256=f"{crc32(name.encode()):064x}",
        width=8,
        height=8,
        phash=int(rng.integers(2**63)),
        thumbnail=rng.integers(0, 256, (64, 64), dtype=np.uint8),
    )
    photo = Photo(name=name, path=Path(name), label=label, part=part or name, **more)
    return PhotoCopy(photo=photo, path=Path("img") / name, facts=facts)


def make_copies(good: int, bad: int) -> list[PhotoCopy]:
    return [copy(f"g{i}") for i in range(good)] + [
        copy(f"b{i}", label="abnormal") for i in range(bad)
    ]


def photos_in(folder: Path, good: int = 16, bad: int = 8) -> Path:
    for label, count in (("good", good), ("bad", bad)):
        (folder / label).mkdir(parents=True)
        for i in range(count):
            image(1000 * len(label) + i).save(folder / label / f"{label}{i}.png")
    return folder
