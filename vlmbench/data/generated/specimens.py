"""Make records from specimens. A generated source draws each specimen.

A specimen has one reference image and several query images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from zlib import crc32

import numpy as np
from PIL import Image

from vlmbench.types import ImageRef, Record, Role, Task

RAW = "raw"


@dataclass(frozen=True, slots=True, kw_only=True)
class Defect:
    """A defect: its kind, and its phrase in answers.

    `relative` is true where the defect shows only in comparison with the reference.
    """

    kind: str
    phrase: str
    relative: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedImage:
    """An image on disk. `defect` is None for a normal image."""

    path: Path
    sha256: str
    defect: Defect | None = None

    def image_ref(self, role: Role, view: str) -> ImageRef:
        """Return the image as an image of a record."""
        return ImageRef(
            path=self.path,
            role=role,
            view=view,
            sha256=self.sha256,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Specimen:
    """A part, or a piece of a surface. The ids of its records start with `name`."""

    name: str
    group: str
    meta: Mapping[str, str]
    reference: SavedImage
    queries: tuple[SavedImage, ...]

    @property
    def normal(self) -> tuple[SavedImage, ...]:
        """Return the query images without a defect."""
        return tuple(query for query in self.queries if query.defect is None)

    @property
    def abnormal(self) -> tuple[SavedImage, ...]:
        """Return the query images with a defect."""
        return tuple(query for query in self.queries if query.defect is not None)


def rng_of(seed: int, name: str) -> np.random.Generator:
    """Return the random generator of `name`.

    It depends on `seed` and `name` alone: not on other names, and not on the order of calls.
    """
    return np.random.default_rng([seed, crc32(name.encode())])


def draw_kinds(
    seed: int, index: int, queries: int, abnormal_rate: float, kinds: tuple[str, ...]
) -> list[str | None]:
    """Return the kind of defect of each query image of specimen `index`. None is a normal image.

    The number of abnormal images is `abnormal_rate * queries`, rounded. At least one image is
    normal and one is abnormal. The images come in random order. Over all specimens, every kind is
    planted equally often. The abnormal images take the kinds in turn, in a new order each round.
    """
    num_abnormal = min(max(round(abnormal_rate * queries), 1), queries - 1)
    planted: list[str | None] = []

    for count in range(index * num_abnormal, (index + 1) * num_abnormal):
        turn, position = divmod(count, len(kinds))
        order = rng_of(seed, f"kinds-{turn}").permutation(len(kinds))
        planted.append(kinds[order[position]])

    planted += [None] * (queries - num_abnormal)
    order = rng_of(seed, f"order-{index}").permutation(queries)

    return [planted[i] for i in order]


def save_png(image: Image.Image, path: Path, defect: Defect | None = None) -> SavedImage:
    """Write the image to `path`. The same pixels give the same bytes."""
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    content = buffer.getvalue()
    path.write_bytes(content)

    return SavedImage(
        path=path,
        sha256=sha256(content).hexdigest(),
        defect=defect,
    )


def make_judge_records(specimen: Specimen, processed_view: str) -> Iterator[Record]:
    """Return the records that judge the specimen.

    judge_pair: every query beside the reference, raw and processed. judge_single: one normal and
    one abnormal query without the reference. judge_link: a raw reference beside a processed
    query, one normal and one abnormal. With "raw" as the processed view there is no judge_link.
    """
    for view in dict.fromkeys((RAW, processed_view)):
        yield from _make_records_of_view(specimen, view)

    if processed_view == RAW:
        return

    reference = specimen.reference.image_ref(Role.REFERENCE, RAW)
    for number, query in enumerate((specimen.normal[-1], specimen.abnormal[-1])):
        images = (reference, query.image_ref(Role.QUERY, processed_view))
        yield _make_judge_record(specimen, Task.JUDGE_LINK, f"link-{number}", query.defect, images)


def _make_records_of_view(specimen: Specimen, view: str) -> Iterator[Record]:
    """Return the judge_pair and judge_single records in one view."""
    reference = specimen.reference.image_ref(Role.REFERENCE, view)
    for number, query in enumerate(specimen.queries):
        pair = (reference, query.image_ref(Role.QUERY, view))
        name = f"pair-{view}-{number}"
        yield _make_judge_record(specimen, Task.JUDGE_PAIR, name, query.defect, pair)

    singles = (specimen.normal[0], _choose_abnormal_single(specimen))
    for number, query in enumerate(singles):
        single = (query.image_ref(Role.QUERY, view),)
        name = f"single-{view}-{number}"
        yield _make_judge_record(specimen, Task.JUDGE_SINGLE, name, query.defect, single)


def _choose_abnormal_single(specimen: Specimen) -> SavedImage:
    """Return the first abnormal query whose defect shows without the reference.

    Return the first abnormal query where every defect needs the reference.
    """
    for query in specimen.abnormal:
        if query.defect is not None and not query.defect.relative:
            return query

    return specimen.abnormal[0]


def make_compare_views_records(
    specimen: Specimen, partner: Specimen, *, same: str, different: str, processed_view: str
) -> Iterator[Record]:
    """Return two compare_views records: the raw reference beside a processed normal query.

    The first query shows the specimen itself, the second shows `partner`. `same` and `different`
    are the answers' words after the label. With "raw" as the processed view there are no records.
    """
    if processed_view == RAW:
        return

    cases = (
        ("same_part", same, specimen.normal[0]),
        ("different_part", different, partner.normal[-1]),
    )
    for label, words, query in cases:
        images = (
            specimen.reference.image_ref(Role.REFERENCE, RAW),
            query.image_ref(Role.QUERY, processed_view),
        )
        name = f"views-{label.split('_')[0]}"
        yield make_comparison_record(specimen, Task.COMPARE_VIEWS, name, label, words, images)


def make_comparison_record(
    specimen: Specimen, task: Task, name: str, label: str, words: str, images: tuple[ImageRef, ...]
) -> Record:
    """Return a comparison record with the answer "<label>: <words>"."""
    return Record(
        id=f"{specimen.name}-{name}",
        task=task,
        images=images,
        label=label,
        answer=f"{label}: {words}",
        group=specimen.group,
        meta={**specimen.meta, "defect": "none"},
    )


def _make_judge_record(
    specimen: Specimen, task: Task, name: str, defect: Defect | None, images: tuple[ImageRef, ...]
) -> Record:
    return Record(
        id=f"{specimen.name}-{name}",
        task=task,
        images=images,
        label="normal" if defect is None else "abnormal",
        answer="normal" if defect is None else f"abnormal: {defect.phrase}",
        group=specimen.group,
        meta={**specimen.meta, "defect": "none" if defect is None else defect.kind},
    )
