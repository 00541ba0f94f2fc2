"""Data sets of Hugging Face's `datasets`: saved on disk, parquet files, or a name on the hub.

Each row is an image with a label. No code of a data set is run. Only arrow and parquet files are
read, because they hold no pickles. Images come from the rows themselves, never from a path in a
row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
from omegaconf import MISSING
from PIL import Image

from vlmbench.config import schema, setting
from vlmbench.data.images import FORMATS, image_path_error
from vlmbench.data.invalid_rows import InvalidRow, invalid_rows_error
from vlmbench.data.paths import normal_text, path_cure
from vlmbench.data.photos.photo import BAD, Photo, hash_file
from vlmbench.data.photos.source import (
    REVISION,
    PairedSourceConfig,
    check_both_labels,
    label_of,
    write_photos,
)
from vlmbench.data.prepared import prepared_folder
from vlmbench.system.text import typed_setting
from vlmbench.types import UserError

HUB_FORMATS = ("arrow", "parquet")
SAVED = ("state.json", "dataset_dict.json")  # the files that save_to_disk writes
SUFFIXES = (".arrow", ".parquet", ".json")  # the files that a data set depends on
MAX_QUOTED = 60  # characters of a value in an error message
MAX_REASON = 300  # characters of the library's error in an error message


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
        if path.is_file():
            raise UserError(
                f"source.path={self.path}: this is a file, must be a folder; set "
                f"{typed_setting('source.path', path.parent)}"
            )

        rows, version = self._open_local() if path.is_dir() else self._open_hub()
        key = _CacheKey(settings=asdict(self), version=version)

        def fill(folder: Path) -> None:
            self._fill(folder, rows)

        return prepared_folder(data_dir, "huggingface", key, fill)

    def _fill(self, folder: Path, rows: Any) -> None:
        (folder / "img").mkdir()
        photos = list(self._write_images(folder, rows))
        check_both_labels(photos, self.path)
        write_photos(folder, photos, root=folder, config=self)

    def _open_local(self) -> tuple[Any, str]:
        """Return the rows of a folder, and a hash of its files."""
        root = Path(self.path)
        files = sorted(path for path in root.rglob("*") if path.suffix in SUFFIXES)
        lines = [f"{path.name} {hash_file(path, inside=root)}" for path in files]
        version = sha256("".join(lines).encode()).hexdigest()

        is_saved = any((root / name).is_file() for name in SAVED)
        rows = self._load_saved(root) if is_saved else self._load_parquet(root, files)

        return rows, version

    def _load_saved(self, root: Path) -> Any:
        """Return the rows of a folder that save_to_disk wrote."""
        import datasets

        with _explain_dataset_errors(self.path):
            _check_saved(root)
            saved = datasets.load_from_disk(str(root))
            return self._split_of(saved) if isinstance(saved, dict) else saved

    def _load_parquet(self, root: Path, files: list[Path]) -> Any:
        """Return the rows of a folder of parquet files."""
        import datasets

        parquet = [str(path) for path in files if path.suffix == ".parquet"]
        if not parquet:
            raise UserError(
                f"source.path={root}: the folder has neither a saved data set "
                f"({' or '.join(SAVED)}) nor parquet files; save the data set there as parquet"
            )

        with _explain_dataset_errors(self.path):
            return datasets.load_dataset(
                "parquet", data_files={"all": parquet}, split="all", streaming=True
            )

    def _open_hub(self) -> tuple[Any, str]:
        """Return the rows of a data set on the hub, and its version there."""
        import datasets

        with _explain_dataset_errors(self.path):
            builder = datasets.load_dataset_builder(self.path, self.subset, revision=self.revision)
            kind = type(builder).__module__.rpartition(".")[2]
            if kind not in HUB_FORMATS:
                raise UserError(
                    f"source.path={self.path}: the files have the format {kind}, must be "
                    f"{' or '.join(HUB_FORMATS)}; convert the data set to parquet"
                )

            rows = datasets.load_dataset(
                self.path,
                self.subset,
                split=self.split,
                revision=self.revision,
                streaming=self.streaming,
            )
            return rows, str(builder.hash)

    def _split_of(self, saved: Mapping[str, Any]) -> Any:
        if self.split not in saved:
            names = list(saved)
            closest = (get_close_matches(self.split, names, n=1) or names or ["train"])[0]
            raise UserError(
                f"source.split={self.split}: {self.path} has no such split, it has "
                f"{', '.join(names)}; set {typed_setting('source.split', closest)}"
            )

        return saved[self.split]

    def _write_images(self, folder: Path, rows: Any) -> Iterator[Photo]:
        """Write the image of each row, and yield the photos. Raise UserError for invalid rows."""
        rows, names = self._select_columns(rows)
        invalid_rows: list[InvalidRow] = []

        with _explain_dataset_errors(self.path):
            for number, row in enumerate(rows):
                if self.limit is not None and number >= self.limit:
                    break
                try:
                    yield self._photo(folder, number, row, names)
                except UserError as error:
                    location = f"{self.path}: row {number}"
                    invalid_rows.append(InvalidRow(location=location, reason=str(error)))

        if invalid_rows:
            raise invalid_rows_error(invalid_rows)

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

        if isinstance(features[self.image], datasets.Image):
            rows = rows.cast_column(self.image, datasets.Image(decode=False))

        label = features[self.label]
        names = list(label.names) if isinstance(label, datasets.ClassLabel) else []

        return rows.select_columns(list(columns.values())), names

    def _photo(self, folder: Path, number: int, row: Mapping[str, Any], names: list[str]) -> Photo:
        """Write the image of a row and return its photo. Raise UserError for an invalid row."""
        word = row[self.label]
        if names and isinstance(word, int) and 0 <= word < len(names):
            word = names[word]

        label = label_of(str(word), self.labels)
        content = _image_bytes(row[self.image], self.image)
        name = f"{number:06d}{_suffix_of(content)}"
        path = folder / "img" / name
        path.write_bytes(content)

        defect = _text(row, self.defect)
        category = _text(row, self.category)
        meta = {"defect": defect, "category": category}

        return Photo(
            name=name,
            path=path,
            label=label,
            part=_text(row, self.group) or name,
            words=defect if label == BAD else "",
            category=category,
            meta={key: text for key, text in meta.items() if text},
        )


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
    except (OSError, ValueError, KeyError, TypeError, DatasetsError) as error:
        reason = str(error).strip().partition("\n")[0][:MAX_REASON]
        cure = path_cure(
            "source.path",
            Path(source_path),
            otherwise="name an existing folder, or a data set on the hub such as owner/name",
        )
        raise UserError(
            f"source.path={source_path}: the data set cannot be read ({reason}); {cure}"
        ) from error


def _check_saved(root: Path) -> None:
    """Raise UserError if a saved data set names a file outside its folder."""
    for state in root.rglob("state.json"):
        content = msgspec.json.decode(state.read_bytes())
        files = content.get("_data_files", []) if isinstance(content, dict) else []

        for file in files:
            name = str(file.get("filename", "")) if isinstance(file, dict) else ""
            path_error = image_path_error(name)
            if path_error is not None:
                raise UserError(f"{state}: {path_error}")


def _image_bytes(value: Any, column: str) -> bytes:
    """Return the content of the image's file.

    A path in the row is not followed: otherwise the data set would choose which of this machine's
    files are read.
    """
    content = value.get("bytes") if isinstance(value, dict) else value

    if not isinstance(content, bytes) or not content:
        raise UserError(
            f"column {column!r} holds no bytes of an image; save the data set with its images in "
            "it, or name the column of images with source.image"
        )

    return content


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
    text = "" if value is None else normal_text(str(value).strip())

    if not text.isprintable():
        raise UserError(f"{column} {text[:MAX_QUOTED]!r} has control characters; remove them")

    return text
