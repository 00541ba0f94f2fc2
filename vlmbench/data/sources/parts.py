"""Generated images of prisms and cylinders with planted defects. They need no download.

A part is one design in one material. It has one normal reference image, and several query images
in other poses and light. Parts come in lots of four parts of similar size: a prism and a cylinder
with a hole in the top face by design, and a prism and a cylinder without. Records that show two
parts stay within a lot, so a split by shared images cuts between lots. Half of the designs have no
hole. So a plain top face is normal for one part and a defect of another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vlmbench.config import Settings, SourceConfig, schema, setting
from vlmbench.config.data import read_mapping
from vlmbench.data.generated.defects import KINDS, drill_hole, plant_defect
from vlmbench.data.generated.render import CYLINDER_EDGES, Finish, Material, Part, Scene, render
from vlmbench.data.generated.specimens import (
    RAW,
    SavedImage,
    Specimen,
    draw_kinds,
    make_compare_views_records,
    make_comparison_record,
    make_judge_records,
    rng_of,
    save_png,
)
from vlmbench.data.prepared import prepared_folder, write_manifest
from vlmbench.types import Record, Role, Task, UserError

LOT = 4
REVISION = 1  # raise it when the same configuration draws other images or records
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
    """The settings of conf/source/parts.yaml."""

    num_parts: int = setting(144, f"Parts, a multiple of {LOT}.", at_least=LOT)
    size: int = setting(160, "Edge of the images, in pixels.", at_least=64, at_most=1024)
    queries_per_part: int = setting(4, "Images of each part beside its reference.", at_least=2)
    abnormal_rate: float = setting(
        0.5,
        "Share of the query images with a defect, rounded to whole images for each part.",
        at_least=0,
        at_most=1,
    )
    processed_view: str = setting("rt", "View that records are shown in beside raw.")
    seed: int = setting(0, "Seed of designs, defects, poses and light.", at_least=0)

    def __post_init__(self) -> None:
        # Not super(): `labels` stays None, which the hash of the prepared folder depends on.
        Settings.__post_init__(self)
        if self.labels is not None:
            self.labels = read_mapping("source.labels", self.labels, "{ng: abnormal}")

        if self.num_parts % LOT != 0:
            raise UserError(
                f"source.num_parts must be a multiple of {LOT}, got {self.num_parts}; set "
                f"source.num_parts={self.num_parts // LOT * LOT}"
            )

    def prepare(self, data_dir: Path) -> Path:
        """Draw the images (about 40 per second) and write the manifest, unless they exist."""
        return prepared_folder(data_dir, "parts", _CacheKey(config=self), self._fill)

    def _fill(self, folder: Path) -> None:
        images = folder / "img"
        images.mkdir()
        numbers = tqdm(
            range(self.num_parts),
            desc="drawing parts",
            unit="part",
            disable=None,
        )
        specimens = [self._draw_specimen(number, images) for number in numbers]
        write_manifest(folder, self._records(specimens))

    def _draw_specimen(self, number: int, folder: Path) -> Specimen:
        """Draw the reference and the queries of part `number`."""
        part = design_part(self.seed, number)
        name = f"p{number:03d}"
        kinds = draw_kinds(
            self.seed, number, self.queries_per_part, self.abnormal_rate, tuple(KINDS)
        )
        reference = self._draw_image(part, f"{name}-ref", None, folder)
        queries = [
            self._draw_image(part, f"{name}-q{i}", kind, folder) for i, kind in enumerate(kinds)
        ]

        return Specimen(
            name=name,
            group=f"part-{number:03d}",
            meta={"shape": part.shape},
            reference=reference,
            queries=tuple(queries),
        )

    def _draw_image(self, part: Part, title: str, kind: str | None, folder: Path) -> SavedImage:
        """Draw the part in a scene of its own, with a defect of `kind` unless it is None."""
        defect = None
        if kind is not None:
            part, defect = plant_defect(kind, part, rng_of(self.seed, f"{title}-defect"))

        scene = Scene.draw(rng_of(self.seed, f"{title}-scene"))
        image = render(part, scene, self.size)

        return save_png(image, folder / f"{title}.png", defect)

    def _records(self, specimens: Sequence[Specimen]) -> Iterator[Record]:
        for number, specimen in enumerate(specimens):
            lot_number, position = divmod(number, LOT)
            lot = specimens[lot_number * LOT : (lot_number + 1) * LOT]
            partner = lot[(position + 1 + lot_number % (LOT - 1)) % LOT]

            yield from make_judge_records(specimen, self.processed_view)
            yield from make_compare_views_records(
                specimen,
                partner,
                same="one part",
                different=_describe_difference(specimen, partner),
                processed_view=self.processed_view,
            )
            yield from _make_compare_shapes_records(lot, position, lot_number)


@dataclass(frozen=True)
class _CacheKey:
    """All that the prepared folder depends on."""

    config: PartsConfig
    revision: int = REVISION


def design_part(seed: int, number: int) -> Part:
    """Return part `number`. Its size is within 6 % of its lot's size. The rest is its own."""
    lot, position = divmod(number, LOT)
    lot_rng = rng_of(seed, f"lot-{lot}")
    rng = rng_of(seed, f"part-{number}")
    radius = lot_rng.uniform(48, 58)
    height = lot_rng.uniform(34, 58)

    is_cylinder = position >= LOT // 2
    has_hole = position % 2 == 0
    edges = CYLINDER_EDGES if is_cylinder else int(rng.integers(3, 7))
    part = Part(
        edges=edges,
        radius=radius * rng.uniform(0.94, 1.06) * (0.9 if is_cylinder else 1.0),
        height=height * rng.uniform(0.94, 1.06),
        bevel=rng.uniform(1.5, 4.0),
        facing=rng.uniform(-np.pi, np.pi) / edges,
        material=_draw_material(rng),
    )

    return drill_hole(part) if has_hole else part


def _draw_material(rng: np.random.Generator) -> Material:
    is_brushed = bool(rng.random() < 0.5)
    base = np.array(COLOURS[rng.integers(len(COLOURS))])
    red, green, blue = (base + rng.normal(0, 0.02, 3)).tolist()

    return Material(
        colour=(red, green, blue),
        finish=Finish.BRUSHED if is_brushed else Finish.CAST,
        gloss=rng.uniform(0.1, 0.25) if is_brushed else rng.uniform(0.02, 0.1),
        shininess=rng.uniform(12, 30),
        seed=int(rng.integers(2**32)),
    )


def _describe_difference(first: Specimen, second: Specimen) -> str:
    """Return how two parts of a lot differ. Parts of one shape differ in their hole."""
    if first.meta["shape"] != second.meta["shape"]:
        return "another shape"

    return "only one has a hole"


def _make_compare_shapes_records(
    lot: Sequence[Specimen], position: int, lot_number: int
) -> Iterator[Record]:
    """Yield two compare_shapes records of a part: its reference beside another part's query.

    The first query has the same shape, the second the other shape. Over a lot, every part comes
    first twice and second twice, once for each label. So the order does not give the label away.
    """
    specimen = lot[position]
    same = lot[position ^ 1]
    different = lot[position ^ 2 ^ lot_number % 2]
    shape, other_shape = specimen.meta["shape"], different.meta["shape"]
    cases = (
        ("same_shape", f"both are {shape}s", same.normal[0]),
        ("different_shape", f"a {shape} and a {other_shape}", different.normal[-1]),
    )

    for label, words, query in cases:
        images = (
            specimen.reference.image_ref(Role.REFERENCE, RAW),
            query.image_ref(Role.QUERY, RAW),
        )
        name = f"shapes-{label.split('_')[0]}"
        yield make_comparison_record(specimen, Task.COMPARE_SHAPES, name, label, words, images)
