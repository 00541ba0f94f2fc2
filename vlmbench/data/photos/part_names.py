"""Parts that file names give, and names that turn out to be classes instead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from vlmbench.data.photos.photo import Photo
from vlmbench.types import UserError

MIN_PHOTOS = 6  # of a "part" that may be a class
MIN_SHARE = 0.5  # of all photos that such parts hold


def check_part_names(photos: Sequence[Photo], source_path: str) -> None:
    """Raise UserError if the parts of photos look like classes: crazing_1.jpg, good_2.jpg.

    Names of parts have numbers. A name without a number that many photos share is a class, or a
    camera's prefix.
    """
    counts = Counter(photo.part for photo in photos)
    suspects = [
        (part, count)
        for part, count in counts.most_common()
        if count >= MIN_PHOTOS and not any(character.isdigit() for character in part)
    ]
    if sum(count for _, count in suspects) < MIN_SHARE * len(photos):
        return

    named = ", ".join(f"{part!r} ({count} photos)" for part, count in suspects[:4])
    raise UserError(
        f"source.path={source_path}: the file names up to the last '_' are {named}, which look "
        "like classes, not like parts; set source.parts=photo if each photo shows a part of its "
        "own, or source.parts=name if each of these names is one part"
    )
