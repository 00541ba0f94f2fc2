"""Where parallel rays meet a part. All arrays of points and normals are (3, rays)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmbench.data.render.part import Bite, Floats, Hole, Part

TOP = 0  # index of the top face among the planes of a part


@dataclass(slots=True)
class Hits:
    """The rays that meet a part, in place: cutting holes and bites moves points and normals along the rays."""

    points: Floats
    normals: Floats  # outward
    leave: Floats  # length of the way from the first hit to the far side, (rays,)
    top: NDArray[np.bool_]  # whether on the top face, (rays,)
    alive: NDArray[np.bool_]  # False where a bite opened the way past the part, (rays,)
    light: Floats  # share of the light that reaches the point: less in a hole, (rays,)
    rough: NDArray[np.bool_]  # whether on broken material, (rays,)


def spans(part: Part, origins: Floats, direction: Floats) -> tuple[Floats, Floats, NDArray[np.intp]]:
    """Where each ray enters and leaves the convex part (lengths along `direction`), and the plane that it enters by.

    A ray misses the part where it leaves before it enters.
    """
    normals, offsets = part.planes()
    enter = np.full(origins.shape[1], -np.inf, np.float32)
    leave = np.full(origins.shape[1], np.inf, np.float32)
    plane = np.zeros(origins.shape[1], np.intp)
    slopes = normals @ direction
    slopes[slopes == 0] = 1e-9  # parallel to the rays: crossed far ahead or far behind
    for index, slope in enumerate(slopes):
        way = (offsets[index] - normals[index] @ origins) / slope
        if slope < 0:
            plane[way > enter] = index
            np.maximum(enter, way, out=enter)
        else:
            np.minimum(leave, way, out=leave)
    return enter, leave, plane


def trace(part: Part, origins: Floats, direction: Floats) -> tuple[NDArray[np.intp], Hits]:
    """The indices of the rays that meet the part and what they meet, holes and bites cut out.

    The rays start in the plane through the part's middle that is square to `direction`.
    """
    middle = np.array([[0], [0], [part.height / 2]], np.float32)
    near = np.flatnonzero(((origins - middle) ** 2).sum(axis=0) < part.radius**2 + part.height**2 / 4)
    enter, leave, plane = spans(part, origins[:, near], direction)
    met = enter < leave
    rays, enter, leave, plane = near[met], enter[met], leave[met], plane[met]
    points = origins[:, rays] + enter * direction[:, None]
    normals = part.planes()[0][plane].T.copy()
    if part.is_cylinder:
        radial = points[:2] / np.maximum(np.hypot(points[0], points[1]), 1e-6)
        normals[:2] = radial * np.hypot(normals[0], normals[1])
    hits = Hits(
        points=points,
        normals=normals,
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


def _cut_hole(hits: Hits, hole: Hole, height: float, direction: Floats) -> None:
    """Carry the rays that meet the top face inside the hole on to its wall or its floor."""
    axis = np.array([[hole.x], [hole.y]], np.float32)
    offset = hits.points[:2] - axis
    inside = np.flatnonzero(hits.top & ((offset**2).sum(axis=0) < hole.radius**2))
    to_wall = _way_out(offset[:, inside], direction[:2], hole.radius)
    to_floor = hole.depth / -direction[2]
    way = np.minimum(to_wall, to_floor)
    points = hits.points[:, inside] + way * direction[:, None]
    wall = np.zeros_like(points)
    wall[:2] = (axis - points[:2]) / hole.radius
    floor = np.array([[0.0], [0.0], [1.0]], np.float32)
    hits.points[:, inside] = points
    hits.normals[:, inside] = np.where(to_wall < to_floor, wall, floor)
    hits.light[inside] = 0.6 * np.exp(-(height - points[2]) / (1.2 * hole.radius)) + 0.12
    hits.top[inside] = False


def _cut_bite(hits: Hits, bite: Bite, direction: Floats) -> None:
    """Carry the rays that meet the part inside the ball on to the ball's far side, or past the part."""
    centre = np.array(bite.centre, np.float32)[:, None]
    inside = np.flatnonzero(((hits.points - centre) ** 2).sum(axis=0) < bite.radius**2)
    way = _way_out(hits.points[:, inside] - centre, direction, bite.radius)
    hits.alive[inside] &= way < hits.leave[inside]
    points = hits.points[:, inside] + way * direction[:, None]
    hits.points[:, inside] = points
    hits.normals[:, inside] = (centre - points) / bite.radius
    hits.rough[inside] = bite.rough
    hits.top[inside] &= not bite.rough


def _way_out(offset: Floats, direction: Floats, radius: float) -> Floats:
    """Length along `direction` from points inside a circle or ball, given from its centre, to its far side."""
    square = float(direction @ direction)
    half = direction @ offset
    root = np.sqrt(np.maximum(half**2 - square * ((offset**2).sum(axis=0) - radius**2), 0))
    way: Floats = (root - half) / square
    return way


def turned(angles: tuple[float, float, float]) -> NDArray[np.float64]:
    """The rotation matrix about z, then x, then y; angles in radians."""
    (cz, cx, cy), (sz, sx, sy) = np.cos(angles), np.sin(angles)
    about_z = np.array([[cz, -sz, 0.0], [sz, cz, 0.0], [0.0, 0.0, 1.0]])
    about_x = np.array([[1.0, 0.0, 0.0], [0.0, cx, -sx], [0.0, sx, cx]])
    about_y = np.array([[cy, 0.0, sy], [0.0, 1.0, 0.0], [-sy, 0.0, cy]])
    result: NDArray[np.float64] = about_y @ about_x @ about_z
    return result


def camera(elevation: float) -> NDArray[np.float64]:
    """Rows: the picture's right, its up, and the way the camera looks; elevation in radians above the ground."""
    sine, cosine = math.sin(elevation), math.cos(elevation)
    return np.array([[1.0, 0.0, 0.0], [0.0, sine, cosine], [0.0, cosine, -sine]])
