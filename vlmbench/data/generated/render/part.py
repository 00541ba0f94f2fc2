"""A generated part: its shape, its material and its defects.

The unit of length is 1/160 of the image's edge. The part's frame: z is its vertical axis, the
ground is z = 0, and the camera of an unturned part stands towards -y.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Vector = tuple[float, float, float]

# A cylinder is a prism of 28 edges with smooth shading. At radius 50 its outline is at most 0.3
# units off a circle.
CYLINDER_EDGES = 28


class Finish(StrEnum):
    """The texture of a surface."""

    BRUSHED = "brushed"
    CAST = "cast"


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """How a part reflects light. `seed` draws its texture."""

    colour: Vector  # share of light that is reflected, 0 to 1: red, green, blue
    finish: Finish
    gloss: float  # strength of the highlight, 0 to 1
    shininess: float  # Blinn-Phong exponent
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bite:
    """A ball that is cut out of the part.

    A shallow, smooth bite is a dent. A rough bite at an edge is a chip.
    """

    centre: Vector
    radius: float
    rough: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Scratch:
    """A groove around `centre`.

    The unit vector `along` gives its direction, the unit vector `across` the direction of its
    width.
    """

    centre: Vector
    along: Vector
    across: Vector
    length: float
    width: float
    contrast: float  # change of the reflected share: above 0 bright metal, below 0 dirt
    bend: float  # distance of the groove's middle from a straight line


@dataclass(frozen=True, slots=True, kw_only=True)
class Hole:
    """A hole in the top face that does not go through. (`x`, `y`) is its axis."""

    radius: float
    depth: float
    x: float = 0.0
    y: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """An upright prism with a bevelled upper edge.

    `edges` is the number of edges of its cross-section: 3 to 6, or CYLINDER_EDGES for a cylinder.
    """

    edges: int
    radius: float  # of the circle around the cross-section
    height: float
    bevel: float
    facing: float  # angle between the camera's direction and the first side face, radians
    material: Material
    hole: Hole | None = None
    scratches: tuple[Scratch, ...] = ()
    bites: tuple[Bite, ...] = ()

    @property
    def is_cylinder(self) -> bool:
        """Return whether the part is a cylinder."""
        return self.edges == CYLINDER_EDGES

    @property
    def shape(self) -> str:
        """Return the shape's word: "prism" or "cylinder"."""
        return "cylinder" if self.is_cylinder else "prism"

    @property
    def apothem(self) -> float:
        """Return the distance between the axis and the side faces."""
        return self.radius * math.cos(math.pi / self.edges)

    def face_angles(self) -> NDArray[np.float64]:
        """Return the directions of the side faces' normals around the vertical axis, in radians.

        -pi/2 points to the camera.
        """
        first = self.facing - math.pi / 2
        last = first + 2 * math.pi

        return np.linspace(first, last, self.edges, endpoint=False, dtype=np.float64)

    def planes(self) -> tuple[Floats, Floats]:
        """Return the half-spaces n.p <= c whose intersection is the part.

        Returns normals (planes, 3) and offsets (planes,). The top face comes first, then the
        bottom, the side faces, and the bevels at 45 degrees.
        """
        angles = self.face_angles()
        zeros = np.zeros_like(angles)
        faces = np.stack([np.cos(angles), np.sin(angles), zeros], axis=1)
        bevels = (faces + np.array([0.0, 0.0, 1.0])) / math.sqrt(2)
        bevel_offset = (self.apothem + self.height - self.bevel) / math.sqrt(2)

        caps = [[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]
        normals = np.concatenate([caps, faces, bevels])
        offsets = np.array(
            [self.height, 0.0] + [self.apothem] * self.edges + [bevel_offset] * self.edges
        )

        return normals.astype(np.float32), offsets.astype(np.float32)
