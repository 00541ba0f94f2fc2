"""What a generated part is: its shape, its material and its flaws. Lengths are in units of 1/160 of the picture's side.

The part's frame: z is its vertical axis, the ground is z = 0, and at rest the camera stands on the side of -y.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Vector = tuple[float, float, float]

CYLINDER_SIDES = 28  # a cylinder is a prism of so many sides, shaded smoothly: at radius 50 at most 0.3 units off


class Finish(StrEnum):
    """The texture of a surface."""

    BRUSHED = "brushed"
    CAST = "cast"


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """How a part reflects light; `seed` draws its texture."""

    colour: Vector  # share of light reflected, 0 to 1, red, green and blue
    finish: Finish
    gloss: float  # strength of the highlight, 0 to 1
    shininess: float  # Blinn-Phong exponent
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bite:
    """A ball taken out of the part: shallow and smooth it is a dent, at an edge and rough it is a chip."""

    centre: Vector
    radius: float
    rough: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Scratch:
    """A straight groove around `centre` along the unit vector `along`; `across` is the unit vector over its width."""

    centre: Vector
    along: Vector
    across: Vector
    length: float
    width: float
    contrast: float  # change of the share of light reflected: bright metal above 0, dirt below
    bend: float  # how far the middle lies off the straight line


@dataclass(frozen=True, slots=True, kw_only=True)
class Hole:
    """A blind hole from the top face down; `x` and `y` are its axis."""

    radius: float
    depth: float
    x: float = 0.0
    y: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """An upright prism of 3 to 6 sides or, with CYLINDER_SIDES of them, a cylinder; its upper edge is bevelled."""

    sides: int
    radius: float  # of the circle around its cross-section
    height: float
    bevel: float
    facing: float  # radians from the camera's side to the normal of the first side face
    material: Material
    hole: Hole | None = None
    scratches: tuple[Scratch, ...] = ()
    bites: tuple[Bite, ...] = ()

    @property
    def is_cylinder(self) -> bool:
        """Whether the side is one smooth face."""
        return self.sides == CYLINDER_SIDES

    @property
    def shape(self) -> str:
        """The word for it: prism or cylinder."""
        return "cylinder" if self.is_cylinder else "prism"

    @property
    def apothem(self) -> float:
        """Distance of the side faces from the axis."""
        return self.radius * math.cos(math.pi / self.sides)

    def face_angles(self) -> NDArray[np.float64]:
        """Directions of the side faces' normals around the vertical axis, radians, from the camera's side on."""
        first = self.facing - math.pi / 2
        return np.linspace(first, first + 2 * math.pi, self.sides, endpoint=False, dtype=np.float64)

    def planes(self) -> tuple[Floats, Floats]:
        """The half-spaces n.p <= c whose common volume the part is: normals (planes, 3) and offsets (planes,).

        The top face comes first, then the bottom, the sides, and the bevels at 45 degrees.
        """
        angles = self.face_angles()
        sides = np.stack([np.cos(angles), np.sin(angles), np.zeros_like(angles)], axis=1)
        bevels = (sides + np.array([0.0, 0.0, 1.0])) / math.sqrt(2)
        bevel_offset = (self.apothem + self.height - self.bevel) / math.sqrt(2)
        normals = np.concatenate([[[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]], sides, bevels])
        offsets = np.array([self.height, 0.0] + [self.apothem] * self.sides + [bevel_offset] * self.sides)
        return normals.astype(np.float32), offsets.astype(np.float32)
