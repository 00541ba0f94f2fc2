"""Defects for images of surfaces, blended in with soft edges.

All lengths are shares of the patch's edge.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from vlmbench.data.generated.specimens import Defect

Floats = NDArray[np.float64]


def add_blemish(kind: str, patch: Floats, rng: np.random.Generator) -> tuple[Floats, Defect]:
    """Return the patch with one defect, and the defect.

    `kind` is a key of KINDS. `patch` (rows, columns) holds grey levels. The defect stays inside
    the patch's borders.
    """
    draw = KINDS[kind]
    blemished = draw(patch, rng)

    return blemished, Defect(kind=kind, phrase=f"a {kind}")


def _scratch(patch: Floats, rng: np.random.Generator) -> Floats:
    """Draw a bent line that fades at both ends. It is brighter or darker than the patch."""
    right, down = _offsets(patch, rng, reach=0.24)
    angle = rng.uniform(0, math.pi)
    cosine, sine = math.cos(angle), math.sin(angle)
    along = cosine * right + sine * down
    across = cosine * down - sine * right

    half_length = rng.uniform(0.22, 0.34)
    bend = rng.uniform(-0.05, 0.05) * (1 - (along / half_length) ** 2)
    width = rng.uniform(0.013, 0.020)

    fade = np.clip(3 * (1 - np.abs(along) / half_length), 0, 1)
    profile = np.exp(-(((across - bend) / width) ** 2))
    alpha = 0.85 * fade * profile

    sign = 1 if rng.random() < 0.5 else -1
    colour = patch.mean() + sign * rng.uniform(95, 125)

    return _blend(patch, colour, alpha)


def _stain(patch: Floats, rng: np.random.Generator) -> Floats:
    """Darken a blob. It is half transparent and darkest at its rim, like a dried liquid."""
    field = _blob(patch, rng, radius=rng.uniform(0.15, 0.22))
    inside = 1 / (1 + np.exp(-(1 - field) / 0.08))
    rim = np.exp(-(((field - 0.9) / 0.2) ** 2))
    strength = rng.uniform(0.45, 0.58) + 0.15 * rim

    return patch * (1 - inside * strength)


def _hole(patch: Floats, rng: np.random.Generator) -> Floats:
    """Draw a dark pit. Its rim catches the light on one edge."""
    radius = rng.uniform(0.06, 0.09)
    right, down = _offsets(patch, rng, reach=0.3)
    distance = np.hypot(right, down) / radius
    pit = 1 / (1 + np.exp((distance - 1) / 0.08))

    light = rng.uniform(-math.pi, math.pi)
    towards_light = (right * math.cos(light) + down * math.sin(light)) / radius
    ring = np.exp(-(((distance - 1.15) / 0.18) ** 2))
    rim = ring * np.clip(towards_light, 0, 1)

    darkened = _blend(patch, 12.0, 0.95 * pit)

    return _blend(darkened, 225.0, 0.6 * rim)


def _blotch(patch: Floats, rng: np.random.Generator) -> Floats:
    """Smear the texture: show the smoothed surface, a little brighter."""
    from scipy.ndimage import gaussian_filter  # late: the import takes 0.5 s

    field = _blob(patch, rng, radius=rng.uniform(0.18, 0.25))
    alpha = 0.85 / (1 + np.exp(-(1 - field) / 0.12))
    smooth = gaussian_filter(patch, 0.07 * len(patch))
    brighter = smooth + rng.uniform(15, 40)

    return _blend(patch, brighter, alpha)


KINDS: Mapping[str, Callable[[Floats, np.random.Generator], Floats]] = {
    "scratch": _scratch,
    "stain": _stain,
    "hole": _hole,
    "blotch": _blotch,
}


def _offsets(patch: Floats, rng: np.random.Generator, *, reach: float) -> tuple[Floats, Floats]:
    """Return each pixel's offset from a random centre: to the right, and downwards.

    The centre lies at most `reach` from the patch's centre, in each direction.
    """
    x, y = rng.uniform(-reach, reach, 2)
    steps = (np.arange(len(patch)) + 0.5) / len(patch) - 0.5
    right, down = np.meshgrid(steps - x, steps - y)

    return right, down


def _blob(patch: Floats, rng: np.random.Generator, *, radius: float) -> Floats:
    """Return a field that is 0 at a random centre and grows outwards.

    It is 1 on the outline of an uneven ellipse.
    """
    from scipy.ndimage import gaussian_filter  # late: the import takes 0.5 s

    right, down = _offsets(patch, rng, reach=0.22)
    stretch = rng.uniform(0.75, 1.3)
    noise = gaussian_filter(rng.standard_normal(patch.shape), 0.07 * len(patch))
    distance = np.hypot(right * stretch, down / stretch)
    field: Floats = distance / radius + 0.18 * noise / noise.std()

    return field


def _blend(patch: Floats, colour: Floats | float, alpha: Floats) -> Floats:
    """Return `colour` laid over the patch with the opacity `alpha` (0 to 1)."""
    return patch * (1 - alpha) + colour * alpha
