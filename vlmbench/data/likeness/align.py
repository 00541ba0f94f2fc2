"""Align images with a template, and correlate what then remains.

The alignment is affine: shift, scale, small rotation and shear. It is the inverse compositional
algorithm of Lucas and Kanade (Baker and Matthews 2004, doi:10.1023/B:VISI.0000011205.11775.fd), on
half the resolution first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmbench.data.likeness.detail import Floats

COARSE_STEPS = 6
FINE_STEPS = 3
MOST_FINE = 4  # candidates that are aligned at the full resolution: the best ones at half
BORDER = 1 / 16  # of the edge: it may have no counterpart in a copy that is cropped or shifted
MAX_CHANGE = 0.12  # of scale, rotation and shear; a crop of 5 % and 2 degrees need 0.06
MAX_SHIFT = 0.1  # of the edge
ALIKE_AT_HALF = 0.9  # correlation at half the resolution below which no copy was seen

Maps = NDArray[np.float64]  # (N, 3, 3): where each pixel of the template lies in an image


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlations:
    """How the candidates `numbers` (K,) agree with a template after alignment, from -1 to 1.

    `whole` (K,) is the correlation of the pixels. `own` (K,) is that of what the controls do not
    explain: parts of one product share their shape, but only a copy shares texture and noise.
    """

    numbers: NDArray[np.int64]
    whole: NDArray[np.float64]
    own: NDArray[np.float64]


class Template:
    """An image that others are aligned with, and what the steps need of it."""

    def __init__(self, image: Floats) -> None:
        edge = image.shape[-1]
        border = round(BORDER * edge)
        self.edge = edge
        self.inside = (slice(border, edge - border),) * 2

        rows, columns = np.mgrid[0:edge, 0:edge].astype(np.float32) - np.float32((edge - 1) / 2)
        ones = np.ones_like(rows)
        self.grid = np.stack([grid[self.inside].ravel() for grid in (rows, columns, ones)])

        down = np.gradient(image, axis=0)[self.inside].ravel()
        right = np.gradient(image, axis=1)[self.inside].ravel()
        slopes = np.concatenate([down * self.grid, right * self.grid])
        self.solve = (np.linalg.pinv(slopes @ slopes.T, hermitian=True) @ slopes).T

        pixels = image[self.inside].ravel()
        self.pixels = pixels - pixels.mean()
        self.norm = np.linalg.norm(self.pixels) + 1e-6

    def sample(self, images: Floats, maps: Maps) -> Floats:
        """Return the pixels of images (N, edge, edge) under the template's, (N, pixels)."""
        edge = self.edge
        centre = np.float32((edge - 1) / 2)
        y, x = (maps[:, :2].astype(np.float32) @ self.grid).transpose(1, 0, 2) + centre
        np.clip(y, 0, edge - 1.001, out=y)
        np.clip(x, 0, edge - 1.001, out=x)

        top = y.astype(np.int32)
        left = x.astype(np.int32)
        y -= top
        x -= left
        first = (np.arange(len(images), dtype=np.int32) * edge**2)[:, None]
        at = first + top * edge + left

        flat = np.ascontiguousarray(images).reshape(-1)
        upper = flat[at] + (flat[at + 1] - flat[at]) * x
        at += edge
        lower = flat[at] + (flat[at + 1] - flat[at]) * x
        sampled: Floats = upper + (lower - upper) * y
        return sampled

    def improve(self, images: Floats, maps: Maps, steps: int) -> Maps:
        """Return better maps of the images. A map that goes too far stays as it was."""
        for _ in range(steps):
            sampled = self.sample(images, maps)
            sampled -= sampled.mean(axis=1, keepdims=True)
            sampled *= self.norm / (np.linalg.norm(sampled, axis=1, keepdims=True) + 1e-6)

            change = np.tile(np.eye(3), (len(images), 1, 1))
            change[:, :2] += ((sampled - self.pixels) @ self.solve).reshape(-1, 2, 3)
            better = maps @ np.linalg.inv(change)
            maps = np.where(self._is_small(better)[:, None, None], better, maps)

        return maps

    def correlate(self, sampled: Floats) -> NDArray[np.float64]:
        """Return the correlation of sampled pixels (N, pixels) with the template's, (N,)."""
        return correlation(self.pixels, sampled)

    def _is_small(self, maps: Maps) -> NDArray[np.bool_]:
        change = np.abs(maps[:, :2, :2] - np.eye(2)).max(axis=(1, 2))
        shift = np.abs(maps[:, :2, 2]).max(axis=1)
        is_small: NDArray[np.bool_] = (change < MAX_CHANGE) & (shift < MAX_SHIFT * self.edge)
        return is_small


def compare(template: Floats, candidates: Floats, controls: Floats) -> Correlations:
    """Return how the best of the candidates (K, edge, edge) agree with the template.

    The best MOST_FINE ones at half the resolution are aligned at the full one. Unlike candidates
    keep the correlation that they have at half the resolution.
    """
    half = Template(_halve(template))
    halves = _halve(candidates)
    maps = half.improve(halves, _identity(len(candidates)), COARSE_STEPS)
    at_half = half.correlate(half.sample(halves, maps))

    best = np.argsort(-at_half, kind="stable")[:MOST_FINE]
    whole = at_half[best]
    own = whole.copy()
    alike = whole >= ALIKE_AT_HALF
    if not alike.any():
        return Correlations(
            numbers=best,
            whole=whole,
            own=own,
        )

    chosen = best[alike]
    control_maps = half.improve(_halve(controls), _identity(len(controls)), COARSE_STEPS)
    images = np.concatenate([candidates[chosen], controls])
    maps = np.concatenate([maps[chosen], control_maps])
    maps[:, :2, 2] *= 2

    full = Template(template)
    sampled = full.sample(images, full.improve(images, maps, FINE_STEPS))
    sampled, sampled_controls = sampled[: chosen.size], sampled[chosen.size :]
    whole[alike] = full.correlate(sampled)
    own[alike] = _correlate_rest(full.pixels, sampled, sampled_controls)

    return Correlations(
        numbers=best,
        whole=whole,
        own=own,
    )


def correlation(pixels: NDArray[Any], others: NDArray[Any]) -> NDArray[np.float64]:
    """Return the correlation of pixels (P,) with each of `others` (N, P)."""
    centred = pixels - pixels.mean()
    deviations = others - others.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(centred) * np.linalg.norm(deviations, axis=1)

    result: NDArray[np.float64] = (deviations @ centred / (norms + 1e-9)).astype(np.float64)
    return result


def _correlate_rest(pixels: Floats, candidates: Floats, controls: Floats) -> NDArray[np.float64]:
    """Return the correlations of what no mixture of the controls explains (partial correlation)."""
    known = np.vstack([controls, np.ones_like(pixels)])
    basis, _ = np.linalg.qr(known.T)
    rest = pixels - basis @ (basis.T @ pixels)
    rests = candidates - (candidates @ basis) @ basis.T

    return correlation(rest, rests)


def _halve(images: Floats) -> Floats:
    """Return images (..., edge, edge) at half the resolution."""
    edge = images.shape[-1] // 2
    halves: Floats = images.reshape(*images.shape[:-2], edge, 2, edge, 2).mean(axis=(-3, -1))
    return halves


def _identity(number: int) -> Maps:
    return np.tile(np.eye(3), (number, 1, 1))
