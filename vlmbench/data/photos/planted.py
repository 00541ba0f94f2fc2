"""Good photos with planted defects: what a model trains on where there are no photos of defects."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np
from tqdm import tqdm

from vlmbench.config import Settings, setting
from vlmbench.data.annotations.where import area_of
from vlmbench.data.defect_masks import small_mask
from vlmbench.data.generated.planting import PlantedImage, PlantedKind, plant_defect
from vlmbench.data.generated.specimens import rng_of
from vlmbench.data.images import image_facts, open_image
from vlmbench.data.photos.lots import Lot
from vlmbench.data.photos.photo import BAD, GOOD, PhotoCopy
from vlmbench.data.photos.regions import describe_region
from vlmbench.types import PLANTED, Split, UserError

log = logging.getLogger(__name__)

FOLDER = "planted"  # of the planted images, beside that of the photos
MAX_STEM = 40  # characters of a photo's name that its planted copies keep


@dataclass(kw_only=True)
class PlantedConfig(Settings):
    """The block `planted` of conf/source/folder.yaml, mvtec.yaml and huggingface.yaml."""

    config_group: ClassVar[str] = "source.planted"

    copies: int = setting(
        0,
        "Copies of each good photo to judge that get a planted defect; 0: none.",
        at_least=0,
        at_most=20,
        cure=1,
    )
    kinds: list[PlantedKind] = setting(
        factory=lambda: list(PlantedKind),
        meaning="Kinds of planted defects: scratch, hole, stain, blotch, patch (cut from another "
        "good photo), texture.",
    )
    size: list[float] = setting(
        factory=lambda: [0.05, 0.35],
        meaning="Smallest and largest length of a planted defect, as a share of the photo's "
        "shorter edge.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()

        if len(self.size) != 2 or not 0 < self.size[0] <= self.size[1] <= 1:
            raise UserError(
                f"source.planted.size must be two rising numbers above 0 and up to 1, got "
                f"{self.size}; set source.planted.size=[0.05,0.35]"
            )
        if not self.kinds:
            raise UserError(
                "source.planted.kinds is empty; set source.planted.kinds=[scratch,stain]"
            )


def plant_defects(
    lots: Sequence[Lot],
    config: PlantedConfig,
    *,
    folder: Path,
    seed: int,
    regions: bool,
    source_path: str,
) -> list[Lot]:
    """Return the lots with copies of their good queries that have planted defects.

    Lots of the test split get none. The copies are written below `folder`. With `regions`, their
    words say where the defect is. Raise UserError if no photo shows a defect well enough.
    """
    if config.copies == 0:
        return list(lots)

    (folder / FOLDER).mkdir()
    planter = _Planter(config=config, folder=folder, seed=seed, regions=regions)
    planted = []
    for lot in tqdm(lots, desc="plant defects", unit="lot", disable=len(lots) < 20):
        planted.append(replace(lot, queries=(*lot.queries, *planter.copies_of(lot))))

    before, after = (sum(len(lot.queries) for lot in each) for each in (lots, planted))
    if before == after:
        raise UserError(
            f"source.path={source_path}: no photo shows a planted defect, because the photos are "
            "too small, or all are in the test split; set source.planted.copies=0 and add photos "
            f"that are {BAD}"
        )

    log.warning(
        "source.path=%s: %d planted defects were added (source.planted.copies=%d). They train and "
        "validate, and never test. Look at some of them in the datasheet",
        source_path,
        after - before,
        config.copies,
    )
    return planted


@dataclass(frozen=True, slots=True, kw_only=True)
class _Planter:
    config: PlantedConfig
    folder: Path
    seed: int
    regions: bool

    def copies_of(self, lot: Lot) -> Iterator[PhotoCopy]:
        """Yield the planted copies of the lot's good queries.

        Patches are cut from good photos of the same lot: no pixel crosses to another split.
        """
        good = [copy for unit in lot.units for copy in unit if copy.photo.label == GOOD]
        good.sort(key=lambda copy: copy.photo.name)

        for query in lot.queries:
            if query.photo.label != GOOD or query.photo.split is Split.TEST:
                continue
            others = [copy for copy in good if copy is not query] or [query]
            for number in range(self.config.copies):
                copy = self._plant(query, others, number)
                if copy is not None:
                    yield copy

    def _plant(
        self, query: PhotoCopy, others: Sequence[PhotoCopy], number: int
    ) -> PhotoCopy | None:
        """Return a planted copy; None if no kind of defect shows."""
        rng = rng_of(self.seed, f"planted-{number}-{query.photo.name}")
        smallest, largest = self.config.size
        other = others[int(rng.integers(len(others)))]
        image = open_image(query.path, inside=self.folder)

        for index in rng.permutation(len(self.config.kinds)).tolist():
            kind = self.config.kinds[index]
            is_cut = kind is PlantedKind.patch
            donor = open_image(other.path, inside=self.folder) if is_cut else image
            planted = plant_defect(
                image,
                kind,
                extent=float(np.exp(rng.uniform(np.log(smallest), np.log(largest)))),
                donor=donor,
                rng=rng,
            )
            if planted is not None:
                return self._save(query, planted, kind, number)
        return None

    def _save(
        self, query: PhotoCopy, planted: PlantedImage, kind: PlantedKind, number: int
    ) -> PhotoCopy:
        digest = hashlib.sha256(query.photo.name.encode()).hexdigest()[:12]
        stem = PurePosixPath(query.photo.name).stem[:MAX_STEM]
        path = self.folder / FOLDER / f"{stem}-{digest}-{number}-{kind}.png"
        planted.image.save(path, compress_level=1)  # 12 megapixels: 1 s, by default 4 s

        defect = f"planted {kind}"
        region = describe_region(planted.marked) if self.regions else ""
        meta = {**query.photo.meta, PLANTED: str(kind), "defect": defect, "region": region}
        area, small = area_of(planted.marked), small_mask(planted.marked)
        photo = replace(
            query.photo,
            name=f"{FOLDER}/{path.name}",
            path=path,
            label=BAD,
            words=", ".join(filter(None, (defect, region))),
            meta={key: text for key, text in meta.items() if text},
            measure=lambda: [area],
            locate=lambda: small,
        )
        return PhotoCopy(photo=photo, path=path, facts=image_facts(path, inside=self.folder))
