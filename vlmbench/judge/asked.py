"""What stage=predict is asked: loose pictures, a folder of them, or the records of a manifest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlmbench.config import JudgeConfig, Pairing, RunConfig
from vlmbench.data.dataset import RAW
from vlmbench.data.manifest import open_manifest
from vlmbench.data.pictures import FORMATS, open_picture
from vlmbench.types import LABELS, ImageRef, Record, Role, Task, UserError

SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Records, and the folder that their pictures must lie in (None: anywhere, because each was named or listed).

    `strict`: a picture that cannot be read ends the command, because the user named it.
    """

    records: Sequence[Record]
    inside: Path | None = None
    strict: bool = False

    @property
    def kinds(self) -> list[tuple[Task, str]]:
        """Tasks and views, once each."""
        return list(dict.fromkeys((record.task, record.view) for record in self.records))


def asked_of(config: RunConfig) -> Asked:
    """The records to judge. Raises UserError unless exactly one of `images`, `judge.folder` and `judge.manifest` is
    given, or where what it names is not there."""
    judge = config.judge
    named = [name for name in ("folder", "manifest") if getattr(judge, name) is not None]
    given = [*(["images"] if config.images else []), *(f"judge.{name}" for name in named)]
    if len(given) != 1:
        raise UserError(
            f"stage=predict takes one of images=[good.png,this.png], judge.folder= and judge.manifest=; "
            f"{' and '.join(given) or 'none of them'} was given"
        )
    if judge.view not in (RAW, config.view.name):
        raise UserError(
            f"judge.view={judge.view}: the run has the views {RAW} and {config.view.name}; name one of them"
        )
    if config.images:
        return Asked(records=[_loose(config.images, judge.view)], strict=True)
    if judge.manifest is not None:
        return _of_manifest(Path(judge.manifest), config)
    return Asked(records=_of_folder(judge))


def picture_record(name: str, paths: Sequence[Path], view: str) -> Record:
    """A record of a reference and a query, or of one picture, whose label is not known."""
    roles = (Role.REFERENCE, Role.QUERY)[-len(paths) :]
    images = tuple(ImageRef(path=path, role=role, view=view) for path, role in zip(paths, roles, strict=True))
    task = Task.JUDGE_PAIR if len(paths) == 2 else Task.JUDGE_SINGLE
    return Record(id=name, task=task, images=images, answer="", label="", group=name)


def unreadable(records: Iterable[Record], inside: Path | None) -> dict[Path, str]:
    """Pictures that cannot be read, and why; each is opened once."""
    found: dict[Path, str] = {}
    for path in dict.fromkeys(image.path for record in records for image in record.images):
        try:
            open_picture(path, inside=inside)
        except UserError as error:
            found[path] = str(error)
    return found


def _loose(images: Sequence[str], view: str) -> Record:
    if len(images) > 2:
        raise UserError(
            f"images={list(images)}: give the reference and the query, or one picture: images=[a.png,b.png]"
        )
    return picture_record("+".join(images), [Path(path) for path in images], view)


def _of_manifest(path: Path, config: RunConfig) -> Asked:
    if not path.is_file():
        raise UserError(f"judge.manifest={path}: there is no such file; name a manifest, in JSON lines")
    manifest = open_manifest(path, labels=config.source.labels, views={RAW, config.view.name}, labelled=False)
    for index, record in enumerate(manifest):
        if record.task not in LABELS:
            raise UserError(
                f"{manifest.place(index)}: task {record.task} has no decision between two labels; leave the row out: "
                "multiple choices are answered when a run is evaluated (data=choices)"
            )
    return Asked(records=manifest, inside=manifest.folder)


def _of_folder(judge: JudgeConfig) -> list[Record]:
    """The folder's pictures: each by itself, or beside references."""
    folder = Path(judge.folder or "")
    queries = _pictures(folder, "judge.folder")
    if judge.reference is None:
        return [picture_record(query.name, [query], judge.view) for query in queries]
    place = Path(judge.reference)
    references = _pictures(place, "judge.reference") if place.is_dir() else [place]
    if not place.exists():
        raise UserError(f"judge.reference={place}: there is no such picture or folder; name a picture of a good part")
    if judge.pairing is Pairing.name:
        by_name = {reference.stem: reference for reference in references}
        lacking = [query.name for query in queries if query.stem not in by_name]
        if lacking:
            raise UserError(
                f"judge.pairing=name: {place} has no reference named as {lacking[0]} ({len(lacking)} pictures have "
                "none); add them, or set judge.pairing=all"
            )
        return [picture_record(query.name, [by_name[query.stem], query], judge.view) for query in queries]
    several = len(references) > 1
    return [
        picture_record(f"{reference.name}+{query.name}" if several else query.name, [reference, query], judge.view)
        for query in queries
        for reference in references
    ]


def _pictures(folder: Path, setting: str) -> list[Path]:
    """The pictures of a folder, not of those in it, in the order of their names; other files are passed over.

    Raises UserError where there is none, or where one is a link that leads out of the folder.
    """
    if not folder.is_dir():
        raise UserError(f"{setting}={folder}: there is no such folder; name a folder of pictures")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
    if not paths:
        raise UserError(f"{setting}={folder}: no picture in it ({', '.join(sorted(SUFFIXES))}); name another folder")
    for path in paths:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{path}: the link leads out of the folder {folder}; copy the picture into the folder")
    return paths
