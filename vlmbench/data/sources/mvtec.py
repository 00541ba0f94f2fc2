"""Trees in the layout of MVTec AD (also LOCO, AD 2 and VisA's one-class split) and of VisA as it is published.

MVTec AD   <category>/train/good, test/good, test/<defect>; masks ground_truth/<defect>/<name>_mask.png, or for LOCO a
           folder ground_truth/<defect>/<name>/ of them. AD 2: validation/good, test_public/{good,bad,ground_truth}.
VisA       <category>/Data/Images/Normal, Data/Images/Anomaly; masks Data/Masks/Anomaly/<name>.png; what is wrong in
           <category>/image_anno.csv (image, label).

Photos are shown upright, by their EXIF orientation. A mask of the photo's stored size is turned with it; one that has
the size of the upright photo alone is taken as it is. Where the two sizes are the same (square photos, half turns), a
mask belongs to the stored pixels.

The publishers' own split trains on good photos alone; here all photos are dealt into lots and split like any others.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vlmbench.config import schema
from vlmbench.data.photos.photo import BAD, GOOD, Parts, Photo, part_of, pictures_in
from vlmbench.data.photos.regions import region_words
from vlmbench.data.photos.source import PhotoSourceConfig
from vlmbench.data.photos.table import read_table
from vlmbench.data.pictures import open_mask, picture_size, place_of, turned_upright
from vlmbench.data.wrongs import Misfit, refusal
from vlmbench.types import UserError

SIDES = ("train", "validation", "test", "test_public")  # folders of an MVTec category that hold good/ and defects
GROUND_TRUTH = "ground_truth"
VISA = "Data"


@schema("source", "mvtec")
@dataclass(kw_only=True)
class MvtecConfig(PhotoSourceConfig):
    """`path` is the folder of one category or of several, of which `categories` may name some."""

    categories: list[str] = field(default_factory=list)
    regions: bool = True

    def photos(self) -> list[Photo]:
        root = Path(self.path)
        photos = [photo for category in self._categories(root) for photo in self._of(category)]
        if not photos:
            raise UserError(f"{root}: no photos in it; give the folder of a category, or one that holds categories")
        return photos

    def _categories(self, root: Path) -> list[Path]:
        if not root.is_dir():
            raise UserError(f"{root}: there is no such folder; give the unpacked data as source.path")
        if _is_category(root):
            return [root]
        found = {path.name: path for path in sorted(root.iterdir()) if path.is_dir() and _is_category(path)}
        if not found:
            raise UserError(f"{root}: no category in it, that is no folder with train/ and test/, or with {VISA}/")
        for name in self.categories:
            if name not in found:
                raise UserError(f"source.categories: {name!r} is not one of {', '.join(found)}; correct it")
        return [path for name, path in found.items() if not self.categories or name in self.categories]

    def _of(self, category: Path) -> Iterator[Photo]:
        if (category / VISA).is_dir():
            yield from self._visa(category)
        for side in SIDES:
            kinds = sorted(path for path in (category / side).glob("*") if path.is_dir() and path.name != GROUND_TRUTH)
            for kind in kinds:
                for path in pictures_in(kind):
                    truth = next((p for p in (category / side, category) if (p / GROUND_TRUTH).is_dir()), category)
                    yield self._photo(category, path, kind.name, _masks(truth / GROUND_TRUTH / kind.name, path.stem))

    def _visa(self, category: Path) -> Iterator[Photo]:
        defects: dict[str, str] = {}
        table = category / "image_anno.csv"
        if table.is_file():
            misfits: list[Misfit] = []
            for _, fields in read_table(table, required=("image", "label"), misfits=misfits):
                defects[Path(fields["image"]).name] = fields["label"].replace(",", " and ")
            if misfits:
                raise refusal(misfits)
        data = category / VISA
        for path in pictures_in(data / "Images" / "Normal"):
            yield self._photo(category, path, "good", [])
        for path in pictures_in(data / "Images" / "Anomaly"):
            kind = defects.get(path.name, "defect")
            yield self._photo(category, path, kind, _masks(data / "Masks" / "Anomaly", path.stem))

    def _photo(self, category: Path, path: Path, kind: str, masks: list[Path]) -> Photo:
        name = path.relative_to(Path(self.path)).as_posix()
        if kind == "good":
            part = part_of(name, Parts.photo)
            return Photo(name=name, path=path, label=GOOD, part=part, category=category.name, meta={"defect": "none"})
        defect = kind.replace("_", " ")
        region = self._region(path, masks) if self.regions and masks else ""
        return Photo(
            name=name,
            path=path,
            label=BAD,
            part=name,
            words=", ".join(filter(None, (defect, region))),
            category=category.name,
            meta={"defect": defect} | ({"region": region} if region else {}),
        )

    def _region(self, path: Path, masks: list[Path]) -> str:
        root = Path(self.path)
        place = tuple(place_of(file, root) for file in (path, *masks))
        if place not in _regions:
            _regions[place] = region_words(np.logical_or.reduce([_mask(mask, path, root) for mask in masks]))
        return _regions[place]


_regions: dict[Hashable, str] = {}  # of masks, by place: a run asks for them several times


def _is_category(folder: Path) -> bool:
    return (folder / VISA / "Images").is_dir() or any((folder / side / "good").is_dir() for side in SIDES)


def _masks(folder: Path, stem: str) -> list[Path]:
    """The masks of a photo: <stem>_mask.png, <stem>.png, or all in a folder <stem>/; none where there is none."""
    for name in (f"{stem}_mask.png", f"{stem}.png"):
        if (folder / name).is_file():
            return [folder / name]
    return pictures_in(folder / stem) if (folder / stem).is_dir() else []


def _mask(mask: Path, photo: Path, root: Path) -> np.ndarray:
    """The mask as its photo is shown, (height, width). Raises UserError where its size is not the photo's."""
    marked = open_mask(mask, inside=root)
    width, height = picture_size(photo, inside=root)
    upright = turned_upright(np.zeros((height, width), np.bool_), photo, inside=root)
    if marked.shape == (height, width):
        return turned_upright(marked, photo, inside=root)
    if marked.shape == upright.shape:
        return marked
    turned = f" ({height} x {width} upright)" if upright.shape != (height, width) else ""
    raise UserError(
        f"{mask}: the mask is {marked.shape[1]} x {marked.shape[0]} pixels, its photo {width} x {height}{turned}; "
        "replace the mask, or leave regions out with source.regions=false"
    )
