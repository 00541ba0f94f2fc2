"""Generated pictures of prisms and cylinders with planted defects: data that no download is needed for.

A part is one design in one material, with one normal reference picture and several query pictures in other poses and
light. Parts come in lots of four of similar size: a prism and a cylinder with a hole in the top face by design, and
one of each without. Records that show two parts stay within a lot, so that splitting by shared pictures cuts between
lots. Half the designs have no hole, so that a plain top face is normal for one part and a defect of another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vlmbench.config import SourceConfig, check_range, schema
from vlmbench.data import defects
from vlmbench.data.prepared import prepared_folder, write_manifest
from vlmbench.data.render import CYLINDER_SIDES, Finish, Material, Part, Scene, render
from vlmbench.data.specimens import (
    RAW,
    Specimen,
    compare_views_records,
    compared,
    draw_kinds,
    judge_records,
    rng_of,
    save_png,
)
from vlmbench.types import Record, Role, Task, UserError

LOT = 4
REVISION = 1  # raise it when the same configuration draws other pictures or records
COLOURS = (
    (0.56, 0.57, 0.60),  # steel
    (0.68, 0.69, 0.71),  # aluminium
    (0.68, 0.55, 0.28),  # brass
    (0.64, 0.41, 0.30),  # copper
    (0.40, 0.40, 0.42),  # cast iron
    (0.30, 0.40, 0.56),  # blue paint
    (0.34, 0.50, 0.38),  # green paint
)


@schema("source", "parts")
@dataclass(kw_only=True)
class PartsConfig(SourceConfig):
    """conf/source/parts.yaml."""

    num_parts: int = 144
    size: int = 160
    queries_per_part: int = 4
    abnormal_rate: float = 0.5
    processed_view: str = "rt"
    seed: int = 0

    def __post_init__(self) -> None:
        check_range("source.num_parts", self.num_parts, LOT)
        check_range("source.size", self.size, 64, 1024)
        check_range("source.queries_per_part", self.queries_per_part, 2)
        check_range("source.abnormal_rate", self.abnormal_rate, 0, 1)
        check_range("source.seed", self.seed, 0)
        if self.num_parts % LOT != 0:
            raise UserError(f"source.num_parts={self.num_parts}: parts come in lots of {LOT}; set a multiple of {LOT}")

    def prepare(self, data_dir: Path) -> Path:
        """Draw the pictures (about 40 a second) and write the manifest, unless they are there already."""
        return prepared_folder(data_dir, "parts", _Recipe(config=self), self._fill)

    def _fill(self, folder: Path) -> None:
        (folder / "img").mkdir()
        numbers = tqdm(range(self.num_parts), desc="drawing parts", unit="part", disable=None)
        specimens = [self._draw(number, folder / "img") for number in numbers]
        write_manifest(folder, self._records(specimens))

    def _draw(self, number: int, folder: Path) -> Specimen:
        part, name = design(self.seed, number), f"p{number:03d}"
        kinds = draw_kinds(self.seed, number, self.queries_per_part, self.abnormal_rate, tuple(defects.KINDS))
        pictures = []
        for suffix, kind in zip(["ref", *(f"q{i}" for i in range(len(kinds)))], [None, *kinds], strict=True):
            title, shown, defect = f"{name}-{suffix}", part, None
            if kind is not None:
                shown, defect = defects.plant(kind, part, rng_of(self.seed, f"{title}-defect"))
            scene = Scene.draw(rng_of(self.seed, f"{title}-scene"))
            pictures.append(save_png(render(shown, scene, self.size), folder / f"{title}.png", defect))
        return Specimen(
            name=name,
            group=f"part-{number:03d}",
            meta={"shape": part.shape},
            reference=pictures[0],
            queries=tuple(pictures[1:]),
        )

    def _records(self, specimens: Sequence[Specimen]) -> Iterator[Record]:
        for number, specimen in enumerate(specimens):
            lot_number, place = divmod(number, LOT)
            lot = specimens[lot_number * LOT : (lot_number + 1) * LOT]
            other = lot[(place + 1 + lot_number % (LOT - 1)) % LOT]
            yield from judge_records(specimen, self.processed_view)
            yield from compare_views_records(
                specimen,
                other,
                same="one part",
                different=_difference(specimen, other),
                processed_view=self.processed_view,
            )
            yield from _compare_shapes_records(lot, place, lot_number)


@dataclass(frozen=True)
class _Recipe:
    config: PartsConfig
    revision: int = REVISION


def design(seed: int, number: int) -> Part:
    """The part of that number: its size is its lot's within 6 %, the rest is its own."""
    lot, place = divmod(number, LOT)
    lot_rng, rng = rng_of(seed, f"lot-{lot}"), rng_of(seed, f"part-{number}")
    radius, height = lot_rng.uniform(48, 58), lot_rng.uniform(34, 58)
    is_cylinder, has_hole = place >= LOT // 2, place % 2 == 0
    sides = CYLINDER_SIDES if is_cylinder else int(rng.integers(3, 7))
    part = Part(
        sides=sides,
        radius=radius * rng.uniform(0.94, 1.06) * (0.9 if is_cylinder else 1.0),
        height=height * rng.uniform(0.94, 1.06),
        bevel=rng.uniform(1.5, 4.0),
        facing=rng.uniform(-np.pi, np.pi) / sides,
        material=_material(rng),
    )
    return defects.drilled(part) if has_hole else part


def _material(rng: np.random.Generator) -> Material:
    brushed = bool(rng.random() < 0.5)
    red, green, blue = (np.array(COLOURS[rng.integers(len(COLOURS))]) + rng.normal(0, 0.02, 3)).tolist()
    return Material(
        colour=(red, green, blue),
        finish=Finish.BRUSHED if brushed else Finish.CAST,
        gloss=rng.uniform(0.1, 0.25) if brushed else rng.uniform(0.02, 0.1),
        shininess=rng.uniform(12, 30),
        seed=int(rng.integers(2**32)),
    )


def _difference(one: Specimen, other: Specimen) -> str:
    """Parts of one lot and shape differ in their hole."""
    return "another shape" if one.meta["shape"] != other.meta["shape"] else "only one has a hole"


def _compare_shapes_records(lot: Sequence[Specimen], place: int, lot_number: int) -> Iterator[Record]:
    """The reference of one part beside a normal query of a part of its shape, and of a part of the other shape.

    Over a lot every part comes first twice and second twice, once for each label: the order tells nothing.
    """
    specimen, fellow, stranger = lot[place], lot[place ^ 1], lot[place ^ 2 ^ lot_number % 2]
    a, b = specimen.meta["shape"], stranger.meta["shape"]
    cases = (
        ("same_shape", f"both are {a}s", fellow.normal[0]),
        ("different_shape", f"a {a} and a {b}", stranger.normal[-1]),
    )
    for label, words, query in cases:
        images = (specimen.reference.shown(Role.REFERENCE, RAW), query.shown(Role.QUERY, RAW))
        yield compared(specimen, Task.COMPARE_SHAPES, f"shapes-{label.split('_')[0]}", label, words, images)
