"""Defects planted in photos of surfaces, blended in with soft edges. Lengths are shares of the patch's side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from vlmbench.data.specimens import Defect

Floats = NDArray[np.float64]


def blemish(kind: str, patch: Floats, rng: np.random.Generator) -> tuple[Floats, Defect]:
    """The patch (rows, columns; grey levels) with one defect of the kind (a key of KINDS), well inside its borders."""
    return KINDS[kind](patch, rng), Defect(kind=kind, phrase=f"a {kind}")


def _scratch(patch: Floats, rng: np.random.Generator) -> Floats:
    """A bent line, thinning out at its ends, brighter or darker than what lies around it."""
    right, down = _offsets(patch, rng, reach=0.24)
    angle = rng.uniform(0, math.pi)
    along = math.cos(angle) * right + math.sin(angle) * down
    across = math.cos(angle) * down - math.sin(angle) * right
    half = rng.uniform(0.22, 0.34)
    bend = rng.uniform(-0.05, 0.05) * (1 - (along / half) ** 2)
    width = rng.uniform(0.013, 0.020)
    fade = np.clip(3 * (1 - np.abs(along) / half), 0, 1)
    alpha = 0.85 * fade * np.exp(-(((across - bend) / width) ** 2))
    colour = patch.mean() + (1 if rng.random() < 0.5 else -1) * rng.uniform(95, 125)
    return _blend(patch, colour, alpha)


def _stain(patch: Floats, rng: np.random.Generator) -> Floats:
    """Something dark and half transparent soaked in; darkest at its rim, as dried liquids are."""
    field = _blob(patch, rng, radius=rng.uniform(0.15, 0.22))
    inside = 1 / (1 + np.exp(-(1 - field) / 0.08))
    rim = np.exp(-(((field - 0.9) / 0.2) ** 2))
    return patch * (1 - inside * (rng.uniform(0.45, 0.58) + 0.15 * rim))


def _hole(patch: Floats, rng: np.random.Generator) -> Floats:
    """A dark pit whose rim catches the light on one side."""
    radius = rng.uniform(0.06, 0.09)
    right, down = _offsets(patch, rng, reach=0.3)
    away = np.hypot(right, down) / radius
    pit = 1 / (1 + np.exp((away - 1) / 0.08))
    light = rng.uniform(-math.pi, math.pi)
    lit = (right * math.cos(light) + down * math.sin(light)) / radius
    rim = np.exp(-(((away - 1.15) / 0.18) ** 2)) * np.clip(lit, 0, 1)
    return _blend(_blend(patch, 12.0, 0.95 * pit), 225.0, 0.6 * rim)


def _blotch(patch: Floats, rng: np.random.Generator) -> Floats:
    """A smear that covers the texture: what is left is the smoothed surface, a little brighter."""
    from scipy.ndimage import gaussian_filter  # late: it takes half a second

    field = _blob(patch, rng, radius=rng.uniform(0.18, 0.25))
    alpha = 0.85 / (1 + np.exp(-(1 - field) / 0.12))
    return _blend(patch, gaussian_filter(patch, 0.07 * len(patch)) + rng.uniform(15, 40), alpha)


KINDS: Mapping[str, Callable[[Floats, np.random.Generator], Floats]] = {
    "scratch": _scratch,
    "stain": _stain,
    "hole": _hole,
    "blotch": _blotch,
}


def _offsets(patch: Floats, rng: np.random.Generator, *, reach: float) -> tuple[Floats, Floats]:
    """How far right of and below a random centre each pixel lies; the centre lies within `reach` of the middle."""
    x, y = rng.uniform(-reach, reach, 2)
    steps = (np.arange(len(patch)) + 0.5) / len(patch) - 0.5
    right, down = np.meshgrid(steps - x, steps - y)
    return right, down


def _blob(patch: Floats, rng: np.random.Generator, *, radius: float) -> Floats:
    """A field that grows outwards from 0 and is 1 on an uneven ellipse's outline."""
    from scipy.ndimage import gaussian_filter  # late: it takes half a second

    right, down = _offsets(patch, rng, reach=0.22)
    stretch = rng.uniform(0.75, 1.3)
    noise = gaussian_filter(rng.standard_normal(patch.shape), 0.07 * len(patch))
    result: Floats = np.hypot(right * stretch, down / stretch) / radius + 0.18 * noise / noise.std()
    return result


def _blend(patch: Floats, colour: Floats | float, alpha: Floats) -> Floats:
    return patch * (1 - alpha) + colour * alpha
