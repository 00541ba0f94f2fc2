"""A picture of a part: pose, light and noise belong to the picture, shape and flaws to the part.

Parallel rays, Lambert's law and Blinn-Phong highlights (Blinn 1977), a cast shadow, two rays a pixel each way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlmbench.data.render.part import Finish, Floats, Material, Part, Scratch, Vector
from vlmbench.data.render.trace import Hits, camera, spans, trace, turned

UNITS = 160.0  # units of length along the picture's side
RAYS = 2  # rays a pixel along each side
ELEVATION = math.radians(48)
TEXTURE = 256  # side of the texture tile, units
PENUMBRA = 14.0  # way through the part that makes a shadow whole, units


@dataclass(frozen=True, slots=True, kw_only=True)
class Texture:
    """How a finish looks: noise smoothed by `spread` (rows, columns; units), bumping normals and varying the albedo."""

    spread: tuple[float, float]
    bump: float
    contrast: float


TEXTURES = {
    Finish.BRUSHED: Texture(spread=(0.4, 9.0), bump=0.03, contrast=0.05),
    Finish.CAST: Texture(spread=(1.1, 1.1), bump=0.05, contrast=0.04),
}
SCRATCH_REACH = 8.0  # how far below its middle a scratch follows a curved face or goes on over an edge, units
BROKEN_BUMP = 0.35
BROKEN_GLOSS = 0.3  # as a share of the material's


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Everything of a picture that is not the part. Angles in radians, lengths in units."""

    angles: tuple[float, float, float]  # turn about the vertical axis, tilt forwards, tilt sideways
    shift: tuple[float, float]
    scale: float
    light_azimuth: float  # from the camera's right, counter-clockwise
    light_elevation: float
    light: float  # strength of the lamp, about 1
    ambient: float  # light from everywhere, as a share of the lamp's
    background: Vector
    slope: tuple[float, float]  # change of the background's brightness over the picture, right and up
    noise: float  # standard deviation of the sensor's noise, share of full scale
    seed: int  # of the noise

    @staticmethod
    def draw(rng: np.random.Generator) -> Scene:
        """A scene at random. Knows nothing of the part, so that nothing in it can tell a good part from a bad one."""
        turn, tilts = rng.uniform(-20, 20), rng.uniform(-4, 4, 2)
        grey, tint = rng.uniform(0.34, 0.62), rng.normal(0, 0.012, 3)
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
    """Unit vectors in the part's frame: the picture's right and up, the way the camera looks, the way to the lamp."""

    right: Floats
    up: Floats
    forward: Floats
    lamp: Floats

    @staticmethod
    def of(scene: Scene) -> Frame:
        """Turning the part is turning camera and lamp the other way."""
        flat = math.cos(scene.light_elevation)
        to_lamp = [flat * math.cos(scene.light_azimuth), flat * math.sin(scene.light_azimuth)]
        world = np.vstack([camera(ELEVATION), [*to_lamp, math.sin(scene.light_elevation)]])
        right, up, forward, lamp = (world @ turned(scene.angles)).astype(np.float32)
        return Frame(right=right, up=up, forward=forward, lamp=lamp)


def render(part: Part, scene: Scene, size: int) -> Image.Image:
    """The picture, RGB, `size` pixels a side."""
    frame, rng = Frame.of(scene), np.random.default_rng(scene.seed)
    fine = _background(part, scene, frame, size, rng).repeat(RAYS, axis=0).repeat(RAYS, axis=1)
    rays, hits = trace(part, _origins(part, scene, frame, size * RAYS), frame.forward)
    fine.reshape(-1, 3)[rays[hits.alive]] = _shade(part, scene, frame, hits)[:, hits.alive].T
    pixels = np.zeros((size, size, 3), np.float32)
    for i, j in np.ndindex(RAYS, RAYS):
        pixels += fine[i::RAYS, j::RAYS] / np.float32(RAYS**2)
    pixels += scene.noise * rng.standard_normal(pixels.shape, np.float32)
    return Image.fromarray((pixels.clip(0, 1) * 255 + 0.5).astype(np.uint8))


def _origins(part: Part, scene: Scene, frame: Frame, side: int) -> Floats:
    """The starting points of `side` x `side` rays, row by row from the top left, (3, rays)."""
    steps: Floats = (((np.arange(side) + 0.5) / side - 0.5) * UNITS).astype(np.float32)
    across = (steps - np.float32(scene.shift[0])) / np.float32(scene.scale)
    upwards = (-steps - np.float32(scene.shift[1])) / np.float32(scene.scale)
    middle = np.array([0, 0, part.height / 2], np.float32)
    rows = middle[:, None] + frame.up[:, None] * upwards
    grid: Floats = rows[:, :, None] + frame.right[:, None, None] * across
    return grid.reshape(3, -1)


def _background(part: Part, scene: Scene, frame: Frame, size: int, rng: np.random.Generator) -> Floats:
    """The ground with the part's shadow, (size, size, 3)."""
    origins = _origins(part, scene, frame, size)
    ground = origins - frame.forward[:, None] * (origins[2] / frame.forward[2])
    enter, leave, _ = spans(part, ground, frame.lamp)
    shadow = ((leave - np.maximum(enter, 0)) / PENUMBRA).clip(0, 1).reshape(size, size)
    ramp = np.linspace(-0.5, 0.5, size)
    slope = 1 + scene.slope[0] * ramp[None, :] - scene.slope[1] * ramp[:, None]
    coarse = Image.fromarray(rng.standard_normal((12, 12), np.float32)).resize((size, size), Image.Resampling.BICUBIC)
    grain = 1 + 0.015 * np.asarray(coarse) + 0.02 * rng.standard_normal((size, size), np.float32)
    brightness = scene.light * slope * grain * (1 - (1 - scene.ambient) * 0.75 * shadow)
    ground_colours: Floats = (brightness[..., None] * np.array(scene.background)).astype(np.float32)
    return ground_colours


def _shade(part: Part, scene: Scene, frame: Frame, hits: Hits) -> Floats:
    """The colour of each hit, (3, rays)."""
    material, texture = part.material, TEXTURES[part.material.finish]
    albedo = np.ones(hits.points.shape[1], np.float32)
    normals = hits.normals.copy()
    for scratch in part.scratches:
        _scratch(scratch, hits, albedo, normals)
    grain = _grain(part, hits)
    normals += np.where(hits.rough, BROKEN_BUMP, texture.bump).astype(np.float32) * grain
    normals /= np.sqrt((normals**2).sum(axis=0))
    albedo *= 1 + texture.contrast * grain[0]
    halfway = frame.lamp - frame.forward
    halfway /= np.linalg.norm(halfway)
    diffuse = scene.ambient * (0.7 + 0.3 * normals[2])
    diffuse += (1 - scene.ambient) * 1.25 * np.maximum(frame.lamp @ normals, 0)
    gloss = np.where(hits.rough, BROKEN_GLOSS, 1).astype(np.float32) * material.gloss
    highlight = gloss * np.maximum(halfway @ normals, 0) ** material.shininess
    colour = np.array(material.colour, np.float32)[:, None]
    result: Floats = scene.light * hits.light * (colour * albedo * diffuse + highlight)
    return result


def _scratch(scratch: Scratch, hits: Hits, albedo: Floats, normals: Floats) -> None:
    """Darken or brighten the groove and tilt its flanks, in place."""
    along_unit, across_unit = np.array(scratch.along, np.float32), np.array(scratch.across, np.float32)
    offset = hits.points - np.array(scratch.centre, np.float32)[:, None]
    along = along_unit @ offset / (scratch.length / 2)
    deep = np.cross(along_unit, across_unit) @ offset
    near = np.flatnonzero((np.abs(along) < 1) & (np.abs(deep) < SCRATCH_REACH))
    bend = scratch.bend * (1 - along[near] ** 2)
    across = (across_unit @ offset[:, near] - bend) / (scratch.width / 2)
    fade = np.minimum(1, 4 * (1 - np.abs(along[near])))  # thins out at both ends
    groove = fade * (1.5 - np.abs(across)).clip(0, 1) * (hits.light[near] == 1)  # not in a hole
    albedo[near] *= 1 + scratch.contrast * groove
    normals[:, near] -= 0.5 * across_unit[:, None] * (groove * across.clip(-1, 1))


def _grain(part: Part, hits: Hits) -> Floats:
    """Texture at the hits, three independent channels of unit variance: it sticks to the part, (3, rays)."""
    angle = np.arctan2(hits.points[1], hits.points[0])
    column = np.where(hits.top, hits.points[0], angle * np.float32(part.radius)).astype(np.int64)
    row = np.where(hits.top, hits.points[1], hits.points[2] + 97).astype(np.int64)
    tile = _texture(part.material)
    return tile[:, row % TEXTURE, column % TEXTURE]


@lru_cache(maxsize=8)
def _texture(material: Material) -> NDArray[np.float32]:
    from scipy.ndimage import gaussian_filter  # late: it takes half a second

    noise = np.random.default_rng(material.seed).standard_normal((3, TEXTURE, TEXTURE), np.float32)
    smooth = gaussian_filter(noise, (0.0, *TEXTURES[material.finish].spread), mode="wrap")
    tile: NDArray[np.float32] = smooth / smooth.std()
    return tile
