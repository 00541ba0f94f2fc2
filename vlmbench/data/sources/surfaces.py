"""Patches of real photos (brick, grass and gravel from scikit-image, CC0) with planted defects; needs no download.

Each photo is cut into a grid of blocks. A block is a group: its reference patch and its query patches are crops from
within it, and a margin keeps the pixels of two blocks apart. Lots are two blocks of different photos; records that
show two blocks stay within a lot. There are no compare_shapes records: a surface is neither prism nor cylinder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlmbench.config import SourceConfig, check_range, schema
from vlmbench.data.blemishes import KINDS, blemish
from vlmbench.data.prepared import prepared_folder, write_manifest
from vlmbench.data.specimens import (
    Defect,
    Picture,
    Specimen,
    compare_views_records,
    draw_kinds,
    judge_records,
    rng_of,
    save_png,
)
from vlmbench.types import Record, UserError

Floats = NDArray[np.float64]

PHOTOS = ("brick", "grass", "gravel")
SIDE = 512  # of the photos, pixels
MARGIN = 4  # along each edge of a block that no patch shows, pixels
PATCH = 0.8  # side of a patch as a share of its block's without the margins
REVISION = 1  # raise it when the same configuration draws other pictures or records


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A square of a photo: the pixels that its patches may show."""

    photo: str
    row: int
    column: int
    pixels: Floats  # grey levels, (side, side)

    @property
    def name(self) -> str:
        """Its group: brick-r1-c2."""
        return f"{self.photo}-r{self.row}-c{self.column}"


@schema("source", "surfaces")
@dataclass(kw_only=True)
class SurfacesConfig(SourceConfig):
    """conf/source/surfaces.yaml."""

    grid: int = 4
    queries_per_block: int = 10
    abnormal_rate: float = 0.5
    processed_view: str = "rt"
    seed: int = 0

    def __post_init__(self) -> None:
        check_range("source.grid", self.grid, 2, 8)
        check_range("source.queries_per_block", self.queries_per_block, 2)
        check_range("source.abnormal_rate", self.abnormal_rate, 0, 1)
        check_range("source.seed", self.seed, 0)
        if self.grid % 2 != 0:
            raise UserError(f"source.grid={self.grid}: an odd grid leaves a block without a lot; set an even number")

    def prepare(self, data_dir: Path) -> Path:
        """Cut the patches and write the manifest, unless they are there already."""
        return prepared_folder(data_dir, "surfaces", _Recipe(config=self), self._fill)

    def _fill(self, folder: Path) -> None:
        (folder / "img").mkdir()
        # Photos in turn, so that two blocks in a row are of different photos.
        specimens = [self._cut(number, block, folder / "img") for number, block in enumerate(blocks(self.grid))]
        write_manifest(folder, self._records(specimens))

    def _cut(self, number: int, block: Block, folder: Path) -> Specimen:
        kinds = draw_kinds(self.seed, number, self.queries_per_block, self.abnormal_rate, tuple(KINDS))
        names = ["ref", *(f"q{i}" for i in range(len(kinds)))]
        pictures = [
            self._photograph(block, f"{block.name}-{name}", kind, folder)
            for name, kind in zip(names, [None, *kinds], strict=True)
        ]
        return Specimen(
            name=block.name,
            group=block.name,
            meta={"surface": block.photo},
            reference=pictures[0],
            queries=tuple(pictures[1:]),
        )

    def _photograph(self, block: Block, title: str, kind: str | None, folder: Path) -> Picture:
        """A patch of the block, with or without a defect, then the camera's share: flip, light and noise."""
        rng = rng_of(self.seed, f"{title}-scene")
        side = round(PATCH * len(block.pixels))
        top, left = rng.integers(len(block.pixels) - side + 1, size=2)
        patch = block.pixels[top : top + side, left : left + side]
        defect: Defect | None = None
        if kind is not None:
            patch, defect = blemish(kind, patch, rng_of(self.seed, f"{title}-defect"))
        image = Image.fromarray(_expose(patch, rng)).convert("RGB")
        return save_png(image, folder / f"{title}.png", defect)

    def _records(self, specimens: Sequence[Specimen]) -> Iterator[Record]:
        for number, specimen in enumerate(specimens):
            yield from judge_records(specimen, self.processed_view)
            yield from compare_views_records(
                specimen,
                specimens[number ^ 1],
                same="one surface",
                different="another surface",
                processed_view=self.processed_view,
            )


@dataclass(frozen=True)
class _Recipe:
    config: SurfacesConfig
    revision: int = REVISION


def blocks(grid: int) -> Iterator[Block]:
    """The blocks of all photos, `grid` x `grid` of each, the photos in turn."""
    photos = {name: _photo(name) for name in PHOTOS}
    side = SIDE // grid
    for row in range(grid):
        for column in range(grid):
            rows = slice(row * side + MARGIN, (row + 1) * side - MARGIN)
            columns = slice(column * side + MARGIN, (column + 1) * side - MARGIN)
            for name, photo in photos.items():
                yield Block(photo=name, row=row, column=column, pixels=photo[rows, columns])


def _photo(name: str) -> Floats:
    """The grey levels of a photo that ships in scikit-image's wheel, (512, 512)."""
    with as_file(files("skimage.data") / f"{name}.png") as path, Image.open(path) as image:
        return np.asarray(image.convert("L"), np.float64)


def _expose(patch: Floats, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The patch as another shot would show it: mirrored or not, in other light, with the sensor's noise."""
    if rng.random() < 0.5:
        patch = patch[:, ::-1]
    ramp = np.linspace(-0.5, 0.5, len(patch))
    right, down = rng.uniform(-0.12, 0.12, 2)
    light = rng.uniform(0.85, 1.15) * (1 + right * ramp[None, :] + down * ramp[:, None])
    noise = rng.uniform(2, 4) * rng.standard_normal(patch.shape)
    levels: Floats = patch * light + rng.uniform(-10, 10) + noise
    return levels.clip(0, 255).round().astype(np.uint8)
