"""Data sets of Hugging Face's `datasets`: saved on disk, parquet files, or a name on the hub.

Each row is an image with a label. No code of a data set is run. Only arrow and parquet files are
read, because they hold no pickles. Images come from the rows themselves, never from a path in a
row.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from hashlib import sha256
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

from omegaconf import MISSING
from PIL import Image

from vlmbench.config import schema, setting
from vlmbench.data.arrow import (
    SAVED,
    ArrowRows,
    check_hub_files,
    check_saved,
    image_bytes,
    read_head,
    read_object,
    read_schema,
    saved_files,
)
from vlmbench.data.image_limits import check_pointer
from vlmbench.data.images import FORMATS, image_path_error
from vlmbench.data.invalid_rows import MAX_INVALID_ROWS, InvalidRow, invalid_rows_error
from vlmbench.data.paths import is_folder, is_plain_file, normal_text, path_cure
from vlmbench.data.photos.left_out import is_litter, pass_over, refuse_missing, walk
from vlmbench.data.photos.photo import BAD, Photo, hash_file
from vlmbench.data.photos.source import (
    REVISION,
    PairedSourceConfig,
    check_both_labels,
    label_of,
    write_photos,
)
from vlmbench.data.prepared import prepared_folder
from vlmbench.system.files import explain_disk_errors, no_room_message
from vlmbench.system.text import typed_setting
from vlmbench.types import UserError

LIBRARY_ERRORS = (OSError, ValueError, LookupError, TypeError, RuntimeError, MemoryError)
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
SUFFIXES = (".arrow", ".parquet", ".json")  # the files that a data set depends on
MAX_QUOTED = 60  # characters of a value in an error message
MAX_REASON = 300  # characters of the library's error in an error message
MAX_UNPACKED = 20  # times the size of the files, beyond SMALL: images hardly shrink any more
SMALL = 100_000_000  # bytes of images


@schema("source", "huggingface")
@dataclass(kw_only=True)
class HuggingFaceConfig(PairedSourceConfig):
    """`path` is a folder, or a name on the hub.

    `image`, `label`, `group`, `defect` and `category` are names of columns.
    """

    path: str = setting(
        MISSING,
        "Folder of save_to_disk or of parquet files, or a name on the hub.",
        cure="data_set",
    )
    subset: str | None = setting(None, "Subset of a hub data set; null: its default subset.")
    split: str = setting("train", "Split to read; data.split then splits its rows anew.")
    revision: str | None = setting(
        None, "Commit, tag or branch of a hub data set; null: its main branch."
    )
    streaming: bool = setting(False, "Read a hub data set without a copy on disk.")
    limit: int | None = setting(
        None, "Rows to read from the start; null: all.", at_least=1, cure="null"
    )
    image: str = setting("image", "Column of images.")
    label: str = setting("label", "Column of labels.")
    group: str | None = setting(None, "Column of parts; null: each photo is a part of its own.")
    defect: str | None = setting(
        None, "Column that describes defects in words; null: answers without a description."
    )
    category: str | None = setting(
        None, "Column of categories, within which photos are compared; null: one category."
    )

    def prepare(self, data_dir: Path) -> Path:
        path = Path(self.path)
        if is_plain_file(path):
            raise UserError(
                f"source.path={self.path}: this is a file, must be a folder; set "
                f"{typed_setting('source.path', path.parent)}"
            )

        rows, version = self._open_local() if is_folder(path) else self._open_hub()
        key = _CacheKey(settings=asdict(self), version=version)

        def fill(folder: Path) -> None:
            self._fill(folder, rows)

        return prepared_folder(data_dir, "huggingface", key, fill)

    def _fill(self, folder: Path, rows: Any) -> None:
        (folder / "img").mkdir()
        photos = list(self._write_images(folder, rows))
        check_both_labels(photos, self)
        write_photos(folder, photos, root=folder, config=self)

    def _open_local(self) -> tuple[Any, str]:
        """Return the rows of a folder, and a hash of its files."""
        root = Path(self.path)
        found = [path for path in walk(root) if not is_litter(path, root)]
        files = [path for path in found if path.suffix in SUFFIXES]
        refuse_missing(files, root)
        for path in files:
            check_pointer(path, read_head(path))
        is_saved = any((root / name).is_file() for name in SAVED)
        rows = self._load_saved(root) if is_saved else self._load_parquet(root, files)
        lines = [f"{path.name} {hash_file(path, inside=root)}" for path in files]
        version = sha256("".join(lines).encode()).hexdigest()
        unread = [path for path in found if path.suffix != ".json" and path not in rows.files]
        pass_over(unread, root, reason="only the files of one split in parquet or arrow are read")

        return rows, version

    def _load_saved(self, root: Path) -> Any:
        """Return the rows of a folder that save_to_disk wrote."""
        with _explain_dataset_errors(self.path):
            check_saved(root)
            folder = root
            if (root / SAVED[1]).is_file():
                splits = read_object(root / SAVED[1]).get("splits")
                names = splits if isinstance(splits, list) else []
                folder = root / self._split_of([name for name in names if isinstance(name, str)])

            return _rows_of(saved_files(folder))

    def _load_parquet(self, root: Path, files: list[Path]) -> Any:
        """Return the rows of a folder of parquet files."""
        parquet = [path for path in files if path.suffix == ".parquet"]
        if not parquet:
            raise UserError(
                f"source.path={root}: the folder has neither a saved data set "
                f"({' or '.join(SAVED)}) nor parquet files; save the data set there as parquet"
            )

        with _explain_dataset_errors(self.path):
            return _rows_of(parquet)

    def _open_hub(self) -> tuple[Any, str]:
        """Return the rows of a data set on the hub, and its version there."""
        import datasets

        with _explain_dataset_errors(self.path):
            builder = datasets.load_dataset_builder(self.path, self.subset, revision=self.revision)
            check_hub_files(self.path, builder)
            rows = datasets.load_dataset(
                self.path,
                self.subset,
                split=self.split,
                revision=self.revision,
                streaming=self.streaming,
            )
            return rows, str(builder.hash)

    def _split_of(self, names: Sequence[str]) -> str:
        """Return the name of the split to read, which is a folder's name."""
        names = [name for name in names if image_path_error(name) is None]
        if self.split not in names:
            closest = (get_close_matches(self.split, names, n=1) or names or ["train"])[0]
            raise UserError(
                f"source.split={self.split}: {self.path} has no such split, it has "
                f"{', '.join(names)}; set {typed_setting('source.split', closest)}"
            )

        return self.split

    def _write_images(self, folder: Path, rows: Any) -> Iterator[Photo]:
        """Write the image of each row, and yield the photos. Raise UserError for invalid rows."""
        rows, names = self._select_columns(rows)
        most = MAX_UNPACKED * rows.num_bytes + SMALL if isinstance(rows, ArrowRows) else None
        invalid_rows: list[InvalidRow] = []
        written = 0

        for number, row in enumerate(self._read_rows(rows)):
            try:
                photo, content = self._photo(folder, number, row, names)
            except UserError as error:
                location = f"{self.path}: row {number}"
                invalid_rows.append(InvalidRow(location=location, reason=str(error)))
                if len(invalid_rows) >= MAX_INVALID_ROWS:
                    break
                continue

            written += len(content)
            if most is not None and written > most:
                raise UserError(
                    f"source.path={self.path}: the images of {number + 1} rows have {written:,} "
                    f"bytes, more than {MAX_UNPACKED} times the files; set source.limit={number}"
                )
            with explain_disk_errors(str(photo.path)):
                photo.path.write_bytes(content)
            yield photo

        if invalid_rows:
            raise invalid_rows_error(invalid_rows)

    def _read_rows(self, rows: Any) -> Iterator[Mapping[str, Any]]:
        with _explain_dataset_errors(self.path):
            yield from islice(rows, self.limit)

    def _select_columns(self, rows: Any) -> tuple[Any, list[str]]:
        """Return the rows with images as bytes, and the names of the label's numbers."""
        import datasets

        features = rows.features or {}
        settings = ("image", "label", "group", "defect", "category")
        columns = {name: getattr(self, name) for name in settings}
        columns = {name: column for name, column in columns.items() if column}

        for key, column in columns.items():
            if column not in features:
                names = list(features)
                closest = (get_close_matches(column, names, n=1) or names or [key])[0]
                raise UserError(
                    f"source.{key}={column}: {self.path} has no column {column!r}, it has "
                    f"{', '.join(names)}; set {typed_setting(f'source.{key}', closest)}"
                )

        is_decoded = isinstance(features[self.image], datasets.Image)
        if is_decoded and not isinstance(rows, ArrowRows):
            rows = rows.cast_column(self.image, datasets.Image(decode=False))

        label = features[self.label]
        names = list(label.names) if isinstance(label, datasets.ClassLabel) else []

        return rows.select_columns(list(columns.values())), names

    def _photo(
        self, folder: Path, number: int, row: Mapping[str, Any], names: list[str]
    ) -> tuple[Photo, bytes]:
        """Return the photo of a row and its image's bytes. Raise UserError for an invalid row."""
        word = row[self.label]
        if names and isinstance(word, int) and 0 <= word < len(names):
            word = names[word]

        label = label_of(str(word), self.labels)
        content = image_bytes(row[self.image], self.image)
        name = f"{number:06d}{_suffix_of(content)}"
        defect = _text(row, self.defect)
        category = _text(row, self.category)
        meta = {"defect": defect, "category": category}

        photo = Photo(
            name=name,
            path=folder / "img" / name,
            label=label,
            part=_text(row, self.group) or name,
            words=defect if label == BAD else "",
            category=category,
            meta={key: text for key, text in meta.items() if text},
        )
        return photo, content


@dataclass(frozen=True, slots=True, kw_only=True)
class _CacheKey:
    """All that the prepared folder depends on."""

    settings: dict[str, Any]
    version: str
    revision: int = REVISION


@contextmanager
def _explain_dataset_errors(source_path: str) -> Iterator[None]:
    """Turn errors of the library into a UserError that names the data set."""
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (*LIBRARY_ERRORS, DatasetsError) as error:
        if isinstance(error, OSError) and error.errno in FULL:  # the library's cache
            raise UserError(no_room_message("the cache of Hugging Face", error)) from error
        reason = (str(error).strip() or type(error).__name__).partition("\n")[0][:MAX_REASON]
        cure = path_cure(
            "source.path",
            Path(source_path),
            otherwise="name an existing folder, or a data set on the hub such as owner/name",
        )
        raise UserError(
            f"source.path={source_path}: the data set cannot be read ({reason}); {cure}"
        ) from error


def _rows_of(files: list[Path]) -> ArrowRows:
    """Return the rows of the files. Raise UserError if their columns differ."""
    import datasets

    if not files:
        raise ValueError("it has no files")
    schemas = [read_schema(path) for path in files]
    for path, found in zip(files, schemas, strict=True):
        if found.names != schemas[0].names:
            raise UserError(
                f"{path}: the columns are {', '.join(found.names)[:MAX_QUOTED]}, those of "
                f"{files[0].name} are {', '.join(schemas[0].names)[:MAX_QUOTED]}; move one of the "
                "files to another folder"
            )

    return ArrowRows(files=files, features=datasets.Features.from_arrow_schema(schemas[0]))


def _suffix_of(content: bytes) -> str:
    """Return the file suffix of the image's format. Raise UserError if it is not an image."""
    try:
        with Image.open(BytesIO(content), formats=tuple(FORMATS)) as image:
            is_jpeg = image.format == "MPO"  # phones put several JPEGs into one file
            return FORMATS["JPEG" if is_jpeg else str(image.format)][0]
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            f"not a readable image ({', '.join(FORMATS)}); convert or replace it"
        ) from error


def _text(row: Mapping[str, Any], column: str | None) -> str:
    """Return a value of a row as text, "" for an empty value or if `column` is None."""
    value = row[column] if column is not None else None
    is_missing = value is None or value != value
    text = "" if is_missing else normal_text(str(value).strip())

    if not text.isprintable():
        raise UserError(f"{column} {text[:MAX_QUOTED]!r} has control characters; remove them")

    return text
