"""Defects planted in generated parts: where, how large, and the words for them. Lengths in units of render.part.

Sizes are such that a picture of 160 px shows them: dents from radius 8, chips from depth 9, scratches from length 36.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from vlmbench.data.render import Bite, Hole, Part, Scratch
from vlmbench.data.specimens import Defect

HOLE_DEPTH = 0.6  # share of the part's height
FRONT = math.radians(35)  # how far to the side of the camera a defect may lie, so that any pose shows it


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """A point of a part's surface: outward normal, and a unit vector along the surface, level with the ground."""

    point: np.ndarray
    normal: np.ndarray
    level: np.ndarray


def plant(kind: str, part: Part, rng: np.random.Generator) -> tuple[Part, Defect]:
    """The part with one defect of the kind (a key of KINDS)."""
    return KINDS[kind](part, rng)


def hole_radius(part: Part) -> float:
    """The radius of the hole that a design of this size has, or would have."""
    return 0.27 * min(part.apothem, 42.0) + 2.0


def drilled(part: Part, x: float = 0.0, y: float = 0.0) -> Part:
    """The part with a hole in its top face."""
    return replace(part, hole=Hole(radius=hole_radius(part), depth=HOLE_DEPTH * part.height, x=x, y=y))


def _scratch(part: Part, rng: np.random.Generator) -> tuple[Part, Defect]:
    spot = _spot(part, rng, margin=12)
    angle = rng.uniform(0, math.pi)
    along = math.cos(angle) * spot.level + math.sin(angle) * np.cross(spot.normal, spot.level)
    contrast = rng.uniform(0.8, 1.1) if rng.random() < 0.5 else -rng.uniform(0.65, 0.8)
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
    spot = _spot(part, rng, margin=width)
    depth = width * rng.uniform(0.4, 0.55)
    radius = (width**2 + depth**2) / (2 * depth)  # of the ball whose cap has that width and depth
    bite = Bite(centre=_vector(spot.point + (radius - depth) * spot.normal), radius=radius, rough=False)
    return replace(part, bites=(bite,)), Defect(kind="dent", phrase="a dent")


def _chip(part: Part, rng: np.random.Generator) -> tuple[Part, Defect]:
    angle = -math.pi / 2 + rng.uniform(-2 * FRONT, 2 * FRONT)
    edge = part.apothem / max(math.cos(angle - face) for face in part.face_angles())
    point = np.array([edge * math.cos(angle), edge * math.sin(angle), part.height])
    bite = Bite(centre=_vector(point), radius=rng.uniform(9, 13), rough=True)
    return replace(part, bites=(bite,)), Defect(kind="chip", phrase="a chip")


def _hole(part: Part, rng: np.random.Generator) -> tuple[Part, Defect]:
    """A design without a hole gets one; a design with one loses it (two in three) or gets it off its centre."""
    missing, angle = rng.random() < 2 / 3, rng.uniform(-math.pi, math.pi)
    if part.hole is None:
        return drilled(part), Defect(kind="hole", phrase="there should be no hole", relative=True)
    if missing:
        return replace(part, hole=None), Defect(kind="hole", phrase="the hole is missing", relative=True)
    room = part.apothem - part.bevel - part.hole.radius - 2
    away = min(room, rng.uniform(12, 16))
    moved = drilled(part, x=away * math.cos(angle), y=away * math.sin(angle))
    return moved, Defect(kind="hole", phrase="the hole is off centre")


KINDS: Mapping[str, Callable[[Part, np.random.Generator], tuple[Part, Defect]]] = {
    "scratch": _scratch,
    "dent": _dent,
    "chip": _chip,
    "hole": _hole,
}


def _spot(part: Part, rng: np.random.Generator, *, margin: float) -> Spot:
    """A point that the camera sees, `margin` away from edges and hole as far as there is room."""
    if rng.random() < 0.5:
        return _spot_on_top(part, rng, margin)
    faces = (part.face_angles() + math.pi / 2 + math.pi) % (2 * math.pi) - math.pi  # 0 faces the camera
    face = rng.uniform(-FRONT, FRONT) if part.is_cylinder else faces[np.argmin(np.abs(faces))]
    normal = np.array([math.sin(face), -math.cos(face), 0.0])
    level = np.array([math.cos(face), math.sin(face), 0.0])
    half = 0.0 if part.is_cylinder else max(part.radius * math.sin(math.pi / part.sides) - margin, 0)
    low, high = margin, part.height - part.bevel - margin
    height = rng.uniform(low, high) if low < high else (part.height - part.bevel) / 2
    point = part.apothem * normal + rng.uniform(-half, half) * level + np.array([0, 0, height])
    return Spot(point=point, normal=normal, level=level)


def _spot_on_top(part: Part, rng: np.random.Generator, margin: float) -> Spot:
    inner = 0.0 if part.hole is None else part.hole.radius + margin
    outer = max(part.apothem - part.bevel - margin, min(inner, part.apothem - part.bevel))
    away, angle = rng.uniform(min(inner, outer), outer), rng.uniform(-math.pi, math.pi)
    point = np.array([away * math.cos(angle), away * math.sin(angle), part.height])
    return Spot(point=point, normal=np.array([0.0, 0.0, 1.0]), level=np.array([1.0, 0.0, 0.0]))


def _vector(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = values.tolist()
    return x, y, z
