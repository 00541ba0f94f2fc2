"""Cut large images into tiles, so that a model sees small defects.

All tiles of an image have one size: the last one of a row is shifted inward. Both images of a
record are cut at the same locations. A record whose images are smaller than a tile stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vlmbench.config import ViewConfig
from vlmbench.types import JUDGING, Box, ImageRef, Prediction, Record, Task, UserError

Size = tuple[int, int]

TILED_TASKS = JUDGING | {Task.JUDGE_LINK}  # other tasks compare whole parts
MAX_TILES = 10_000  # of an image: 250,000 take minutes before the model sees one
MAX_STRETCH = 0.05  # by which the shapes of a record's images may differ
CHUNK = 1000  # tiles that are answered before their records are joined
TILE, NUM_TILES = "tile", "tiles"  # keys of a prediction's meta


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiler:
    """Cuts records into tiles of `edge` pixels. `size_of` returns (width, height) of an image."""

    edge: int
    overlap: float
    size_of: Callable[[Path], Size]

    def boxes(self, record: Record) -> list[Box]:
        """Return the locations of the query's tiles, row by row; [] for a record that is not cut.

        Raise UserError if the record's images have different shapes.
        """
        is_tile = any(image.box is not None for image in record.images)
        if is_tile or record.task not in TILED_TASKS:
            return []

        size = self.size_of(record.images[-1].path)
        if max(size) <= self.edge:
            return []

        misfit = self.misfit(record)
        if misfit is not None:
            raise UserError(f"record {record.id!r}: {misfit}")
        return tile_boxes(size, self.edge, self.overlap)

    def cut(self, record: Record) -> list[Record]:
        """Return the record's tiles, or the record itself if it is not cut."""
        return [self.at(record, box) for box in self.boxes(record)] or [record]

    def at(self, record: Record, box: Box) -> Record:
        """Return one tile of a record. `box` is its location in the query."""
        size = self.size_of(record.images[-1].path)
        images = tuple(self._image_at(image, box, size) for image in record.images)
        return replace(record, id=f"{record.id}@{box[0]},{box[1]}", images=images)

    def misfit(self, record: Record) -> str | None:
        """Return why the record's images cannot be cut; None if they can.

        They have different shapes, or too many tiles.
        """
        sizes = [self.size_of(image.path) for image in record.images]
        if self.num_tiles(sizes[-1]) > MAX_TILES:
            width, height = sizes[-1]
            edge = self.edge
            while replace(self, edge=edge).num_tiles(sizes[-1]) > MAX_TILES:
                edge *= 2
            return (
                f"view.tile={self.edge} cuts its image of {width} x {height} pixels into more than "
                f"{MAX_TILES:,} tiles; set view.tile={edge}"
            )

        shapes = [width / height for width, height in sizes]
        if max(shapes) <= (1 + MAX_STRETCH) * min(shapes):
            return None

        pixels = " and ".join(f"{width} x {height}" for width, height in sizes)
        return (
            f"its images have {pixels} pixels, so that their tiles do not show the same locations; "
            "crop both to one shape, or set view.tile=null"
        )

    def num_tiles(self, size: Size) -> int:
        """Return the number of tiles of an image of `size`."""
        columns, rows = (len(_starts(length, self.edge, self.overlap)) for length in size)
        return columns * rows

    def chunks(self, records: Sequence[Record]) -> Iterator[list[tuple[Record, list[Record]]]]:
        """Yield records with their tiles, about CHUNK tiles at once."""
        chunk: list[tuple[Record, list[Record]]] = []
        num_tiles = 0
        for record in records:
            tiles = self.cut(record)
            chunk.append((record, tiles))
            num_tiles += len(tiles)
            if num_tiles >= CHUNK:
                yield chunk
                chunk, num_tiles = [], 0

        if chunk:
            yield chunk

    def _image_at(self, image: ImageRef, box: Box, size: Size) -> ImageRef:
        """Return the tile of an image; its location is given in an image of `size`."""
        own = self.size_of(image.path)
        left, right = (round(x * own[0] / size[0]) for x in (box[0], box[0] + box[2]))
        top, bottom = (round(y * own[1] / size[1]) for y in (box[1], box[1] + box[3]))
        return replace(image, box=(left, top, right - left, bottom - top))


def make_tiler(view: ViewConfig, size_of: Callable[[Path], Size]) -> Tiler | None:
    """Return what cuts records as the view says; None without `view.tile`."""
    if view.tile is None:
        return None
    return Tiler(edge=view.tile, overlap=view.overlap, size_of=size_of)


def tile_boxes(size: Size, edge: int, overlap: float) -> list[Box]:
    """Return the locations of the tiles of an image of `size`, row by row."""
    width, height = size
    columns, rows = _starts(width, edge, overlap), _starts(height, edge, overlap)
    return [(x, y, min(edge, width), min(edge, height)) for y in rows for x in columns]


def deciding_tile(prediction: Prediction) -> Box | None:
    """Return the location of the tile that decided; None for an answer that joins no tiles."""
    numbers = prediction.meta.get(TILE, "").split(", ")
    is_box = len(numbers) == 4 and all(map(str.isdecimal, numbers))
    if not is_box or NUM_TILES not in prediction.meta:
        return None

    x, y, width, height = map(int, numbers)
    return x, y, width, height


def _starts(length: int, edge: int, overlap: float) -> list[int]:
    """Return the first pixel of each tile along an edge; the last tile ends with the image."""
    if length <= edge:
        return [0]

    step = max(1, round(edge * (1 - overlap)))
    return [*range(0, length - edge, step), length - edge]
