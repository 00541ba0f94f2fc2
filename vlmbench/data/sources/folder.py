"""Folders of your own photos: good/ and bad/, or a CSV file that labels them, become pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from vlmbench.config import schema
from vlmbench.data.photos.photo import BAD, GOOD, Parts, Photo, part_of, pictures_in
from vlmbench.data.photos.source import PhotoSourceConfig, label_of
from vlmbench.data.photos.table import read_table
from vlmbench.data.pictures import SUFFIXES, path_error
from vlmbench.data.wrongs import Misfit, refusal
from vlmbench.types import Split, UserError

COLUMNS = ("path", "label", "group", "defect", "category", "split")  # what else a table has goes into `meta`
SPLITS = ("", *Split)
FOLDERS = {GOOD: "good", BAD: "bad"}


@schema("source", "folder")
@dataclass(kw_only=True)
class FolderConfig(PhotoSourceConfig):
    """The photos are dealt into lots (`vlmbench.data.photos.lots`): no part and no picture is shared between lots.

    `table` is a CSV file in the folder with the columns `path` and `label`, and if wanted `group` (the part), `defect`
    (what is wrong, in words), `category` (photos are compared within it) and `split` (train, val or test). Without
    it, photos lie in good/ and bad/, and `parts` says how those of one part are told.
    """

    table: str | None = None
    parts: Parts = Parts.name

    def photos(self) -> list[Photo]:
        root = Path(self.path)
        if not root.is_dir():
            raise UserError(f"source.path={root}: there is no such folder; correct it")
        if self.table is not None:
            return self._listed(root)
        _require_folders(root)
        return [
            Photo(name=name, path=path, label=label, part=part_of(name, self.parts))
            for label, folder in FOLDERS.items()
            for path in pictures_in(root / folder)
            for name in [path.relative_to(root).as_posix()]
        ]

    def _listed(self, root: Path) -> list[Photo]:
        photos: dict[str, Photo] = {}
        places: dict[str, str] = {}
        names = cache(_names)
        misfits: list[Misfit] = []
        for place, fields in read_table(root / str(self.table), required=("path", "label"), misfits=misfits):
            try:
                photo = self._photo(root, fields, names)
                if photo.name in photos:
                    raise UserError(f"{photo.name} stands in {places[photo.name]} already; list every photo once")
            except UserError as error:
                misfits.append(Misfit(place=place, why=str(error)))
                continue
            photos[photo.name], places[photo.name] = photo, place
        if misfits:
            raise refusal(misfits)
        return list(photos.values())

    def _photo(self, root: Path, fields: dict[str, str], names: Callable[[Path], Mapping[str, str]]) -> Photo:
        name = fields["path"]
        wrong = path_error(name)
        if wrong is not None:
            raise UserError(wrong)
        path = root / name
        if not path.is_file():
            near = names(path.parent).get(path.stem.casefold())
            cure = f"did you mean {near}?" if near else "fix the path or add the file"
            raise UserError(f"{path}: there is no such picture; {cure}")
        split, words = fields.get("split", ""), fields.get("defect", "")
        if split not in SPLITS:
            raise UserError(f"split {split[:60]!r} is not one of {', '.join(Split)}; fix it or leave it empty")
        label = label_of(fields["label"], self.labels)
        if label == GOOD and words:
            raise UserError(f"defect {words[:60]!r} of a photo that is {GOOD}; fix its label or leave defect empty")
        return Photo(
            name=name,
            path=path,
            label=label,
            part=fields.get("group") or part_of(name, self.parts),
            words=words,
            category=fields.get("category", ""),
            split=Split(split) if split else None,
            meta={key: value for key, value in fields.items() if key not in COLUMNS and value}
            | ({"defect": words} if words else {}),
        )


def _names(folder: Path) -> dict[str, str]:
    """The folder's pictures by what their names have in common with ones of another ending, or in other letters."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return {path.stem.casefold(): path.name for path in paths if path.suffix.lower() in SUFFIXES}


def _require_folders(root: Path) -> None:
    """Raise UserError, which names what is there instead, unless there are good/ and bad/."""
    missing = [name for name in FOLDERS.values() if not (root / name).is_dir()]
    if not missing:
        return
    there = [path.name + "/" * path.is_dir() for path in sorted(root.iterdir()) if path.is_dir() or _is_table(path)]
    found = f"; in it are {', '.join(there[:5])}" if there else ""
    raise UserError(
        f"{root}: there is no folder {missing[0]}/{found}; put photos into good/ and bad/, or list them in a CSV file "
        "with the columns path and label: source.table=labels.csv"
    )


def _is_table(path: Path) -> bool:
    return path.suffix.lower() == ".csv"
