"""The input of stage=predict: images that the command names, a folder, or a manifest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vlmbench.config import Pairing, PredictConfig, RunConfig
from vlmbench.data.images import SUFFIXES, open_image
from vlmbench.data.manifest import open_manifest
from vlmbench.data.paths import is_plain_file, normal_text, path_cure
from vlmbench.data.photos.left_out import refuse_unprintable
from vlmbench.data.viewer import RAW
from vlmbench.types import LABELS, ImageRef, Record, Role, Task, UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Records to judge.

    Their images must lie in the folder `inside`; None: anywhere, because the user named each of
    them. With `strict`, an image that cannot be read ends the command.
    """

    records: Sequence[Record]
    inside: Path | None = None
    strict: bool = False

    @property
    def kinds(self) -> list[tuple[Task, str]]:
        """The tasks and views of the records, each once."""
        return list(dict.fromkeys((record.task, record.view) for record in self.records))


def read_request(config: RunConfig) -> Request:
    """Return the records to judge.

    Raise UserError unless exactly one of `images`, `predict.folder` and `predict.manifest` is set,
    and if what it names does not exist.
    """
    settings = config.predict
    given = {
        "images": bool(config.images),
        "predict.folder": settings.folder is not None,
        "predict.manifest": settings.manifest is not None,
    }
    names = [name for name, is_given in given.items() if is_given]
    if len(names) != 1:
        raise UserError(
            "stage=predict takes exactly one of images=, predict.folder= and predict.manifest=, "
            f"got {' and '.join(names) or 'none of them'}; set images=[good.png,this.png]"
        )
    check_view("predict.view", settings.view, config)

    if config.images:
        if settings.join is not None:
            raise UserError(
                f"predict.join={settings.join}: images= is one record; set predict.join=null, or "
                "give the images in predict.folder and predict.reference"
            )
        return Request(records=[_named_images(config.images, settings.view)], strict=True)
    if settings.manifest is not None:
        return _read_manifest(Path(settings.manifest), config)
    return Request(records=_read_folder(settings))


def check_view(setting: str, view: str, config: RunConfig) -> None:
    """Raise UserError unless the run has the view."""
    if view not in (RAW, config.view.name):
        raise UserError(
            f"{setting} must be one of the run's views, {RAW} and {config.view.name}, got {view}; "
            f"set {setting}={RAW}"
        )


def image_record(name: str, paths: Sequence[Path], view: str) -> Record:
    """Return a record of a reference and a query, or of one image; its label is unknown."""
    roles = (Role.REFERENCE, Role.QUERY)[-len(paths) :]
    images = tuple(
        ImageRef(
            path=path,
            role=role,
            view=view,
        )
        for path, role in zip(paths, roles, strict=True)
    )
    task = Task.JUDGE_PAIR if len(paths) == 2 else Task.JUDGE_SINGLE
    return Record(
        id=name,
        task=task,
        images=images,
        answer="",
        label="",
        group=name,
    )


def unreadable_images(records: Iterable[Record], inside: Path | None) -> dict[Path, str]:
    """Return the images that cannot be read, and why. Each is opened once."""
    errors: dict[Path, str] = {}
    for path in dict.fromkeys(image.path for record in records for image in record.images):
        try:
            open_image(path, inside=inside)
        except UserError as error:
            errors[path] = str(error)
    return errors


def _named_images(images: Sequence[str], view: str) -> Record:
    if len(images) > 2:
        raise UserError(
            f"images must be a reference and a query, or one image, got {len(images)} images; "
            "set images=[good.png,this.png]"
        )
    return image_record("+".join(images), [Path(path) for path in images], view)


def _read_manifest(path: Path, config: RunConfig) -> Request:
    if not path.is_file():
        cure = path_cure(
            "predict.manifest", path, is_folder=False, otherwise="fix the path, or add the file"
        )
        raise UserError(f"predict.manifest={path}: the file does not exist; {cure}")
    views = {RAW, config.view.name}
    manifest = open_manifest(
        path,
        labels=config.source.labels,
        views=views,
        labelled=False,
    )

    for index, record in enumerate(manifest):
        if record.task not in LABELS:
            raise UserError(
                f"{manifest.location(index)}: task {record.task} has no decision between two "
                "labels; remove the row (data=choices evaluates multiple choices)"
            )
    return Request(records=manifest, inside=manifest.folder)


def _read_folder(settings: PredictConfig) -> list[Record]:
    """Return the folder's images as records: each by itself, or beside references.

    If records are joined, each image is a part, and so are all images of a subfolder. The folder
    of the references is no part.
    """
    folder = Path(settings.folder or "")
    if settings.join is None:
        return _pair(_images_in(folder, "predict.folder"), settings)

    subfolders = _subfolders(folder)
    if settings.reference is not None:
        references = Path(settings.reference).resolve()
        subfolders = [path for path in subfolders if path.resolve() != references]
    queries = [] if subfolders and not _has_images(folder) else _images_in(folder, "predict.folder")
    records = [
        replace(record, group=record.images[-1].path.name) for record in _pair(queries, settings)
    ]
    for subfolder in subfolders:
        photos = _pair(_images_in(subfolder, "predict.folder"), settings)
        records += [
            replace(record, id=f"{subfolder.name}/{record.id}", group=subfolder.name)
            for record in photos
        ]
    return records


def _pair(queries: Sequence[Path], settings: PredictConfig) -> list[Record]:
    """Return the records of these images: each by itself, or beside references."""
    view = settings.view
    if settings.reference is None:
        return [image_record(query.name, [query], view) for query in queries]

    references = _references(Path(settings.reference))
    if settings.pairing is Pairing.name:
        return _pair_by_name(queries, references, settings)

    several = len(references) > 1
    return [
        image_record(
            f"{reference.name}+{query.name}" if several else query.name, [reference, query], view
        )
        for query in queries
        for reference in references
    ]


def _references(path: Path) -> list[Path]:
    if path.is_dir():
        return _images_in(path, "predict.reference")
    if not is_plain_file(path):
        cure = path_cure(
            "predict.reference",
            path,
            is_folder=not path.suffix,
            otherwise="fix the path, or add an image of a good part there",
        )
        raise UserError(f"predict.reference={path}: the image or folder does not exist; {cure}")
    return [path]


def _pair_by_name(
    queries: Sequence[Path], references: Sequence[Path], settings: PredictConfig
) -> list[Record]:
    by_name: dict[str, Path] = {}
    for reference in references:
        first = by_name.setdefault(normal_text(reference.stem), reference)
        if first != reference:
            raise UserError(
                f"predict.pairing=name: the references {first.name} and {reference.name} have one "
                "name; remove one of them"
            )

    unmatched = [query.name for query in queries if normal_text(query.stem) not in by_name]
    if unmatched:
        raise UserError(
            f"predict.pairing=name: {settings.reference} has no reference for {unmatched[0]} "
            f"({len(unmatched)} images have none); add them, or set predict.pairing=all"
        )
    return [
        image_record(query.name, [by_name[normal_text(query.stem)], query], settings.view)
        for query in queries
    ]


def _subfolders(folder: Path) -> list[Path]:
    """Return the visible subfolders. Raise UserError for a link that leads out of the folder."""
    if not folder.is_dir():
        return []

    paths = sorted(path for path in folder.iterdir() if path.is_dir())
    paths = [path for path in paths if not path.name.startswith(".")]
    for path in paths:
        refuse_unprintable(path)
        if not path.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"{path}: the link leads out of the folder {folder}; copy the images into it"
            )
    return paths


def _has_images(folder: Path) -> bool:
    return any(_is_image(path) for path in folder.iterdir())


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _images_in(folder: Path, setting: str) -> list[Path]:
    """Return the images of a folder in the order of their names, without those in subfolders.

    Raise UserError if there is none, or if one is a link that leads out of the folder.
    """
    if not folder.is_dir():
        cure = path_cure(setting, folder, otherwise="fix the path, or create it with images in it")
        raise UserError(f"{setting}={folder}: the folder does not exist; {cure}")

    paths = sorted(path for path in folder.iterdir() if _is_image(path))
    if not paths:
        suffixes = ", ".join(sorted(SUFFIXES))
        raise UserError(
            f"{setting}={folder}: the folder holds no image ({suffixes}); add images to it"
        )

    for path in paths:
        refuse_unprintable(path)
        if not path.resolve().is_relative_to(folder.resolve()):
            raise UserError(
                f"{path}: the link leads out of the folder {folder}; copy the image into the folder"
            )
    return paths
