"""Intersect parallel rays with a part. All arrays of points and normals are (3, rays)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmbench.data.generated.render.part import Bite, Floats, Hole, Part

TOP = 0  # index of the top face among the planes of a part


@dataclass(slots=True)
class Hits:
    """The rays that hit a part. Holes and bites move the points along the rays, in place."""

    points: Floats
    normals: Floats  # outward
    leave: Floats  # distance from the first hit to the exit, (rays,)
    top: NDArray[np.bool_]  # whether the point is on the top face, (rays,)
    alive: NDArray[np.bool_]  # False where a bite lets the ray past the part, (rays,)
    light: Floats  # share of the light at the point, lower in a hole, (rays,)
    rough: NDArray[np.bool_]  # whether the material is broken, (rays,)


def intersect(
    part: Part, origins: Floats, direction: Floats
) -> tuple[Floats, Floats, NDArray[np.intp]]:
    """Return where each ray enters and leaves the convex part, and the plane that it enters by.

    Both are distances along `direction`, (rays,). A ray misses the part where it leaves before it
    enters.
    """
    normals, offsets = part.planes()
    num_rays = origins.shape[1]
    enter = np.full(num_rays, -np.inf, np.float32)
    leave = np.full(num_rays, np.inf, np.float32)
    plane = np.zeros(num_rays, np.intp)

    slopes = normals @ direction
    slopes[slopes == 0] = 1e-9  # a plane parallel to the rays: crossed far ahead or far behind

    for index, slope in enumerate(slopes):
        distance = (offsets[index] - normals[index] @ origins) / slope
        if slope < 0:
            plane[distance > enter] = index
            np.maximum(enter, distance, out=enter)
        else:
            np.minimum(leave, distance, out=leave)

    return enter, leave, plane


def trace(part: Part, origins: Floats, direction: Floats) -> tuple[NDArray[np.intp], Hits]:
    """Return the indices of the rays that hit the part, and their hits with holes and bites.

    The rays start in the plane through the part's centre that is perpendicular to `direction`.
    """
    near = _rays_near(part, origins)
    enter, leave, plane = intersect(part, origins[:, near], direction)
    is_hit = enter < leave
    rays, enter, leave, plane = near[is_hit], enter[is_hit], leave[is_hit], plane[is_hit]

    points = origins[:, rays] + enter * direction[:, None]
    hits = Hits(
        points=points,
        normals=_normals(part, plane, points),
        leave=leave - enter,
        top=plane == TOP,
        alive=np.ones(rays.size, bool),
        light=np.ones(rays.size, np.float32),
        rough=np.zeros(rays.size, bool),
    )

    if part.hole is not None:
        _cut_hole(hits, part.hole, part.height, direction)
    for bite in part.bites:
        _cut_bite(hits, bite, direction)

    return rays, hits


def _rays_near(part: Part, origins: Floats) -> NDArray[np.intp]:
    """Return the indices of the rays that cross the ball around the part."""
    centre = np.array([[0], [0], [part.height / 2]], np.float32)
    squares = ((origins - centre) ** 2).sum(axis=0)

    return np.flatnonzero(squares < part.radius**2 + part.height**2 / 4)


def _normals(part: Part, plane: NDArray[np.intp], points: Floats) -> Floats:
    """Return the outward normals at the points. A cylinder's normals are smooth."""
    normals = part.planes()[0][plane].T.copy()
    if part.is_cylinder:
        distance = np.hypot(points[0], points[1])
        radial = points[:2] / np.maximum(distance, 1e-6)
        normals[:2] = radial * np.hypot(normals[0], normals[1])

    return normals


def _cut_hole(hits: Hits, hole: Hole, height: float, direction: Floats) -> None:
    """Move the points on the top face inside the hole to its wall or its floor."""
    axis = np.array([[hole.x], [hole.y]], np.float32)
    offset = hits.points[:2] - axis
    is_in_circle = (offset**2).sum(axis=0) < hole.radius**2
    inside = np.flatnonzero(hits.top & is_in_circle)

    to_wall = _distance_to_exit(offset[:, inside], direction[:2], hole.radius)
    to_floor = hole.depth / -direction[2]
    distance = np.minimum(to_wall, to_floor)
    points = hits.points[:, inside] + distance * direction[:, None]

    wall = np.zeros_like(points)
    wall[:2] = (axis - points[:2]) / hole.radius
    floor = np.array([[0.0], [0.0], [1.0]], np.float32)

    hits.points[:, inside] = points
    hits.normals[:, inside] = np.where(to_wall < to_floor, wall, floor)
    depth = height - points[2]
    hits.light[inside] = 0.6 * np.exp(-depth / (1.2 * hole.radius)) + 0.12
    hits.top[inside] = False


def _cut_bite(hits: Hits, bite: Bite, direction: Floats) -> None:
    """Move the points inside the ball to the ball's far surface, or past the part."""
    centre = np.array(bite.centre, np.float32)[:, None]
    squares = ((hits.points - centre) ** 2).sum(axis=0)
    inside = np.flatnonzero(squares < bite.radius**2)

    distance = _distance_to_exit(hits.points[:, inside] - centre, direction, bite.radius)
    hits.alive[inside] &= distance < hits.leave[inside]
    points = hits.points[:, inside] + distance * direction[:, None]

    hits.points[:, inside] = points
    hits.normals[:, inside] = (centre - points) / bite.radius
    hits.rough[inside] = bite.rough
    hits.top[inside] &= not bite.rough


def _distance_to_exit(offset: Floats, direction: Floats, radius: float) -> Floats:
    """Return the distance along `direction` from points inside a circle or ball to its far edge.

    `offset` are the points relative to the centre.
    """
    square = float(direction @ direction)
    half = direction @ offset
    gap = (offset**2).sum(axis=0) - radius**2
    root = np.sqrt(np.maximum(half**2 - square * gap, 0))
    distance: Floats = (root - half) / square

    return distance


def rotation_matrix(angles: tuple[float, float, float]) -> NDArray[np.float64]:
    """Return the matrix (3, 3) that rotates about z, then x, then y. `angles` are in radians."""
    (cz, cx, cy), (sz, sx, sy) = np.cos(angles), np.sin(angles)
    about_z = np.array([[cz, -sz, 0.0], [sz, cz, 0.0], [0.0, 0.0, 1.0]])
    about_x = np.array([[1.0, 0.0, 0.0], [0.0, cx, -sx], [0.0, sx, cx]])
    about_y = np.array([[cy, 0.0, sy], [0.0, 1.0, 0.0], [-sy, 0.0, cy]])
    matrix: NDArray[np.float64] = about_y @ about_x @ about_z

    return matrix


def camera_axes(elevation: float) -> NDArray[np.float64]:
    """Return the camera's axes as rows: the image's right, the image's up, the view direction.

    `elevation` is the camera's angle above the ground, in radians.
    """
    sine, cosine = math.sin(elevation), math.cos(elevation)

    return np.array([[1.0, 0.0, 0.0], [0.0, sine, cosine], [0.0, cosine, -sine]])
