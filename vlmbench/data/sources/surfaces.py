"""Patches of real photos of surfaces with planted defects. They need no download.

The photos are brick, grass and gravel from scikit-image (CC0). Each photo is cut into a grid of
blocks. A block is a part: its reference and its queries are patches from within it. A margin keeps
the pixels of two blocks apart. A lot is two blocks of different photos. Records that show two
blocks stay within a lot. There are no compare_shapes records, because a surface is neither a prism
nor a cylinder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlmbench.config import Settings, SourceConfig, schema, setting
from vlmbench.data.generated.blemishes import KINDS, add_blemish
from vlmbench.data.generated.specimens import (
    Defect,
    SavedImage,
    Specimen,
    draw_kinds,
    make_compare_views_records,
    make_judge_records,
    rng_of,
    save_png,
)
from vlmbench.data.prepared import prepared_folder, write_manifest
from vlmbench.types import Record, UserError

Floats = NDArray[np.float64]

PHOTOS = ("brick", "grass", "gravel")
PHOTO_SIZE = 512  # pixels along an edge
MARGIN = 4  # pixels along each edge of a block that no patch shows
PATCH = 0.8  # edge of a patch, as a share of its block's without the margins
REVISION = 1  # raise it when the same configuration draws other images or records


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A square of a photo. Its patches show nothing but its pixels."""

    photo: str
    row: int
    column: int
    pixels: Floats  # grey levels, (size, size)

    @property
    def name(self) -> str:
        """Return the name of the part, such as "brick-r1-c2"."""
        return f"{self.photo}-r{self.row}-c{self.column}"


@schema("source", "surfaces")
@dataclass(kw_only=True)
class SurfacesConfig(SourceConfig):
    """The settings of conf/source/surfaces.yaml."""

    grid: int = setting(
        4,
        "Blocks along each edge of a photo, an even number; 4: 48 blocks of 128 pixels.",
        at_least=2,
        at_most=8,
    )
    queries_per_block: int = setting(10, "Images of each block beside its reference.", at_least=2)
    abnormal_rate: float = setting(
        0.5,
        "Share of the query images with a defect, rounded to whole images for each block.",
        at_least=0,
        at_most=1,
    )
    processed_view: str = setting("rt", "View that records are shown in beside raw.")
    seed: int = setting(0, "Seed of crops, defects, light and noise.", at_least=0)

    def __post_init__(self) -> None:
        # Not super(): `labels` stays None, which the hash of the prepared folder depends on.
        Settings.__post_init__(self)

        if self.grid % 2 != 0:
            raise UserError(
                f"source.grid must be even, got {self.grid}, because each lot has two blocks; set "
                f"source.grid={self.grid - 1}"
            )

    def prepare(self, data_dir: Path) -> Path:
        """Cut the patches and write the manifest, unless they exist."""
        return prepared_folder(data_dir, "surfaces", _CacheKey(config=self), self._fill)

    def _fill(self, folder: Path) -> None:
        images = folder / "img"
        images.mkdir()
        specimens = [
            self._cut_specimen(number, block, images)
            for number, block in enumerate(cut_blocks(self.grid))
        ]
        write_manifest(folder, self._records(specimens))

    def _cut_specimen(self, number: int, block: Block, folder: Path) -> Specimen:
        """Cut the reference and the queries from block `number`."""
        kinds = draw_kinds(
            self.seed, number, self.queries_per_block, self.abnormal_rate, tuple(KINDS)
        )
        reference = self._cut_image(block, f"{block.name}-ref", None, folder)
        queries = [
            self._cut_image(block, f"{block.name}-q{i}", kind, folder)
            for i, kind in enumerate(kinds)
        ]

        return Specimen(
            name=block.name,
            group=block.name,
            meta={"surface": block.photo},
            reference=reference,
            queries=tuple(queries),
        )

    def _cut_image(self, block: Block, title: str, kind: str | None, folder: Path) -> SavedImage:
        """Cut a patch of the block, plant a defect of `kind` unless it is None, and expose it."""
        rng = rng_of(self.seed, f"{title}-scene")
        size = round(PATCH * len(block.pixels))
        top, left = rng.integers(len(block.pixels) - size + 1, size=2)
        patch = block.pixels[top : top + size, left : left + size]

        defect: Defect | None = None
        if kind is not None:
            patch, defect = add_blemish(kind, patch, rng_of(self.seed, f"{title}-defect"))

        image = Image.fromarray(_expose(patch, rng)).convert("RGB")

        return save_png(image, folder / f"{title}.png", defect)

    def _records(self, specimens: Sequence[Specimen]) -> Iterator[Record]:
        for number, specimen in enumerate(specimens):
            yield from make_judge_records(specimen, self.processed_view)
            yield from make_compare_views_records(
                specimen,
                specimens[number ^ 1],
                same="one surface",
                different="another surface",
                processed_view=self.processed_view,
            )


@dataclass(frozen=True)
class _CacheKey:
    """All that the prepared folder depends on."""

    config: SurfacesConfig
    revision: int = REVISION


def cut_blocks(grid: int) -> Iterator[Block]:
    """Yield the blocks of all photos, `grid` x `grid` of each.

    The photos take turns, so two blocks in a row show different photos.
    """
    photos = {name: _load_photo(name) for name in PHOTOS}
    size = PHOTO_SIZE // grid

    for row in range(grid):
        for column in range(grid):
            rows = slice(row * size + MARGIN, (row + 1) * size - MARGIN)
            columns = slice(column * size + MARGIN, (column + 1) * size - MARGIN)
            for name, photo in photos.items():
                yield Block(
                    photo=name,
                    row=row,
                    column=column,
                    pixels=photo[rows, columns],
                )


def _load_photo(name: str) -> Floats:
    """Return the grey levels of a photo from scikit-image's wheel, (512, 512)."""
    with as_file(files("skimage.data") / f"{name}.png") as path, Image.open(path) as image:
        return np.asarray(image.convert("L"), np.float64)


def _expose(patch: Floats, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return the patch as a new shot: mirrored or not, in other light, with sensor noise."""
    if rng.random() < 0.5:
        patch = patch[:, ::-1]

    ramp = np.linspace(-0.5, 0.5, len(patch))
    right, down = rng.uniform(-0.12, 0.12, 2)
    slope = 1 + right * ramp[None, :] + down * ramp[:, None]
    light = rng.uniform(0.85, 1.15) * slope
    noise = rng.uniform(2, 4) * rng.standard_normal(patch.shape)
    levels: Floats = patch * light + rng.uniform(-10, 10) + noise

    return levels.clip(0, 255).round().astype(np.uint8)
