"""Show a record's images in their views, and make samples of records."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from threading import Lock

from PIL import Image

from vlmbench.config import ViewConfig
from vlmbench.data.changes import CHANGES
from vlmbench.data.images import (
    Check,
    decode_image,
    file_sha256,
    file_version,
    open_image,
    read_image,
)
from vlmbench.data.prompts import Wording
from vlmbench.data.unchanged import ReadFiles
from vlmbench.system.files import sync
from vlmbench.types import FileVersion, ImageRef, LazyImage, Record, Role, Sample, UserError

log = logging.getLogger(__name__)

RAW = "raw"
BLANK_GREY = (128, 128, 128)
MAX_OPEN_PIXELS = 64_000_000  # of images that tiles are cut from: 200 MB


class WholeImages:
    """The images that tiles are cut from: the last two, and more while they are small.

    Several threads may ask at once. An image is loaded by one of them, and no other beside it.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._images: OrderedDict[Hashable, Image.Image] = OrderedDict()

    def get(self, key: Hashable, load: Callable[[], Image.Image]) -> Image.Image:
        """Return the image of this key; load it if it is not open."""
        with self._lock:
            if key not in self._images:
                while len(self._images) > 1 and self._num_pixels() > MAX_OPEN_PIXELS:
                    self._images.popitem(last=False)
                self._images[key] = load()

            self._images.move_to_end(key)
            return self._images[key]

    def _num_pixels(self) -> int:
        return sum(image.width * image.height for image in self._images.values())


class Viewer:
    """Show images in their views: raw images as they are, processed images from a cache.

    Each processed image is made once. The cache names it by its view and by the raw file's SHA-256.
    Raw images must lie in `folder`, unless `folder` is None. `check` sees the bytes of each raw
    image that is opened.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        name: str,
        process: Callable[[Image.Image], Image.Image],
        fingerprint: str,
        cache: Path,
        check: Check | None = None,
    ) -> None:
        self._folder = folder
        self._check = check
        self._name = name
        self._process = process
        self._cache = cache / "views" / fingerprint
        self._processed_paths: dict[Path, Path] = {}
        self._whole = WholeImages()
        self._sizes: dict[FileVersion | None, tuple[int, int]] = {}

    def path(self, image: ImageRef) -> Path | None:
        """Return the file of the image in its view; None for a blank image."""
        if image.blank:
            return None
        if image.view == RAW:
            return image.path
        if image.view != self._name:
            raise UserError(
                f"{image.path}: view {image.view!r} is not one of {RAW}, {self._name}; "
                f"set view.name={image.view}"
            )

        if image.path not in self._processed_paths:
            self._processed_paths[image.path] = self._write_processed(image.path)
        return self._processed_paths[image.path]

    def forget(self) -> None:
        """Remove the processed images that were shown; each is made again when it is shown."""
        for path in self._processed_paths.values():
            path.unlink(missing_ok=True)
        self._processed_paths.clear()
        self._whole = WholeImages()

    def size(self, path: Path) -> tuple[int, int]:
        """Return (width, height) of a raw image, upright. The image stays open for its tiles."""
        version = file_version(path, None)
        if version not in self._sizes:
            whole = self._whole.get((RAW, version), partial(self._open_raw, path))
            self._sizes[version] = whole.size
        return self._sizes[version]

    def open(self, image: ImageRef) -> Image.Image:
        """Return the image in its view, RGB, with its change. A tile is changed by itself."""
        shown = self._open_unchanged(image) if image.box is None else self._open_tile(image)
        return CHANGES[image.change](shown) if image.change else shown

    def _open_tile(self, image: ImageRef) -> Image.Image:
        x, y, width, height = image.box or (0, 0, 0, 0)
        if image.blank:
            return Image.new("RGB", (width, height), BLANK_GREY)

        key = image.view, file_version(image.path, None)
        whole = self._whole.get(key, partial(self._open_unchanged, image))
        return whole.crop((x, y, x + width, y + height))

    def _open_unchanged(self, image: ImageRef) -> Image.Image:
        path = self.path(image)
        if path is None:
            size = self._open_raw(image.path).size
            return Image.new("RGB", size, BLANK_GREY)
        if path == image.path:
            return self._open_raw(path)

        try:
            return open_image(path)
        except UserError as error:
            log.warning("%s; the image is processed again", error)
            path.unlink(missing_ok=True)
            return open_image(self._write_processed(image.path))

    def _open_raw(self, path: Path) -> Image.Image:
        return open_image(path, inside=self._folder, check=self._check)

    def lazy_image(self, image: ImageRef, *, of: str) -> LazyImage:
        """Return the image in its view, opened on first use. Errors then name the record `of`."""
        path = self.path(image)
        inside = self._folder if path == image.path else None
        version = None if path is None else file_version(path, inside)
        if version is not None and image.change:
            version = version, image.change  # its pixels are not those of the file
        if version is not None and image.box is not None:
            version = version, image.box
        return LazyImage(partial(self._open_for, of, image), version=version)

    def _open_for(self, record: str, image: ImageRef) -> Image.Image:
        with name_record(record):
            return self.open(image)

    def _write_processed(self, path: Path) -> Path:
        """Return the cached file of a processed image; write the file if it does not exist."""
        content = read_image(path, inside=self._folder, check=self._check)
        target = self._cache / f"{sha256(content).hexdigest()}.png"
        if target.exists():
            return target

        raw = decode_image(path, content)

        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f".{target.stem}.{os.getpid()}.png")
        try:
            self._process(raw).save(unfinished)
            sync(unfinished)
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)
        return target


def reference_images(records: Iterable[Record], most: int = 256) -> list[Path]:
    """Return the paths of the raw reference images, once each: the first `most` in sorted order."""
    paths = {
        image.path
        for record in records
        for image in record.images
        if image.role is Role.REFERENCE and image.view == RAW
    }
    return sorted(paths)[:most]


@contextmanager
def name_record(record: str) -> Iterator[None]:
    """Add the record's id to each UserError that the body raises."""
    try:
        yield
    except UserError as error:
        raise UserError(f"record {record!r}: {error}") from error


def open_sample(record: Record, *, viewer: Viewer, wording: Wording) -> Sample:
    """Return the record in words, with images that open on first use.

    Raises UserError that names the record, also later when an image is opened.
    """
    with name_record(record.id):
        images = tuple(viewer.lazy_image(image, of=record.id) for image in record.images)

    return Sample(
        record=record,
        images=images,
        question=wording.question(record),
        answer=wording.answer(record),
        words=tuple(wording.words_of(record).values()),
    )


def without_images(record: Record, *, wording: Wording) -> Sample:
    """Return the record in words, without images, for counting tokens."""
    return Sample(
        record=replace(record),
        images=(),
        question=wording.question(record),
        answer=wording.answer(record),
        words=tuple(wording.words_of(record).values()),
    )


def make_viewer(
    folder: Path | None,
    train: Iterable[Record],
    *,
    view: ViewConfig,
    cache_dir: Path,
    files: ReadFiles,
) -> Viewer:
    """Return what shows images as a run that trains on `train` does.

    They must lie in `folder`; None: anywhere. `files` are the run's own: its reference images are
    checked, and each image that is shown if `folder` is the run's.
    """
    references = reference_images(train)
    process = view.build(references)
    fingerprint = view.fingerprint([file_sha256(path) for path in references])
    for path in references:
        files.check_file(path)

    return Viewer(
        folder,
        name=view.name,
        process=process,
        fingerprint=fingerprint,
        cache=cache_dir,
        check=files.check if folder == files.manifest.folder else None,
    )
