"""The common base of sources of rows: invalid rows, copies of the images, and the manifest."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import Any

from omegaconf import MISSING
from tqdm import tqdm

from vlmbench.config import SourceConfig, setting
from vlmbench.data.images import open_image
from vlmbench.data.invalid_rows import MAX_INVALID_ROWS, InvalidRow, invalid_rows_error
from vlmbench.data.manifest_format import ImageRow, Row, row_errors
from vlmbench.data.paths import find_path, normal_name, normal_path, normal_text
from vlmbench.data.photos.photo import copy_image, hash_file, require_file
from vlmbench.data.prepared import prepared_folder, write_invalid_rows, write_manifest
from vlmbench.types import ImageRef, Record, Role, Task, UserError

REVISION = 1  # raise it when the same rows give other records


class InvalidRowPolicy(StrEnum):
    """The treatment of rows that cannot be used."""

    error = "error"  # name them in an error, and prepare nothing
    skip = "skip"  # leave them out; the run, the report and the datasheet give number and reasons


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A record before its images are copied.

    `images` are paths relative to the folder of images, the reference first.
    """

    location: str
    id: str
    task: Task
    images: tuple[str, ...]
    label: str
    answer: str
    group: str
    question: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    meta: Mapping[str, str] = field(default_factory=dict)

    @property
    def roles(self) -> tuple[Role, ...]:
        """Return the role of each image. The last one is the query."""
        return (Role.REFERENCE, Role.QUERY)[-len(self.images) :]


@dataclass(kw_only=True)
class RowSourceConfig(SourceConfig):
    """A source whose file holds rows.

    Image paths start from the folder `images`, or from the file's folder where it is None.
    """

    path: str = setting(MISSING, "JSON file, a list of rows or JSON lines.", cure="rows.json")
    images: str | None = setting(
        None, "Folder that image paths start from; null: the file's folder."
    )
    invalid_rows: InvalidRowPolicy = setting(
        InvalidRowPolicy.error,
        "error: an invalid row is an error; skip: leave invalid rows out and count them.",
    )

    @abstractmethod
    def file(self) -> Path:
        """Return the path of the file that holds the rows."""

    @abstractmethod
    def drafts(self) -> Iterator[Draft | InvalidRow]:
        """Yield the file's rows in their order. Raise UserError if the file cannot be read."""

    def prepare(self, data_dir: Path) -> Path:
        file = self.file()
        root = Path(self.images) if self.images is not None else file.parent
        drafts, invalid_rows = self._sort_rows(root)

        names = _image_names(drafts)
        key = _CacheKey(
            settings=asdict(self),
            file=sha256(file.read_bytes()).hexdigest(),
            images=tuple((name, hash_file(find_path(root, name), inside=root)) for name in names),
        )

        def fill(folder: Path) -> None:
            self._fill(folder, drafts, invalid_rows, root)

        source = type(self).__module__.rpartition(".")[2]
        return prepared_folder(data_dir, source, key, fill)

    def _sort_rows(self, root: Path) -> tuple[list[Draft], list[InvalidRow]]:
        """Return the valid rows with existing images, and the invalid rows."""
        drafts: list[Draft] = []
        invalid_rows: list[InvalidRow] = []

        is_strict = self.invalid_rows is InvalidRowPolicy.error
        for row in self.drafts():
            if is_strict and len(invalid_rows) >= MAX_INVALID_ROWS:
                break
            if isinstance(row, InvalidRow):
                invalid_rows.append(row)
                continue

            draft = _normal_draft(row)
            reason = _draft_error(draft, root)
            if reason is None:
                drafts.append(draft)
            else:
                invalid_rows.append(InvalidRow(location=draft.location, reason=reason))

        self._check_rows(drafts, invalid_rows)

        return drafts, invalid_rows

    def _fill(
        self, folder: Path, drafts: Sequence[Draft], invalid_rows: Sequence[InvalidRow], root: Path
    ) -> None:
        """Copy each image once and write the manifest. A row with a damaged image is invalid."""
        copies, damage = _copy_images(drafts, folder, root)

        intact: list[Draft] = []
        all_invalid = list(invalid_rows)
        for draft in drafts:
            reasons = [damage[name] for name in draft.images if name in damage]
            if reasons:
                all_invalid.append(InvalidRow(location=draft.location, reason=reasons[0]))
            else:
                intact.append(draft)

        self._check_rows(intact, all_invalid)
        write_manifest(folder, (_record(draft, copies) for draft in intact))
        write_invalid_rows(folder, all_invalid, total=len(drafts) + len(invalid_rows))

    def _check_rows(self, drafts: Sequence[Draft], invalid_rows: Sequence[InvalidRow]) -> None:
        """Raise UserError if no valid row is left, or if the policy is to refuse invalid rows."""
        if invalid_rows and self.invalid_rows is InvalidRowPolicy.error:
            cure = "fix these rows, or leave invalid rows out with source.invalid_rows=skip"
            raise invalid_rows_error(invalid_rows, cure=cure)

        if not drafts:
            cure = (
                f"source.path={self.path}: the file has no valid row; see "
                "docs/how-to/bring-your-data.md for the format"
            )
            raise invalid_rows_error(invalid_rows, cure=cure)


@dataclass(frozen=True, slots=True, kw_only=True)
class _CacheKey:
    """All that the prepared folder depends on."""

    settings: dict[str, Any]
    file: str  # SHA-256
    images: tuple[tuple[str, str], ...]  # name, SHA-256
    revision: int = REVISION


def _image_names(drafts: Sequence[Draft]) -> list[str]:
    """Return the image paths of all rows, each once, in their order."""
    return list(dict.fromkeys(name for draft in drafts for name in draft.images))


def _normal_draft(draft: Draft) -> Draft:
    """Return the draft with one spelling of each name and path."""
    return replace(
        draft,
        images=tuple(map(normal_path, draft.images)),
        group=normal_name(draft.group),
        label=normal_name(draft.label),
        answer=normal_text(draft.answer),
    )


def _draft_error(draft: Draft, root: Path) -> str | None:
    """Return why the row is invalid or which image does not exist. Return None for a valid row."""
    images = [
        ImageRow(path=name, role=role)
        for name, role in zip(draft.images, draft.roles, strict=False)
    ]
    row = Row(
        id=draft.id,
        task=draft.task,
        group=draft.group,
        label=draft.label,
        images=images,
        answer=draft.answer,
        question=draft.question,
        options=dict(draft.options),
    )
    errors = list(row_errors(row, {}, ("raw",)))
    if errors:
        return "; ".join(errors)

    try:
        for name in draft.images:
            require_file(find_path(root, name), inside=root)
    except UserError as error:
        return str(error)

    return None


def _copy_images(
    drafts: Sequence[Draft], folder: Path, root: Path
) -> tuple[dict[str, ImageRef], dict[str, str]]:
    """Copy each image from `root` to `folder`/img once.

    Return the copies by name, and for each damaged image the reason.
    """
    copies: dict[str, ImageRef] = {}
    damage: dict[str, str] = {}
    names = _image_names(drafts)

    for name in tqdm(
        names,
        desc="copy images",
        unit="image",
        disable=len(names) < 100,
    ):
        try:
            target = copy_image(name, find_path(root, name), root=root, folder=folder)
            open_image(target, inside=folder)
        except UserError as error:
            damage[name] = str(error).replace(str(folder / "img"), str(root))
            continue

        digest = hash_file(target, inside=folder)
        copies[name] = ImageRef(
            path=target,
            role=Role.QUERY,
            view="raw",
            sha256=digest,
        )

    return copies, damage


def _record(draft: Draft, copies: Mapping[str, ImageRef]) -> Record:
    images = [
        replace(copies[name], role=role)
        for name, role in zip(draft.images, draft.roles, strict=True)
    ]

    return Record(
        id=draft.id,
        task=draft.task,
        images=tuple(images),
        answer=draft.answer,
        label=draft.label,
        group=draft.group,
        question=draft.question,
        options=draft.options,
        meta=draft.meta,
    )
