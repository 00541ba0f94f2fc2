"""Data sets of Hugging Face's `datasets`: saved with save_to_disk, a folder of parquet files, or named on the hub.

Rows are single pictures with a label. No code of a data set is run, only formats are read that hold no pickles (arrow
and parquet), and pictures are taken from the rows themselves, never from a path that a row names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
from PIL import Image

from vlmbench.config import check_range, schema
from vlmbench.data.photos.photo import Photo, checked_sha256
from vlmbench.data.photos.source import REVISION, PairedSourceConfig, check_both_labels, label_of, write_photos
from vlmbench.data.pictures import FORMATS, path_error
from vlmbench.data.prepared import prepared_folder
from vlmbench.data.wrongs import Misfit, refusal
from vlmbench.types import UserError

HUB_FORMATS = ("arrow", "parquet")
SAVED = ("state.json", "dataset_dict.json")  # what save_to_disk writes


@schema("source", "huggingface")
@dataclass(kw_only=True)
class HuggingFaceConfig(PairedSourceConfig):
    """`path` is a folder, or a name on the hub; `image`, `label` and the others name columns."""

    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    streaming: bool = False
    limit: int | None = None
    image: str = "image"
    label: str = "label"
    group: str | None = None
    defect: str | None = None
    category: str | None = None

    def __post_init__(self) -> None:
        PairedSourceConfig.__post_init__(self)
        check_range("source.limit", self.limit, 1)

    def prepare(self, data_dir: Path) -> Path:
        if Path(self.path).is_file():
            raise UserError(f"source.path={self.path}: this is a file; name the folder of the data set")
        local = Path(self.path).is_dir()
        rows, version = self._open_local() if local else self._open_hub()
        content = _Content(settings=asdict(self), version=version)
        return prepared_folder(data_dir, "huggingface", content, lambda folder: self._fill(folder, rows))

    def _fill(self, folder: Path, rows: Any) -> None:
        (folder / "img").mkdir()
        photos = list(self._write(folder, rows))
        check_both_labels(photos, self.path)
        write_photos(folder, photos, root=folder, config=self)

    def _open_local(self) -> tuple[Any, str]:
        """The rows of a folder and a hash of its files."""
        import datasets

        root = Path(self.path)
        files = sorted(path for path in root.rglob("*") if path.suffix in (".arrow", ".parquet", ".json"))
        version = sha256("".join(f"{path.name} {checked_sha256(path, inside=root)}" for path in files).encode())
        if any((root / name).is_file() for name in SAVED):
            with _naming(self.path):
                _check_saved(root)
                saved = datasets.load_from_disk(str(root))
                return (self._split_of(saved) if isinstance(saved, dict) else saved), version.hexdigest()
        parquet = [str(path) for path in files if path.suffix == ".parquet"]
        if not parquet:
            raise UserError(f"{root}: neither a saved data set ({' or '.join(SAVED)}) nor parquet files in it")
        with _naming(self.path):
            loaded = datasets.load_dataset("parquet", data_files={"all": parquet}, split="all", streaming=True)
            return loaded, version.hexdigest()

    def _open_hub(self) -> tuple[Any, str]:
        """The rows of a data set on the hub and its version there."""
        import datasets

        with _naming(self.path):
            builder = datasets.load_dataset_builder(self.path, self.subset, revision=self.revision)
            kind = type(builder).__module__.rpartition(".")[2]
            if kind not in HUB_FORMATS:
                raise UserError(f"{self.path}: its files are of format {kind}; {' and '.join(HUB_FORMATS)} are read")
            loaded = datasets.load_dataset(
                self.path, self.subset, split=self.split, revision=self.revision, streaming=self.streaming
            )
            return loaded, str(builder.hash)

    def _split_of(self, saved: Mapping[str, Any]) -> Any:
        if self.split not in saved:
            raise UserError(f"{self.path}: split {self.split!r} is not one of {', '.join(saved)}; set source.split")
        return saved[self.split]

    def _write(self, folder: Path, rows: Any) -> Iterator[Photo]:
        """Write each row's picture; give the photos."""
        rows, names = self._columns(rows)
        misfits: list[Misfit] = []
        with _naming(self.path):
            for number, row in enumerate(rows):
                if self.limit is not None and number >= self.limit:
                    break
                try:
                    yield self._photo(folder, number, row, names)
                except UserError as error:
                    misfits.append(Misfit(place=f"{self.path}: row {number}", why=str(error)))
        if misfits:
            raise refusal(misfits)

    def _columns(self, rows: Any) -> tuple[Any, list[str]]:
        """The rows with pictures as bytes, and the names of the label's numbers."""
        import datasets

        features = rows.features or {}
        wanted = [self.image, self.label, *filter(None, (self.group, self.defect, self.category))]
        for column in wanted:
            if column not in features:
                raise UserError(
                    f"{self.path}: no column {column!r} among {', '.join(features)}; set source.image, "
                    "source.label and the others"
                )
        if isinstance(features[self.image], datasets.Image):
            rows = rows.cast_column(self.image, datasets.Image(decode=False))
        names = list(features[self.label].names) if isinstance(features[self.label], datasets.ClassLabel) else []
        return rows.select_columns(wanted), names

    def _photo(self, folder: Path, number: int, row: Mapping[str, Any], names: list[str]) -> Photo:
        word = row[self.label]
        if names and isinstance(word, int) and 0 <= word < len(names):
            word = names[word]
        label = label_of(str(word), self.labels)
        content = _bytes(row[self.image], self.image)
        name = f"{number:06d}{_suffix(content)}"
        (folder / "img" / name).write_bytes(content)
        said = {key: _text(row, column) for key, column in (("defect", self.defect), ("category", self.category))}
        return Photo(
            name=name,
            path=folder / "img" / name,
            label=label,
            part=_text(row, self.group) or name,
            words=said["defect"] if label == "abnormal" else "",
            category=said["category"],
            meta={key: text for key, text in said.items() if text},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    """What the prepared folder depends on."""

    settings: dict[str, Any]
    version: str
    revision: int = REVISION


@contextmanager
def _naming(place: str) -> Iterator[None]:
    """Errors of the library from within name the data set."""
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, DatasetsError) as error:
        first = str(error).strip().partition("\n")[0][:300]
        raise UserError(f"{place}: the data set cannot be read ({first}); correct source.path") from error


def _check_saved(root: Path) -> None:
    """A saved data set names its own files: raise UserError where one leads out of its folder."""
    for state in root.rglob("state.json"):
        found = msgspec.json.decode(state.read_bytes())
        for file in found.get("_data_files", []) if isinstance(found, dict) else []:
            wrong = path_error(str(file.get("filename", "")) if isinstance(file, dict) else "")
            if wrong is not None:
                raise UserError(f"{state}: {wrong}")


def _bytes(value: Any, column: str) -> bytes:
    """The picture's file. A path is not followed: data would choose which file of this machine is read."""
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes) or not content:
        raise UserError(
            f"column {column!r} holds no picture's bytes; save the data set with its pictures in it, or name the "
            "column of pictures with source.image"
        )
    return content


def _suffix(content: bytes) -> str:
    try:
        with Image.open(BytesIO(content), formats=tuple(FORMATS)) as image:
            return FORMATS["JPEG" if image.format == "MPO" else str(image.format)][0]
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"not a picture that can be read ({', '.join(FORMATS)}); replace it") from error


def _text(row: Mapping[str, Any], column: str | None) -> str:
    value = row[column] if column is not None else None
    text = "" if value is None else str(value).strip()
    if not text.isprintable():
        raise UserError(f"{column} {text[:60]!r} has control characters; take them out")
    return text
