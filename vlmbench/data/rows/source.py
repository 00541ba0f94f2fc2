"""What sources of rows share: rows that do not fit, pictures brought in, and the manifest."""

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

from vlmbench.config import SourceConfig
from vlmbench.data.manifest import ImageRow, Row, row_errors
from vlmbench.data.photos.photo import checked_sha256, copy_picture, require_file
from vlmbench.data.pictures import open_picture
from vlmbench.data.prepared import prepared_folder, write_manifest, write_misfits
from vlmbench.data.wrongs import Misfit, refusal
from vlmbench.types import ImageRef, Record, Role, Task, UserError

REVISION = 1  # raise it when the same rows give other records


class Misfits(StrEnum):
    """What is done with rows that cannot be used."""

    error = "error"  # they are named, and nothing is prepared
    skip = "skip"  # they are left out; run, report and datasheet say how many, and why


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A row as a record: `pictures` are paths within the folder of pictures, the reference first."""

    place: str
    id: str
    task: Task
    pictures: tuple[str, ...]
    label: str
    answer: str
    group: str
    question: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    meta: Mapping[str, str] = field(default_factory=dict)


@dataclass(kw_only=True)
class RowSourceConfig(SourceConfig):
    """A source of rows. `images` is the folder that their picture paths start from, None: where the file lies."""

    path: str = MISSING
    images: str | None = None
    misfits: Misfits = Misfits.error

    @abstractmethod
    def file(self) -> Path:
        """The file that holds the rows."""

    @abstractmethod
    def drafts(self) -> Iterator[Draft | Misfit]:
        """The rows of the file, in its order. Raises UserError where the file as a whole cannot be read."""

    def prepare(self, data_dir: Path) -> Path:
        file = self.file()
        root = Path(self.images) if self.images is not None else file.parent
        drafts, misfits = self._sorted(root)
        pictures = dict.fromkeys(name for draft in drafts for name in draft.pictures)
        content = _Content(
            settings=asdict(self),
            file=sha256(file.read_bytes()).hexdigest(),
            pictures=tuple((name, checked_sha256(root / name, inside=root)) for name in pictures),
        )

        def fill(folder: Path) -> None:
            self._fill(folder, drafts, misfits, root)

        return prepared_folder(data_dir, type(self).__module__.rpartition(".")[2], content, fill)

    def _sorted(self, root: Path) -> tuple[list[Draft], list[Misfit]]:
        """The rows that fit, whose pictures are there, and those that do not."""
        drafts: list[Draft] = []
        misfits: list[Misfit] = []
        for row in self.drafts():
            why = row.why if isinstance(row, Misfit) else _why_not(row, root)
            if isinstance(row, Draft) and why is None:
                drafts.append(row)
                continue
            misfits.append(Misfit(place=row.place, why=why or ""))
        self._refuse(drafts, misfits)
        return drafts, misfits

    def _fill(self, folder: Path, drafts: Sequence[Draft], misfits: Sequence[Misfit], root: Path) -> None:
        """Copy the pictures, each once; a row with a damaged one does not fit."""
        copies: dict[str, ImageRef] = {}
        damage: dict[str, str] = {}
        names = dict.fromkeys(name for draft in drafts for name in draft.pictures)
        for name in tqdm(names, desc="bring in pictures", unit="picture", disable=len(names) < 100):
            try:
                target = copy_picture(name, root / name, root=root, folder=folder)
                open_picture(target, inside=folder)
            except UserError as error:
                damage[name] = str(error).replace(str(folder / "img"), str(root))
                continue
            copies[name] = ImageRef(
                path=target, role=Role.QUERY, view="raw", sha256=checked_sha256(target, inside=folder)
            )
        whole, broken = [], list(misfits)
        for draft in drafts:
            found = [damage[name] for name in draft.pictures if name in damage]
            broken += [Misfit(place=draft.place, why=why) for why in found[:1]]
            whole += [] if found else [draft]
        self._refuse(whole, broken)
        write_manifest(folder, (_record(draft, copies) for draft in whole))
        write_misfits(folder, broken, total=len(drafts) + len(misfits))

    def _refuse(self, drafts: Sequence[Draft], misfits: Sequence[Misfit]) -> None:
        """Raise UserError where rows that do not fit are errors, or no other is left."""
        if misfits and self.misfits is Misfits.error:
            cure = "mend these rows, or leave out rows that do not fit with source.misfits=skip: they are then counted"
            raise refusal(misfits, cure=cure)
        if not drafts:
            raise refusal(misfits, cure=f"{self.path}: no row in it can be used; the README has the format")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    """What the prepared folder depends on."""

    settings: dict[str, Any]
    file: str
    pictures: tuple[tuple[str, str], ...]
    revision: int = REVISION


def _why_not(draft: Draft, root: Path) -> str | None:
    """Why a manifest would not take the row, or which picture is not there; None: it fits."""
    row = Row(
        id=draft.id,
        task=draft.task,
        group=draft.group,
        label=draft.label,
        images=[ImageRow(path=name, role=role) for name, role in zip(draft.pictures, _roles(draft), strict=False)],
        answer=draft.answer,
        question=draft.question,
        options=dict(draft.options),
    )
    errors = list(row_errors(row, {}, ("raw",)))
    if errors:
        return "; ".join(errors)
    try:
        for name in draft.pictures:
            require_file(root / name, inside=root)
    except UserError as error:
        return str(error)
    return None


def _roles(draft: Draft) -> tuple[Role, ...]:
    return (Role.REFERENCE, Role.QUERY)[-len(draft.pictures) :]


def _record(draft: Draft, copies: Mapping[str, ImageRef]) -> Record:
    return Record(
        id=draft.id,
        task=draft.task,
        images=tuple(
            replace(copies[name], role=role) for name, role in zip(draft.pictures, _roles(draft), strict=True)
        ),
        answer=draft.answer,
        label=draft.label,
        group=draft.group,
        question=draft.question,
        options=draft.options,
        meta=draft.meta,
    )
