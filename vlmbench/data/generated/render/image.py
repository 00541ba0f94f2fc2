"""Render an image of a part.

The pose, the light and the noise belong to the image. The shape and the defects belong to the
part. The renderer uses parallel rays, Lambert's law, Blinn-Phong highlights (Blinn 1977) and a
cast shadow. Each pixel has two rays in each direction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlmbench.data.generated.render.part import Finish, Floats, Material, Part, Scratch, Vector
from vlmbench.data.generated.render.trace import (
    Hits,
    camera_axes,
    intersect,
    rotation_matrix,
    trace,
)

UNITS = 160.0  # units of length along the image's edge
RAYS = 2  # rays of a pixel in each direction
ELEVATION = math.radians(48)
TEXTURE = 256  # edge of the texture tile, units
PENUMBRA = 14.0  # length of the light's path through the part that gives the full shadow, units


@dataclass(frozen=True, slots=True, kw_only=True)
class Texture:
    """The look of a finish: smoothed noise that tilts normals and varies the albedo.

    `spread` (rows, columns) is the smoothing, in units.
    """

    spread: tuple[float, float]
    bump: float
    contrast: float


TEXTURES = {
    Finish.BRUSHED: Texture(
        spread=(0.4, 9.0),
        bump=0.03,
        contrast=0.05,
    ),
    Finish.CAST: Texture(
        spread=(1.1, 1.1),
        bump=0.05,
        contrast=0.04,
    ),
}
# A scratch reaches this far below its middle on a curved face or over an edge, units.
SCRATCH_REACH = 8.0
BROKEN_BUMP = 0.35
BROKEN_GLOSS = 0.3  # share of the material's gloss


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Everything in an image but the part. Angles are in radians, lengths in units."""

    angles: tuple[float, float, float]  # turn about the vertical axis, tilt forwards, tilt sideways
    shift: tuple[float, float]
    scale: float
    light_azimuth: float  # counter-clockwise from the camera's right
    light_elevation: float
    light: float  # strength of the lamp, about 1
    ambient: float  # ambient light, as a share of the lamp's
    background: Vector
    slope: tuple[float, float]  # change of the background's brightness to the right and upwards
    noise: float  # standard deviation of the sensor noise, share of full scale
    seed: int  # of the noise

    @staticmethod
    def draw(rng: np.random.Generator) -> Scene:
        """Return a random scene.

        The scene does not depend on the part, so it cannot give away whether the part is good.
        """
        turn = rng.uniform(-20, 20)
        tilts = rng.uniform(-4, 4, 2)
        grey = rng.uniform(0.34, 0.62)
        tint = rng.normal(0, 0.012, 3)
        red, green, blue = (grey + tint).tolist()

        return Scene(
            angles=(math.radians(turn), math.radians(tilts[0]), math.radians(tilts[1])),
            shift=(rng.uniform(-6, 6), rng.uniform(-6, 6)),
            scale=rng.uniform(0.94, 1.06),
            light_azimuth=math.radians(rng.uniform(150, 220)),
            light_elevation=math.radians(rng.uniform(40, 58)),
            light=rng.uniform(0.85, 1.1),
            ambient=rng.uniform(0.3, 0.42),
            background=(red, green, blue),
            slope=(rng.uniform(-0.12, 0.12), rng.uniform(-0.12, 0.12)),
            noise=rng.uniform(0.010, 0.018),
            seed=int(rng.integers(2**32)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Unit vectors in the part's frame.

    `right` and `up` are the image's, `forward` is the view direction, `lamp` points to the lamp.
    """

    right: Floats
    up: Floats
    forward: Floats
    lamp: Floats

    @staticmethod
    def of(scene: Scene) -> Frame:
        """Return the frame of the scene: the camera and the lamp turn, the part does not."""
        flat = math.cos(scene.light_elevation)
        to_lamp = [
            flat * math.cos(scene.light_azimuth),
            flat * math.sin(scene.light_azimuth),
            math.sin(scene.light_elevation),
        ]

        world = np.vstack([camera_axes(ELEVATION), to_lamp])
        vectors = (world @ rotation_matrix(scene.angles)).astype(np.float32)
        right, up, forward, lamp = vectors

        return Frame(
            right=right,
            up=up,
            forward=forward,
            lamp=lamp,
        )


def render(part: Part, scene: Scene, size: int) -> Image.Image:
    """Return the RGB image of the part, `size` x `size` pixels."""
    frame = Frame.of(scene)
    rng = np.random.default_rng(scene.seed)

    background = _background(part, scene, frame, size, rng)
    fine = background.repeat(RAYS, axis=0).repeat(RAYS, axis=1)
    origins = _ray_origins(part, scene, frame, size * RAYS)
    rays, hits = trace(part, origins, frame.forward)
    colours = _shade(part, scene, frame, hits)
    fine.reshape(-1, 3)[rays[hits.alive]] = colours[:, hits.alive].T

    pixels = np.zeros((size, size, 3), np.float32)
    for i, j in np.ndindex(RAYS, RAYS):
        pixels += fine[i::RAYS, j::RAYS] / np.float32(RAYS**2)

    pixels += scene.noise * rng.standard_normal(pixels.shape, np.float32)
    levels = (pixels.clip(0, 1) * 255 + 0.5).astype(np.uint8)

    return Image.fromarray(levels)


def _ray_origins(part: Part, scene: Scene, frame: Frame, size: int) -> Floats:
    """Return the start points of `size` x `size` rays, (3, rays), by rows from the top left."""
    shares = (np.arange(size) + 0.5) / size - 0.5
    steps: Floats = (shares * UNITS).astype(np.float32)
    scale = np.float32(scene.scale)
    across = (steps - np.float32(scene.shift[0])) / scale
    upwards = (-steps - np.float32(scene.shift[1])) / scale

    centre = np.array([0, 0, part.height / 2], np.float32)
    rows = centre[:, None] + frame.up[:, None] * upwards
    grid: Floats = rows[:, :, None] + frame.right[:, None, None] * across

    return grid.reshape(3, -1)


def _background(
    part: Part, scene: Scene, frame: Frame, size: int, rng: np.random.Generator
) -> Floats:
    """Return the ground with the part's shadow, (size, size, 3)."""
    shadow = _shadow(part, scene, frame, size)
    ramp = np.linspace(-0.5, 0.5, size)
    slope = 1 + scene.slope[0] * ramp[None, :] - scene.slope[1] * ramp[:, None]

    noise = Image.fromarray(rng.standard_normal((12, 12), np.float32))
    coarse = np.asarray(noise.resize((size, size), Image.Resampling.BICUBIC))
    fine = rng.standard_normal((size, size), np.float32)
    grain = 1 + 0.015 * coarse + 0.02 * fine

    brightness = scene.light * slope * grain * (1 - (1 - scene.ambient) * 0.75 * shadow)
    colour = np.array(scene.background)
    ground: Floats = (brightness[..., None] * colour).astype(np.float32)

    return ground


def _shadow(part: Part, scene: Scene, frame: Frame, size: int) -> Floats:
    """Return the part's shadow on the ground, (size, size): 0 is full light, 1 full shadow."""
    origins = _ray_origins(part, scene, frame, size)
    ground = origins - frame.forward[:, None] * (origins[2] / frame.forward[2])
    enter, leave, _ = intersect(part, ground, frame.lamp)
    shadow: Floats = ((leave - np.maximum(enter, 0)) / PENUMBRA).clip(0, 1)

    return shadow.reshape(size, size)


def _shade(part: Part, scene: Scene, frame: Frame, hits: Hits) -> Floats:
    """Return the colour of each hit, (3, rays)."""
    material = part.material
    texture = TEXTURES[material.finish]
    albedo = np.ones(hits.points.shape[1], np.float32)
    normals = hits.normals.copy()
    for scratch in part.scratches:
        _draw_scratch(scratch, hits, albedo, normals)

    grain = _grain(part, hits)
    normals += np.where(hits.rough, BROKEN_BUMP, texture.bump).astype(np.float32) * grain
    normals /= np.sqrt((normals**2).sum(axis=0))
    albedo *= 1 + texture.contrast * grain[0]

    diffuse = scene.ambient * (0.7 + 0.3 * normals[2])
    diffuse += (1 - scene.ambient) * 1.25 * np.maximum(frame.lamp @ normals, 0)

    halfway = frame.lamp - frame.forward
    halfway /= np.linalg.norm(halfway)
    gloss = np.where(hits.rough, BROKEN_GLOSS, 1).astype(np.float32) * material.gloss
    highlight = gloss * np.maximum(halfway @ normals, 0) ** material.shininess

    colour = np.array(material.colour, np.float32)[:, None]
    shaded: Floats = scene.light * hits.light * (colour * albedo * diffuse + highlight)

    return shaded


def _draw_scratch(scratch: Scratch, hits: Hits, albedo: Floats, normals: Floats) -> None:
    """Change the albedo in the groove and tilt the normals of its flanks, in place."""
    along_unit = np.array(scratch.along, np.float32)
    across_unit = np.array(scratch.across, np.float32)
    centre = np.array(scratch.centre, np.float32)[:, None]
    offset = hits.points - centre

    along = along_unit @ offset / (scratch.length / 2)
    depth = np.cross(along_unit, across_unit) @ offset
    is_near = (np.abs(along) < 1) & (np.abs(depth) < SCRATCH_REACH)
    near = np.flatnonzero(is_near)

    bend = scratch.bend * (1 - along[near] ** 2)
    across = (across_unit @ offset[:, near] - bend) / (scratch.width / 2)
    fade = np.minimum(1, 4 * (1 - np.abs(along[near])))  # thin out at both ends
    is_lit = hits.light[near] == 1  # not in a hole
    groove = fade * (1.5 - np.abs(across)).clip(0, 1) * is_lit

    albedo[near] *= 1 + scratch.contrast * groove
    flanks = groove * across.clip(-1, 1)
    normals[:, near] -= 0.5 * across_unit[:, None] * flanks


def _grain(part: Part, hits: Hits) -> Floats:
    """Return the texture at the hits, (3, rays). It moves with the part.

    The three channels are independent and have unit variance.
    """
    x, y, z = hits.points
    around = np.arctan2(y, x) * np.float32(part.radius)
    column = np.where(hits.top, x, around).astype(np.int64)
    row = np.where(hits.top, y, z + 97).astype(np.int64)
    tile = _texture_tile(part.material)

    return tile[:, row % TEXTURE, column % TEXTURE]


@lru_cache(maxsize=8)
def _texture_tile(material: Material) -> NDArray[np.float32]:
    """Return the material's texture, (3, TEXTURE, TEXTURE). Its edges fit together."""
    from scipy.ndimage import gaussian_filter  # late: the import takes 0.5 s

    rng = np.random.default_rng(material.seed)
    noise = rng.standard_normal((3, TEXTURE, TEXTURE), np.float32)
    spread = TEXTURES[material.finish].spread
    smooth = gaussian_filter(noise, (0.0, *spread), mode="wrap")
    tile: NDArray[np.float32] = smooth / smooth.std()

    return tile
