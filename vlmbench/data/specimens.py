"""Records from specimens: one reference picture and several query pictures of each, made by a generated source."""

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
    """What is wrong: its kind, and the phrase that answers use. `relative`: only the reference shows that it is."""

    kind: str
    phrase: str
    relative: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture on disk; `defect` is None for a normal one."""

    path: Path
    sha256: str
    defect: Defect | None = None

    def shown(self, role: Role, view: str) -> ImageRef:
        """The picture as part of a record."""
        return ImageRef(path=self.path, role=role, view=view, sha256=self.sha256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Specimen:
    """One part or piece of surface. `name` starts the ids of its records."""

    name: str
    group: str
    meta: Mapping[str, str]
    reference: Picture
    queries: tuple[Picture, ...]

    @property
    def normal(self) -> tuple[Picture, ...]:
        """The query pictures without a defect."""
        return tuple(query for query in self.queries if query.defect is None)

    @property
    def abnormal(self) -> tuple[Picture, ...]:
        """The query pictures with a defect."""
        return tuple(query for query in self.queries if query.defect is not None)


def rng_of(seed: int, name: str) -> np.random.Generator:
    """The generator of everything that is called `name`: independent of order and of any other name."""
    return np.random.default_rng([seed, crc32(name.encode())])


def draw_kinds(seed: int, index: int, queries: int, abnormal_rate: float, kinds: tuple[str, ...]) -> list[str | None]:
    """The kind of defect of each query picture of specimen number `index`, None for normal ones, in random order.

    `abnormal_rate` is rounded to whole pictures, at least one of both sorts. Over the specimens every kind is planted
    equally often: the abnormal pictures, counted through, take the kinds in turn, in a new order each time.
    """
    abnormal = min(max(round(abnormal_rate * queries), 1), queries - 1)
    planted: list[str | None] = []
    for count in range(index * abnormal, (index + 1) * abnormal):
        turn, place = divmod(count, len(kinds))
        planted.append(kinds[rng_of(seed, f"kinds-{turn}").permutation(len(kinds))[place]])
    planted += [None] * (queries - abnormal)
    return [planted[i] for i in rng_of(seed, f"order-{index}").permutation(queries)]


def save_png(image: Image.Image, path: Path, defect: Defect | None = None) -> Picture:
    """Write the picture; the same pixels give the same bytes."""
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    path.write_bytes(buffer.getvalue())
    return Picture(path=path, sha256=sha256(buffer.getvalue()).hexdigest(), defect=defect)


def judge_records(specimen: Specimen, processed_view: str) -> Iterator[Record]:
    """Every pair, raw and processed; one normal and one abnormal picture by itself; one and one across the views.

    The abnormal picture by itself is one whose defect does not need the reference, where there is such a one. With
    "raw" as the processed view there is but one view, and nothing across views.
    """
    reference, normal, abnormal = specimen.reference, specimen.normal, specimen.abnormal
    alone = next((query for query in abnormal if query.defect is not None and not query.defect.relative), abnormal[0])
    for view in dict.fromkeys((RAW, processed_view)):
        shown = reference.shown(Role.REFERENCE, view)
        for number, query in enumerate(specimen.queries):
            pair = (shown, query.shown(Role.QUERY, view))
            yield _judged(specimen, Task.JUDGE_PAIR, f"pair-{view}-{number}", query.defect, pair)
        for number, query in enumerate((normal[0], alone)):
            single = (query.shown(Role.QUERY, view),)
            yield _judged(specimen, Task.JUDGE_SINGLE, f"single-{view}-{number}", query.defect, single)
    if processed_view == RAW:
        return
    for number, query in enumerate((normal[-1], abnormal[-1])):
        link = (reference.shown(Role.REFERENCE, RAW), query.shown(Role.QUERY, processed_view))
        yield _judged(specimen, Task.JUDGE_LINK, f"link-{number}", query.defect, link)


def compare_views_records(
    specimen: Specimen, other: Specimen, *, same: str, different: str, processed_view: str
) -> Iterator[Record]:
    """The raw reference beside a processed normal query of the specimen itself, and beside one of another specimen.

    `same` and `different` say the answers in words, without the label. None with "raw" as the processed view.
    """
    if processed_view == RAW:
        return
    cases = (
        ("same_part", same, specimen.normal[0]),
        ("different_part", different, other.normal[-1]),
    )
    for label, words, query in cases:
        images = (specimen.reference.shown(Role.REFERENCE, RAW), query.shown(Role.QUERY, processed_view))
        yield compared(specimen, Task.COMPARE_VIEWS, f"views-{label.split('_')[0]}", label, words, images)


def compared(specimen: Specimen, task: Task, name: str, label: str, words: str, images: tuple[ImageRef, ...]) -> Record:
    """A comparison record with the answer "<label>: <words>"."""
    return Record(
        id=f"{specimen.name}-{name}",
        task=task,
        images=images,
        label=label,
        answer=f"{label}: {words}",
        group=specimen.group,
        meta={**specimen.meta, "defect": "none"},
    )


def _judged(specimen: Specimen, task: Task, name: str, defect: Defect | None, images: tuple[ImageRef, ...]) -> Record:
    return Record(
        id=f"{specimen.name}-{name}",
        task=task,
        images=images,
        label="normal" if defect is None else "abnormal",
        answer="normal" if defect is None else f"abnormal: {defect.phrase}",
        group=specimen.group,
        meta={**specimen.meta, "defect": "none" if defect is None else defect.kind},
    )
