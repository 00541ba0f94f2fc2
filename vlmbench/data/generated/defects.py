"""Defects for generated parts: their position, their size and their words.

Lengths are in the units of render.part. The sizes are large enough for an image of 160 px: dents
have a radius of 8 or more, chips a depth of 9 or more, scratches a length of 36 or more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from vlmbench.data.generated.render import Bite, Hole, Part, Scratch, Vector
from vlmbench.data.generated.specimens import Defect

HOLE_DEPTH = 0.6  # share of the part's height
# The largest angle between a defect and the camera's direction, so that every pose shows it.
MAX_ANGLE = math.radians(35)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """A point on a part's surface.

    `normal` points outwards. `level` is a unit vector along the surface, parallel to the ground.
    """

    point: np.ndarray
    normal: np.ndarray
    level: np.ndarray


def plant_defect(kind: str, part: Part, rng: np.random.Generator) -> tuple[Part, Defect]:
    """Return the part with one defect, and the defect. `kind` is a key of KINDS."""
    plant = KINDS[kind]

    return plant(part, rng)


def hole_radius(part: Part) -> float:
    """Return the radius of a hole in a part of this size."""
    return 0.27 * min(part.apothem, 42.0) + 2.0


def drill_hole(part: Part, x: float = 0.0, y: float = 0.0) -> Part:
    """Return the part with a hole in its top face. (`x`, `y`) is the hole's axis."""
    hole = Hole(
        radius=hole_radius(part),
        depth=HOLE_DEPTH * part.height,
        x=x,
        y=y,
    )

    return replace(part, hole=hole)


def _scratch(part: Part, rng: np.random.Generator) -> tuple[Part, Defect]:
    spot = _draw_spot(part, rng, margin=12)
    angle = rng.uniform(0, math.pi)
    steep = np.cross(spot.normal, spot.level)
    along = math.cos(angle) * spot.level + math.sin(angle) * steep

    is_bright = rng.random() < 0.5
    contrast = rng.uniform(0.8, 1.1) if is_bright else -rng.uniform(0.65, 0.8)
    scratch = Scratch(
        centre=_vector(spot.point),
        along=_vector(along),
        across=_vector(np.cross(spot.normal, along)),
        length=rng.uniform(36, 56),
        width=rng.uniform(2.6, 3.8),
        contrast=contrast,
        bend=rng.uniform(-3, 3),
    )

    return replace(part, scratches=(scratch,)), Defect(kind="scratch", phrase="a scratch")


def _dent(part: Part, rng: np.random.Generator) -> tuple[Part, Defect]:
    width = rng.uniform(8, 12)
    spot = _draw_spot(part, rng, margin=width)
    depth = width * rng.uniform(0.4, 0.55)

    # The radius of the ball whose cap has this width and this depth.
    radius = (width**2 + depth**2) / (2 * depth)
    centre = spot.point + (radius - depth) * spot.normal
    bite = Bite(
        centre=_vector(centre),
        radius=radius,
        rough=False,
    )

    return replace(part, bites=(bite,)), Defect(kind="dent", phrase="a dent")


def _chip(part: Part, rng: np.random.Generator) -> tuple[Part, Defect]:
    angle = -math.pi / 2 + rng.uniform(-2 * MAX_ANGLE, 2 * MAX_ANGLE)
    nearest = max(math.cos(angle - face) for face in part.face_angles())
    edge = part.apothem / nearest

    point = np.array([edge * math.cos(angle), edge * math.sin(angle), part.height])
    bite = Bite(
        centre=_vector(point),
        radius=rng.uniform(9, 13),
        rough=True,
    )

    return replace(part, bites=(bite,)), Defect(kind="chip", phrase="a chip")


def _hole(part: Part, rng: np.random.Generator) -> tuple[Part, Defect]:
    """Add a hole to a design without one. Remove or move the hole of a design with one.

    Two of three holes are removed, the others are moved off centre.
    """
    is_missing = rng.random() < 2 / 3
    angle = rng.uniform(-math.pi, math.pi)

    if part.hole is None:
        defect = Defect(
            kind="hole",
            phrase="there should be no hole",
            relative=True,
        )
        return drill_hole(part), defect

    if is_missing:
        defect = Defect(
            kind="hole",
            phrase="the hole is missing",
            relative=True,
        )
        return replace(part, hole=None), defect

    room = part.apothem - part.bevel - part.hole.radius - 2
    distance = min(room, rng.uniform(12, 16))
    moved = drill_hole(part, x=distance * math.cos(angle), y=distance * math.sin(angle))

    return moved, Defect(kind="hole", phrase="the hole is off centre")


KINDS: Mapping[str, Callable[[Part, np.random.Generator], tuple[Part, Defect]]] = {
    "scratch": _scratch,
    "dent": _dent,
    "chip": _chip,
    "hole": _hole,
}


def _draw_spot(part: Part, rng: np.random.Generator, *, margin: float) -> Spot:
    """Return a random point that the camera sees, on the top face or on a side face.

    The point keeps `margin` from edges and from the hole, as far as there is room.
    """
    if rng.random() < 0.5:
        return _draw_spot_on_top(part, rng, margin)

    face = _draw_face(part, rng)
    normal = np.array([math.sin(face), -math.cos(face), 0.0])
    level = np.array([math.cos(face), math.sin(face), 0.0])

    half_width = 0.0
    if not part.is_cylinder:
        half_width = max(part.radius * math.sin(math.pi / part.edges) - margin, 0)

    upper = part.height - part.bevel
    low, high = margin, upper - margin
    height = rng.uniform(low, high) if low < high else upper / 2
    shift = rng.uniform(-half_width, half_width)
    point = part.apothem * normal + shift * level + np.array([0, 0, height])

    return Spot(
        point=point,
        normal=normal,
        level=level,
    )


def _draw_face(part: Part, rng: np.random.Generator) -> float:
    """Return the direction of a visible side face, in radians. 0 faces the camera."""
    if part.is_cylinder:
        return rng.uniform(-MAX_ANGLE, MAX_ANGLE)

    # From the camera's direction, between -pi and pi.
    turn = 2 * math.pi
    angles = (part.face_angles() + math.pi / 2 + math.pi) % turn - math.pi

    return float(angles[np.argmin(np.abs(angles))])


def _draw_spot_on_top(part: Part, rng: np.random.Generator, margin: float) -> Spot:
    inner = 0.0 if part.hole is None else part.hole.radius + margin
    flat = part.apothem - part.bevel
    outer = max(flat - margin, min(inner, flat))

    distance = rng.uniform(min(inner, outer), outer)
    angle = rng.uniform(-math.pi, math.pi)
    point = np.array([distance * math.cos(angle), distance * math.sin(angle), part.height])

    return Spot(
        point=point,
        normal=np.array([0.0, 0.0, 1.0]),
        level=np.array([1.0, 0.0, 0.0]),
    )


def _vector(values: np.ndarray) -> Vector:
    x, y, z = values.tolist()

    return x, y, z
