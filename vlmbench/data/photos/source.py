"""What sources of single pictures share: their settings, and the way from photos to a manifest."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from vlmbench.config import SourceConfig
from vlmbench.data.photos.comparisons import comparison_records, make_comparisons
from vlmbench.data.photos.lots import deal
from vlmbench.data.photos.pairs import RAW, PairsConfig, make_pairs, pair_records
from vlmbench.data.photos.photo import BAD, GOOD, Photo, bring_in, checked_sha256
from vlmbench.data.prepared import prepared_folder, write_manifest
from vlmbench.types import UserError

log = logging.getLogger(__name__)

REVISION = 3  # raise it when the same photos and settings give other records


@dataclass(kw_only=True)
class PairedSourceConfig(SourceConfig):
    """A source whose single pictures are paired; `labels` maps the words that stand with them to the two labels.

    `compare_views`: where there is a processed view, comparison records are made of the photos too.
    """

    path: str = MISSING
    processed_view: str | None = "rt"
    compare_views: bool = True
    pairs: PairsConfig = field(default_factory=PairsConfig)

    def __post_init__(self) -> None:
        SourceConfig.__post_init__(self)
        check_words(self.labels)


@dataclass(kw_only=True)
class PhotoSourceConfig(PairedSourceConfig):
    """A source whose pictures are files under `path`."""

    @abstractmethod
    def photos(self) -> list[Photo]:
        """The photos under `path`, each with its label. Raises UserError that names the file, or the file and line."""

    def prepare(self, data_dir: Path) -> Path:
        root, photos = Path(self.path), self.photos()
        check_both_labels(photos, self.path)
        hashes = [(photo.name, checked_sha256(photo.path, inside=root)) for photo in photos]
        known = tuple((photo.label, photo.words, photo.part, photo.category, photo.split) for photo in photos)
        content = _Content(settings=asdict(self), photos=tuple(hashes), known=known)

        def fill(folder: Path) -> None:
            write_photos(folder, photos, root=root, config=self)

        return prepared_folder(data_dir, type(self).__module__.rpartition(".")[2], content, fill)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    """What the prepared folder depends on."""

    settings: dict[str, Any]
    photos: tuple[tuple[str, str], ...]  # name, sha256
    known: tuple[tuple[Any, ...], ...]
    revision: int = REVISION


def write_photos(folder: Path, photos: Sequence[Photo], *, root: Path, config: PairedSourceConfig) -> None:
    """Fill a prepared folder with copies of the photos and the manifest of their pairs and comparisons."""
    pairs, view = config.pairs, str(config.processed_view or RAW)
    compares = config.compare_views and view != RAW
    copies = bring_in(photos, root=root, folder=folder, place=config.path)
    lots = deal(
        copies,
        lots=pairs.lots,
        references=pairs.references,
        parts=2 if compares else 1,
        seed=pairs.seed,
        place=config.path,
    )
    made = make_pairs(lots, pairs)
    comparisons = make_comparisons(lots, made, seed=pairs.seed) if compares else []
    left_out = {pair.lot for pair in made} - {one.lot for one in comparisons}
    if compares and left_out:
        log.warning(
            "%s: the good photos of %d of %d lots show one part alone, so that nothing is compared there; a smaller "
            "source.pairs.lots puts more parts into each",
            config.path,
            len(left_out),
            len(lots),
        )
    write_manifest(folder, chain(pair_records(made, view), comparison_records(comparisons, view)))


def check_words(labels: Mapping[str, str]) -> None:
    """Raise UserError unless `source.labels` maps words to normal and abnormal, and these two to themselves."""
    for word, label in labels.items():
        if label not in (GOOD, BAD) or (word in (GOOD, BAD) and word != label):
            raise UserError(
                f"source.labels: {word!r} is mapped to {label!r}; map your words to {GOOD} or {BAD}, as in "
                "source.labels={ok: normal, ng: abnormal}"
            )


def label_of(word: str, labels: Mapping[str, str]) -> str:
    """Normal or abnormal, for a word of the user's. Raises UserError for a word that nobody mapped."""
    label = labels.get(word, word)
    if label not in (GOOD, BAD):
        known = ", ".join(repr(one) for one in (*labels, GOOD, BAD))
        raise UserError(
            f"label {word[:60]!r} is not one of {known}; add it: source.labels={{{word[:60]}: <{GOOD} or {BAD}>}}"
        )
    return label


def check_both_labels(photos: Sequence[Photo], place: str) -> None:
    """Raise UserError unless there are photos of both labels."""
    found = {photo.label for photo in photos}
    for label in (GOOD, BAD):
        if label not in found:
            raise UserError(f"{place}: no photo is {label}; photos of both labels are needed, add such")
