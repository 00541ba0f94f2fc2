"""The common base of sources of photos: their settings, and the steps from photos to a manifest."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import MISSING

from vlmbench.config import SourceConfig, setting
from vlmbench.data.defect_masks import Mask, small_mask, write_defect_masks
from vlmbench.data.defect_sizes import write_defect_areas
from vlmbench.data.labels import mapping_cure
from vlmbench.data.paths import look_alikes, normal_name
from vlmbench.data.photos.comparisons import (
    PhotoComparison,
    make_comparison_records,
    make_comparisons,
)
from vlmbench.data.photos.lots import Lot, deal, stocks_of
from vlmbench.data.photos.pairs import (
    RAW,
    Pair,
    PairsConfig,
    make_lots_by_name,
    make_pair_records,
    make_pairs,
)
from vlmbench.data.photos.photo import BAD, GOOD, Photo, PhotoCopy, copy_photos, hash_file
from vlmbench.data.photos.planted import PlantedConfig, plant_defects
from vlmbench.data.photos.stock import write_stocks
from vlmbench.data.photos.value_range import check_range_setting, scale_copies
from vlmbench.data.prepared import prepared_folder, write_manifest
from vlmbench.types import PLANTED, UserError

log = logging.getLogger(__name__)

REVISION = 5  # raise it when the same photos and settings give other records or files
MAX_QUOTED = 60  # characters of a user's word in an error message


@dataclass(kw_only=True)
class PairedSourceConfig(SourceConfig):
    """A source that pairs photos. `labels` maps the user's words to "normal" and "abnormal".

    With `compare_views` and a processed view, the source makes comparison records too.
    """

    unit: ClassVar[str] = "lots"

    path: str = setting(MISSING, "Folder of the photos.", cure="photos")
    processed_view: str | None = setting(
        "rt", "View that pairs are shown in beside raw; null: raw only."
    )
    compare_views: bool = setting(
        True, "Make comparison records too: a raw photo beside a processed one."
    )
    range: Any = setting(  # Any: 12 and auto are no names of an enumeration
        "auto", "Bits that 16-bit photos use: 12, 16, or auto (12 if no value is above 4095)."
    )
    pairs: PairsConfig = field(default_factory=PairsConfig)
    planted: PlantedConfig = field(default_factory=PlantedConfig)

    def __post_init__(self) -> None:
        SourceConfig.__post_init__(self)
        check_label_words(self.labels)
        if self.planted.copies and self.pairs.is_by_name:
            raise UserError(
                f"source.planted.copies={self.planted.copies} needs lots, and "
                "source.pairs.policy=name makes none; set source.pairs.policy=nearest"
            )
        self.range = check_range_setting(self.range)

    @property
    def makes_comparisons(self) -> bool:
        """Whether records are made that compare a raw photo with a processed one."""
        has_view = self.processed_view not in (None, RAW)
        return self.compare_views and has_view and not self.pairs.is_by_name

    @property
    def parts_of_lot(self) -> int:
        """How many parts a lot needs: two, so that a comparison can show another part."""
        return 2 if self.makes_comparisons else 1


@dataclass(kw_only=True)
class PhotoSourceConfig(PairedSourceConfig):
    """A source whose photos are files in the folder `path`."""

    @abstractmethod
    def photos(self) -> list[Photo]:
        """Return the photos with their labels.

        Raise UserError that names the file, or the file and the line.
        """

    def prepare(self, data_dir: Path) -> Path:
        root = Path(self.path)
        photos = self.photos()
        check_both_labels(photos, self)
        warn_of_look_alikes(photos, self.path)

        key = _CacheKey(
            settings=asdict(self),
            photos=tuple((photo.name, hash_file(photo.path, inside=root)) for photo in photos),
            known=tuple(
                (photo.label, photo.words, photo.part, photo.category, photo.split)
                for photo in photos
            ),
        )

        def fill(folder: Path) -> None:
            write_photos(folder, photos, root=root, config=self)

        source = type(self).__module__.rpartition(".")[2]
        return prepared_folder(data_dir, source, key, fill)


@dataclass(frozen=True, slots=True, kw_only=True)
class _CacheKey:
    """All that the prepared folder depends on.

    The folder's name is a hash of the fields' names and values. A renamed field prepares all
    photos again.
    """

    settings: dict[str, Any]
    photos: tuple[tuple[str, str], ...]  # name, SHA-256
    known: tuple[tuple[Any, ...], ...]  # label, words, part, category, split
    revision: int = REVISION


def write_photos(
    folder: Path, photos: Sequence[Photo], *, root: Path, config: PairedSourceConfig
) -> None:
    """Copy the photos into the prepared folder and write the manifest of their records."""
    settings = config.pairs
    view = str(config.processed_view or RAW)

    copies = copy_photos(
        photos,
        root=root,
        folder=folder,
        source_path=config.path,
    )
    copies = scale_copies(
        copies,
        folder=folder,
        value_range=config.range,
        source_path=config.path,
    )
    if settings.is_by_name:
        lots = make_lots_by_name(copies, settings, config.path)
    else:
        lots = deal(
            copies,
            lots=settings.lots,
            references=settings.references,
            parts=config.parts_of_lot,
            seed=settings.seed,
            source_path=config.path,
            tests_defects=config.planted.copies > 0,
        )
        write_stocks(folder, stocks_of(lots))
    lots = plant_defects(
        lots,
        config.planted,
        folder=folder,
        seed=settings.seed,
        regions=bool(getattr(config, "regions", True)),
        source_path=config.path,
    )
    pairs = make_pairs(lots, settings)

    comparisons: list[PhotoComparison] = []
    if config.makes_comparisons:
        comparisons = make_comparisons(lots, pairs, seed=settings.seed)
        _warn_of_lots_without_comparisons(config.path, lots, pairs, comparisons)

    records = chain(make_pair_records(pairs, view), make_comparison_records(comparisons, view))
    write_manifest(folder, records)
    planted = [copy for lot in lots for copy in lot.queries if PLANTED in copy.photo.meta]
    _write_marks(folder, [*copies, *planted])


def _write_marks(folder: Path, copies: Sequence[PhotoCopy]) -> None:
    """Write where the marked and planted defects are."""
    areas = {
        copy.path.relative_to(folder).as_posix(): copy.photo.measure()
        for copy in copies
        if copy.photo.measure is not None
    }
    write_defect_areas(folder, areas)
    write_defect_masks(folder, _masks_of(copies, folder))


def _masks_of(copies: Sequence[PhotoCopy], folder: Path) -> dict[str, Mask]:
    """Return a small mask of each marked copy, by its path in `folder`."""
    masks = {}
    for copy in copies:
        mask = None if copy.photo.locate is None else copy.photo.locate()
        if mask is not None and mask.any():
            name = copy.path.relative_to(folder).as_posix()
            masks[name] = small_mask(mask)  # a photo's own mask may have 100 megapixels

    return masks


def _warn_of_lots_without_comparisons(
    source_path: str,
    lots: Sequence[Lot],
    pairs: Sequence[Pair],
    comparisons: Sequence[PhotoComparison],
) -> None:
    with_pairs = {pair.lot for pair in pairs}
    with_comparisons = {comparison.lot for comparison in comparisons}
    num_without = len(with_pairs - with_comparisons)

    if num_without:
        log.warning(
            "source.path=%s: in %d of %d lots all good photos show one part. These lots have no "
            "comparison records; lower source.pairs.lots, so that each lot has more parts",
            source_path,
            num_without,
            len(lots),
        )


def warn_of_look_alikes(photos: Sequence[Photo], source_path: str) -> None:
    """Log the names of parts that look alike but count as different parts."""
    pairs = look_alikes(photo.part for photo in photos)
    if pairs:
        first, second = pairs[0]
        log.warning(
            "source.path=%s: %d names of parts look like another one, such as %r and %r; they "
            "count as different parts. Write one name if they are one part",
            source_path,
            len(pairs),
            first,
            second,
        )


def check_label_words(labels: Mapping[str, str]) -> None:
    """Raise UserError if `source.labels` maps a word to anything but "normal" or "abnormal".

    "normal" and "abnormal" must be mapped to themselves.
    """
    for word, label in labels.items():
        is_changed = word in (GOOD, BAD) and word != label
        if label not in (GOOD, BAD) or is_changed:
            raise UserError(
                f"source.labels: {word!r} is mapped to {label!r}, must be {GOOD} or {BAD}; map "
                f"your words, as in 'source.labels={{ok: {GOOD}, ng: {BAD}}}'"
            )


def label_of(word: str, labels: Mapping[str, str]) -> str:
    """Return "normal" or "abnormal" for the user's word. Raise UserError for an unmapped word."""
    words_of = {normal_name(name): label for name, label in labels.items()}
    word = normal_name(word)
    label = words_of.get(word, word)

    if label not in (GOOD, BAD):
        words = ", ".join(repr(name) for name in (*labels, GOOD, BAD))
        quoted = word[:MAX_QUOTED]
        cure = mapping_cure(quoted, BAD, labels) or f"write {GOOD} or {BAD} instead"
        raise UserError(f"label {quoted!r} is not one of {words}; {cure}")

    return label


def check_both_labels(photos: Sequence[Photo], config: PairedSourceConfig) -> None:
    """Raise UserError if the photos do not have both labels. Planted defects are abnormal."""
    labels = {photo.label for photo in photos}
    problem = f"source.path={config.path}: no photo is {{}}, both labels are needed; "

    if GOOD not in labels:
        raise UserError(f"{problem.format(GOOD)}add photos that are {GOOD}")
    if BAD not in labels and not config.planted.copies:
        raise UserError(
            f"{problem.format(BAD)}add photos that are {BAD}, or set source.planted.copies=1 to "
            "train on defects that vlmbench draws into good photos"
        )
