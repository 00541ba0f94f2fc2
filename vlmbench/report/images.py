"""Thumbnails of a record's images, embedded in the page as data URIs."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from vlmbench.data.images import BROKEN, FORMATS
from vlmbench.data.tiles import deciding_tile
from vlmbench.types import Prediction

MAX_BYTES = 500_000_000  # of an image's file
THUMBNAIL = 224  # pixels of the longer edge: two thumbnails fit a phone
HOT = (230, 30, 20)  # the colour of the hottest location of a heat map
MARKED = (0, 90, 255)  # the colour of the line around a known defect


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnail:
    """An image on the page. `uri` is "" if the file cannot be shown.

    `blank` marks a blank reference, which the model sees as a grey image.
    """

    caption: str
    name: str
    uri: str = ""
    blank: bool = False


@dataclass(frozen=True, slots=True)
class DataFolders:
    """The folders whose images a report may show. Its runs may come from strangers."""

    paths: tuple[Path, ...]

    def has(self, name: str) -> bool:
        """Return whether a file is in one of the folders: not by a link, and not hidden."""
        try:
            path = Path(name).resolve()
        except (OSError, ValueError, RuntimeError):
            return False
        return any(
            path.is_relative_to(folder) and not _is_hidden(path.relative_to(folder))
            for folder in self.paths
        )


NO_FOLDERS = DataFolders(())


def data_folders(configs: Iterable[Mapping[str, Any]], others: Iterable[Path] = ()) -> DataFolders:
    """Return the folders of the data of runs with these configurations, and the `others`.

    A folder above the user's own is left out: a stranger's run must not show the user's images.
    """
    named = [Path(path) for path in others]
    for config in configs:
        source = config.get("source")
        path = source.get("path") if isinstance(source, Mapping) else None
        texts = [config.get("data_dir"), config.get("cache_dir"), path]
        named += [Path(text) for text in texts if isinstance(text, str) and text.isprintable()]

    folders = []
    for path in dict.fromkeys(named):
        folder = path.resolve()
        folder = folder.parent if folder.is_file() else folder
        if not Path.home().parent.is_relative_to(folder):
            folders.append(folder)
    return DataFolders(tuple(folders))


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def thumbnails_of(prediction: Prediction, folders: DataFolders) -> tuple[Thumbnail, ...]:
    """Return the thumbnails of a record, the reference before the query."""
    paths = prediction.images
    captions = ("reference", "query") if len(paths) == 2 else ("query",) * len(paths)

    return tuple(
        thumbnail_of(path, caption, folders) for path, caption in zip(paths, captions, strict=True)
    )


def thumbnail_of(path: str, caption: str, folders: DataFolders | None = None) -> Thumbnail:
    """Return the thumbnail of a file; "" as the path means a blank reference.

    Only a file in `folders` is loads. With None, the user named the file.
    """
    if path == "":
        return Thumbnail(
            caption=caption,
            name="blank",
            blank=True,
        )

    return Thumbnail(
        caption=caption,
        name=Path(path).name,
        uri=_thumbnail_uri(path) if folders is None or folders.has(path) else "",
    )


def tile_thumbnails(prediction: Prediction) -> tuple[Thumbnail, ...]:
    """Return the query with a line around the deciding tile, then that tile of each image.

    The user named the files. The result is empty for an answer that joins no tiles.
    """
    box = deciding_tile(prediction)
    if box is None:
        return ()

    *reference, query = prediction.images
    size = _upright_size(query)
    if size is None:
        return ()

    shares = (
        box[0] / size[0],
        box[1] / size[1],
        (box[0] + box[2]) / size[0],
        (box[1] + box[3]) / size[1],
    )
    location = f"x {box[0]}, y {box[1]}, {box[2]} x {box[3]} pixels"
    shown = [(query, f"query, with the deciding tile: {location}", True)]
    shown += [(path, "the tile of the reference", False) for path in reference if path]
    shown.append((query, "the tile of the query", False))
    return tuple(
        Thumbnail(
            caption=caption,
            name=Path(path).name,
            uri=_tile_uri(path, shares, outlined=outlined),
        )
        for path, caption, outlined in shown
    )


def _upright_size(path: str) -> tuple[int, int] | None:
    """Return (width, height) of an image as it is shown; None if it cannot be read."""
    try:
        with Image.open(path, formats=tuple(FORMATS)) as image:
            return ImageOps.exif_transpose(image).size
    except (*BROKEN, Image.DecompressionBombError):
        return None


def _tile_uri(path: str, shares: tuple[float, ...], *, outlined: bool) -> str:
    """Return an image with a line around its tile, or the tile alone; "" if it cannot be shown.

    `shares` are the tile's left, top, right and bottom as shares of the image.
    """
    small = _small_image(path, None if outlined else shares)
    if small is None:
        return ""
    if outlined:
        edges = (small.width, small.height, small.width, small.height)
        box = [share * edge for share, edge in zip(shares, edges, strict=True)]
        draw = ImageDraw.Draw(small)
        draw.rectangle(box, outline=MARKED, width=2)
    return webp_uri(small)


def heat_thumbnail(
    path: str,
    heat: NDArray[np.uint8],
    caption: str,
    folders: DataFolders | None = None,
    *,
    marked: NDArray[np.bool_] | None = None,
) -> Thumbnail | None:
    """Return the image in grey under a heat map (rows, columns); red is the hottest, 255.

    A blue line is drawn around `marked`, the known defect on a grid of its own. None if the file
    cannot be shown, or is not in `folders`.
    """
    small = _small_image(path) if folders is None or folders.has(path) else None
    if small is None:
        return None

    grey = small.convert("L").convert("RGB")
    mask = Image.fromarray(heat).resize(grey.size, Image.Resampling.BILINEAR)
    red = Image.new("RGB", grey.size, HOT)
    shown = Image.composite(red, grey, mask)
    if marked is not None:
        shown.paste(MARKED, mask=_outline(marked, shown.size))
    uri = webp_uri(shown)
    return Thumbnail(
        caption=caption,
        name=Path(path).name,
        uri=uri,
    )


def _outline(marked: NDArray[np.bool_], size: tuple[int, int]) -> Image.Image:
    """Return a line of 2 pixels along the inner edge of the marked area, white on black."""
    area = Image.fromarray(np.uint8(255) * marked).resize(size, Image.Resampling.NEAREST)
    return ImageChops.subtract(area, area.filter(ImageFilter.MinFilter(5)))


@lru_cache(maxsize=512)  # records of one sweep share images
def _thumbnail_uri(path: str) -> str:
    """Return the data URI of a small WebP; "" if the file is missing or is no image."""
    small = _small_image(path)
    return "" if small is None else webp_uri(small)


def _small_image(path: str, tile: tuple[float, ...] | None = None) -> Image.Image | None:
    """Return the image as a thumbnail in RGB; None if the file is missing or is no image.

    `tile` are the left, top, right and bottom of the part that is shown, as shares of the image.
    """
    try:
        # Reading a pipe would wait for its writer.
        if not Path(path).is_file() or Path(path).stat().st_size > MAX_BYTES:
            return None

        with Image.open(path, formats=tuple(FORMATS)) as image:
            small = _to_eight_bit(image)
            if tile is not None:
                small = ImageOps.exif_transpose(small)
                edges = (*small.size, *small.size)
                left, top, right, bottom = (
                    round(share * edge) for share, edge in zip(tile, edges, strict=True)
                )
                small = small.crop((left, top, right, bottom))
            small.thumbnail((THUMBNAIL, THUMBNAIL))
            small = ImageOps.exif_transpose(small)
    except (*BROKEN, Image.DecompressionBombError):
        return None

    return small.convert("RGB")


def webp_uri(image: Image.Image) -> str:
    """Return the image as a data URI of WebP, quality 80."""
    target = BytesIO()
    image.save(target, "WEBP", quality=80)
    encoded = base64.b64encode(target.getvalue()).decode("ascii")
    return f"data:image/webp;base64,{encoded}"


def _to_eight_bit(image: Image.Image) -> Image.Image:
    """Return a 16-bit grey image by its upper byte; Pillow would show values above 255 as white."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))

    return image
