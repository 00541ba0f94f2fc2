"""The defects that label files mark, and where they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vlmbench.data.paths import normal_text
from vlmbench.system.text import counted
from vlmbench.types import UserError

MAX_WORD = 80  # characters of a defect's word
MAX_MARKS = 10_000  # of a photo: 700,000 lines of a text file took 40 s
OUTSIDE = 0.02  # share of the photo that a box may stand over its edge, from rounding

Box = tuple[float, float, float, float]
FindPhoto = Callable[[str], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A marked defect: its word, and either a box or a mask.

    `box` is (left, top, right, bottom) as shares of the stored photo, from 0 to 1. The white pixels
    of `mask` are the defect.
    """

    word: str = ""
    box: Box | None = None
    mask: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """The marks of each photo, by its name. A photo without marks is without defect.

    With `is_complete`, the files list every photo: one that they lack is left out. `not_photos` are
    images that are masks. `notes` are for the user, a sentence each.
    """

    marks: Mapping[str, Sequence[Mark]]
    is_complete: bool = False
    not_photos: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class Problems:
    """Errors of label files, which are reported together."""

    most: int = 20
    lines: list[str] = field(default_factory=list)

    def add(self, error: UserError | str) -> None:
        self.lines.append(str(error))
        if len(self.lines) >= self.most:
            self.raise_any()

    def raise_any(self) -> None:
        if self.lines:
            raise UserError("\n".join(self.lines))


def read_each(
    names: Iterable[str], kind: str, find: FindPhoto, read: Callable[[str, str], Sequence[Mark]]
) -> Reading:
    """Return the marks of label files that each describe one photo.

    `find` returns the photo of a file, `read` the marks of a file and its photo. Files without a
    photo are counted as `kind`. Raise UserError with all files that cannot be read.
    """
    marks: dict[str, Sequence[Mark]] = {}
    problems = Problems()
    without_photo: list[str] = []

    for name in names:
        photo = find(name)
        if photo is None:
            without_photo.append(name)
            continue
        try:
            marks[photo] = read(name, photo)
        except UserError as error:
            problems.add(error)

    problems.raise_any()
    return Reading(marks=marks, notes=note_without_photo(f"{kind} file", without_photo))


def refuse_many(number: int, where: str) -> None:
    """Raise UserError that names `where` if a photo has more than MAX_MARKS marks."""
    if number > MAX_MARKS:
        raise UserError(
            f"{where}: the photo has more than {MAX_MARKS:,} marks; remove those that are wrong, "
            "or cut the photo into several"
        )


def note_without_photo(kind: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return a sentence on label files that belong to no photo; () if there are none."""
    if not names:
        return ()
    belong = "belongs" if len(names) == 1 else "belong"
    return (f"{counted(len(names), kind)} {belong} to no photo by the name, such as {names[0]}",)


def box_of(values: Sequence[float], where: str) -> Box:
    """Return the box (left, top, right, bottom), cut at the photo's edges.

    `values` are shares of the photo. Raise UserError that names `where` for a box that is empty,
    not finite, or outside.
    """
    left, top, right, bottom = values
    is_inside = all(math.isfinite(value) and -OUTSIDE <= value <= 1 + OUTSIDE for value in values)
    if not is_inside or right <= left or bottom <= top:
        shares = ", ".join(f"{value:.3g}" for value in values)
        raise UserError(
            f"{where}: the box from left, top to right, bottom = {shares} (shares of the photo) is "
            "empty or outside of the photo; mend the box, or remove it"
        )

    return max(left, 0.0), max(top, 0.0), min(right, 1.0), min(bottom, 1.0)


def word_of(text: str, where: str) -> str:
    """Return a defect's word, with spaces for underscores.

    Raise UserError that names `where` for a word that is too long or cannot be printed.
    """
    word = normal_text(" ".join(text.replace("_", " ").split()))
    if not word.isprintable() or len(word) > MAX_WORD:
        raise UserError(
            f"{where}: the class name {text[:MAX_WORD]!r} is longer than {MAX_WORD} characters or "
            "cannot be printed; rename the class"
        )

    return word
