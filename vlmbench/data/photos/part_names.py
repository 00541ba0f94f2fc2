"""Parts that file names give, and names that turn out to be classes instead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

from vlmbench.data.photos.photo import Photo
from vlmbench.types import UserError

MIN_PHOTOS = 6  # of a "part" that may be a class
MIN_SHARE = 0.5  # of all photos that such parts hold
MIN_FOLDERS = 6  # from which folders may be parts: fewer are labels or views
LARGE_SHARE = 1 / 3  # of all photos in one part: three splits are hardly possible


def check_part_names(photos: Sequence[Photo], source_path: str) -> None:
    """Raise UserError if the parts of photos look like classes: crazing_1.jpg, good_2.jpg.

    Names of parts have numbers. A name without a number that many photos share is a class, or a
    camera's prefix. So is any name that a third of the photos share.
    """
    suspects = class_names([photo.part for photo in photos])
    if not suspects:
        return

    named = ", ".join(f"{part!r} ({count} photos)" for part, count in suspects[:4])
    folders = {PurePosixPath(photo.name).parent for photo in photos}
    by_folder = ", source.parts=folder if each folder shows one part"
    raise UserError(
        f"source.path={source_path}: the file names up to the last '_' are {named}, which look "
        "like classes, not like parts; set source.parts=photo if each photo shows a part of its "
        f"own{by_folder if len(folders) >= MIN_FOLDERS else ''}, or source.parts=name if each of "
        "these names is one part"
    )


def class_names(parts: Sequence[str]) -> list[tuple[str, int]]:
    """Return the names among the photos' parts that look like classes, and their photos.

    The most frequent come first. [] if they hold few of the photos.
    """
    counts = Counter(parts)
    suspects = [
        (part, count)
        for part, count in counts.most_common()
        if count >= MIN_PHOTOS
        and (count >= LARGE_SHARE * len(parts) or not any(map(str.isdigit, part)))
    ]
    num_photos = sum(count for _, count in suspects)
    return suspects if num_photos >= MIN_SHARE * len(parts) else []
