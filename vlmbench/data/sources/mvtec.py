"""Data sets in the layout of MVTec AD (also LOCO, AD 2 and VisA's one-class split) or of VisA.

MVTec AD   <category>/train/good, test/good, test/<defect>. Masks are
           ground_truth/<defect>/<name>_mask.png, or <name>_GT.png and the like. LOCO has a folder
           of masks for each photo: ground_truth/<defect>/<name>/. AD 2 has validation/good and
           test_public/{good,bad,ground_truth}.
VisA       <category>/Data/Images/Normal and Data/Images/Anomaly. Masks are
           Data/Masks/Anomaly/<name>.png. <category>/image_anno.csv (image, label) names defects.

Photos are turned upright by their EXIF orientation. A mask with the photo's stored size is turned
with it. A mask with only the upright photo's size is not turned. If both sizes are the same
(square photos, half turns), the mask belongs to the stored pixels.

The publishers' splits train on good photos alone. Here all photos are dealt into lots and split
like any other photos.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path

import numpy as np
from omegaconf import MISSING

from vlmbench.config import schema, setting
from vlmbench.data.annotations.marks import Mark
from vlmbench.data.annotations.masks import list_masks, upright_mask
from vlmbench.data.annotations.where import defect_areas, marked_area
from vlmbench.data.images import SUFFIXES, file_version
from vlmbench.data.invalid_rows import InvalidRow, invalid_rows_error
from vlmbench.data.paths import is_folder, normal_path, normal_text, path_cure
from vlmbench.data.photos.left_out import is_litter, pass_over, refuse_missing, walk
from vlmbench.data.photos.photo import BAD, GOOD, Photo, check_names, list_images
from vlmbench.data.photos.regions import describe_region
from vlmbench.data.photos.source import PhotoSourceConfig
from vlmbench.data.photos.table import read_table
from vlmbench.types import UserError

# The folders of an MVTec category that hold good/ and defects.
SPLIT_FOLDERS = ("train", "validation", "test", "test_public")
GROUND_TRUTH = "ground_truth"
VISA = "Data"


@schema("source", "mvtec")
@dataclass(kw_only=True)
class MvtecConfig(PhotoSourceConfig):
    """`path` is the folder of one category, or a folder of several.

    `categories` selects some of several categories. Empty: all.
    """

    path: str = setting(MISSING, "Folder of one category, or of several categories.", cure="mvtec")
    categories: list[str] = setting(factory=list, meaning="Categories to read; empty: all.")
    regions: bool = setting(
        True, 'Answers say where a defect is, from its mask: "abnormal: scratch, upper left".'
    )

    def photos(self) -> list[Photo]:
        root = Path(self.path)
        categories = self._categories(root)
        photos = [photo for category in categories for photo in self._photos_of(category)]

        if not photos:
            raise UserError(
                f"source.path={root}: the folder has no photos; unpack the data set there again"
            )

        check_names(photos)
        return photos

    def _categories(self, root: Path) -> list[Path]:
        """Return the folders of the selected categories. Raise UserError if there are none."""
        if not is_folder(root):
            cure = path_cure("source.path", root, otherwise="unpack the data set there")
            raise UserError(f"source.path={root}: the folder does not exist; {cure}")

        if _is_category(root):
            return [root]

        paths = [path for path in sorted(root.iterdir()) if path.is_dir() and _is_category(path)]
        names = [path.name for path in paths]
        if not paths:
            raise UserError(
                f"source.path={root}: the folder has no category, that is no folder with train/ "
                f"and test/ or with {VISA}/; unpack the data set there again"
            )

        for name in self.categories:
            if name not in names:
                closest = (get_close_matches(name, names, n=1) or names)[0]
                raise UserError(
                    f"source.categories: {name!r} is not one of {', '.join(names)}; set "
                    f"'source.categories=[{closest}]'"
                )

        return [path for path in paths if not self.categories or path.name in self.categories]

    def _photos_of(self, category: Path) -> Iterator[Photo]:
        """Yield the photos of a category."""
        if (category / VISA).is_dir():
            yield from self._photos_of_visa(category)

        for name in SPLIT_FOLDERS:
            folder = category / name
            has_own_truth = (folder / GROUND_TRUTH).is_dir()
            truth = (folder if has_own_truth else category) / GROUND_TRUTH
            kinds = [path for path in sorted(folder.glob("*")) if path.is_dir()]
            _check_loose_files(folder)

            for kind in kinds:
                if kind.name == GROUND_TRUTH or is_litter(kind, folder):
                    continue
                masks_of = {
                    path: list_masks(truth / kind.name, path.stem) for path in list_images(kind)
                }
                _say_unused_masks(truth / kind.name, masks_of.values())
                for path, masks in masks_of.items():
                    yield self._photo(category, path, kind.name, masks)

    def _photos_of_visa(self, category: Path) -> Iterator[Photo]:
        """Yield the photos of a category in VisA's layout."""
        defects = _read_defects(category / "image_anno.csv")
        data = category / VISA

        for path in list_images(data / "Images" / "Normal"):
            yield self._photo(category, path, "good", [])

        for path in list_images(data / "Images" / "Anomaly"):
            kind = defects.get(normal_text(path.name), "defect")
            masks = list_masks(data / "Masks" / "Anomaly", path.stem)
            yield self._photo(category, path, kind, masks)

    def _photo(self, category: Path, path: Path, kind: str, masks: list[Path]) -> Photo:
        """Return a photo. Each photo is a part of its own."""
        name = normal_path(path.relative_to(Path(self.path)).as_posix())

        if kind == "good":
            return Photo(
                name=name,
                path=path,
                label=GOOD,
                part=name,
                category=category.name,
                meta={"defect": "none"},
            )

        defect = kind.replace("_", " ")
        region = self._region(path, masks) if self.regions and masks else ""
        meta = {"defect": defect}
        if region:
            meta["region"] = region

        marks = [Mark(mask=mask) for mask in masks]
        return Photo(
            name=name,
            path=path,
            label=BAD,
            part=name,
            words=", ".join(filter(None, (defect, region))),
            category=category.name,
            meta=meta,
            measure=partial(defect_areas, marks, path, Path(self.path)),
            locate=partial(marked_area, marks, path, Path(self.path)),
        )

    def _region(self, path: Path, masks: list[Path]) -> str:
        """Return the region of the union of the masks, in words."""
        root = Path(self.path)
        version = tuple(file_version(file, root) for file in (path, *masks))

        if version not in _regions:
            marked = np.logical_or.reduce([upright_mask(mask, path, root) for mask in masks])
            _regions[version] = describe_region(marked)

        return _regions[version]


def _check_loose_files(folder: Path) -> None:
    """Say which images lie beside the folders of good/ and of the defects, where none is read.

    Raise UserError for links that lead nowhere.
    """
    loose = [
        path
        for path in sorted(folder.glob("*"))
        if not path.is_dir() and not is_litter(path, folder)
    ]
    refuse_missing(loose, folder)
    images = [path for path in loose if path.suffix.lower() in SUFFIXES]
    pass_over(images, folder, reason="only images in good/ and in folders of defects are read")


def _say_unused_masks(folder: Path, used: Iterable[Sequence[Path]]) -> None:
    """Log the masks that belong to no photo by their names."""
    if not folder.is_dir():
        return

    known = {mask for masks in used for mask in masks}
    unused = [path for path in walk(folder) if path not in known and not is_litter(path, folder)]
    pass_over(unused, folder, reason="no photo has these masks' names, such as <photo>_mask.png")


# Regions by file versions: a run needs each region several times.
_regions: dict[Hashable, str] = {}


def _read_defects(table: Path) -> dict[str, str]:
    """Return the defects of VisA's photos by file name. Return {} if the table does not exist."""
    if not table.is_file():
        return {}

    defects: dict[str, str] = {}
    invalid_rows: list[InvalidRow] = []
    lines = read_table(table, required=("image", "label"), invalid_rows=invalid_rows)
    for _, fields in lines:
        name = Path(fields["image"]).name
        defects[name] = fields["label"].replace(",", " and ")

    if invalid_rows:
        raise invalid_rows_error(invalid_rows)

    return defects


def _is_category(folder: Path) -> bool:
    is_visa = (folder / VISA / "Images").is_dir()
    is_mvtec = any((folder / name / "good").is_dir() for name in SPLIT_FOLDERS)

    return is_visa or is_mvtec
