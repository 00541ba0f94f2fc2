"""Find the images that may be copies: a cheap search that comes before the comparison of pixels.

Two descriptors are searched. The coarse one (low frequencies) finds copies whatever their turn. The
spectrum ignores shifts. It finds copies among images of one product, which are all alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlmbench.data.likeness.detail import (
    BLOCK,
    NUM_ORIENTATIONS,
    Floats,
    orient,
)

FREQUENCIES = 10  # of the cosine transform along each edge
SPECTRUM = 10  # frequencies of the spectrum
HALF_TURN = 2  # orientations apart; a spectrum is the same after half a turn
SPECTRUM_ORIENTATIONS = (0, 1, 4, 5)

EACH = 3  # candidates of each descriptor
NEIGHBOURS = 15  # images that look roughly alike; the last ones are controls, not the copies
NUM_CONTROLS = 3
QUERIES = 128  # images that are searched for at once: 10 MB for each of 20,000 images

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """The images that may be copies of image `query`, and controls, each with an orientation.

    Turned by its orientation, an image looks like the query.
    """

    query: int
    images: Indices
    orientations: Indices
    controls: Indices
    control_orientations: Indices


class Search:
    """Descriptors of N images, and the search among them.

    `features` (N, numbers) of a vision tower add a third descriptor.
    """

    def __init__(
        self,
        thumbnails: NDArray[np.uint8],
        images: NDArray[np.float16],
        features: NDArray[np.floating] | None = None,
    ) -> None:
        self.coarse = _coarse(thumbnails)
        self.spectra = _spectra(images)
        self.features = None if features is None else _unit(_standardise(features))

    def candidates(self, queries: Indices, apart: NDArray[np.int64]) -> Iterator[Candidates]:
        """Yield the candidates of each query: images with another value of `apart` (N,)."""
        for start in range(0, len(queries), QUERIES):
            block = queries[start : start + QUERIES]
            same = apart[block, None] == apart[None, :]
            coarse, coarse_orientations = _best_orientation(self.coarse, block, same)
            spectra, spectrum_orientations = _best_orientation(self.spectra, block, same)
            features = None
            if self.features is not None:
                features = self.features[block] @ self.features.T
                features[same] = -np.inf

            for row, query in enumerate(block.tolist()):
                ranked = _largest(coarse[row], NEIGHBOURS)
                near = _largest(spectra[row], EACH)
                turns = self._turn(query, near, spectrum_orientations[row, near])
                images = [ranked[:EACH], near]
                orientations = [coarse_orientations[row, ranked[:EACH]], turns]

                if features is not None:
                    by_feature = _largest(features[row], EACH)
                    images.append(by_feature)
                    orientations.append(coarse_orientations[row, by_feature])

                rest = ranked[~np.isin(ranked, np.concatenate(images))]
                controls = rest[-NUM_CONTROLS:]
                yield _candidates(
                    query,
                    np.concatenate(images),
                    np.concatenate(orientations),
                    controls,
                    coarse_orientations[row, controls],
                )

    def _turn(self, query: int, images: Indices, numbers: Indices) -> Indices:
        """Return the orientations of images whose spectrum leaves two: the one that looks alike."""
        first = np.array(SPECTRUM_ORIENTATIONS)[numbers]
        second = first + HALF_TURN
        coarse = self.coarse[0, query]
        scores = [self.coarse[turned, images] @ coarse for turned in (first, second)]

        turned: Indices = np.where(scores[0] >= scores[1], first, second)
        return turned


def _candidates(
    query: int,
    images: Indices,
    orientations: Indices,
    controls: Indices,
    control_orientations: Indices,
) -> Candidates:
    """Return the candidates, each (image, orientation) once."""
    keys = images * NUM_ORIENTATIONS + orientations
    _, first = np.unique(keys, return_index=True)
    return Candidates(
        query=query,
        images=images[first],
        orientations=orientations[first],
        controls=controls,
        control_orientations=control_orientations,
    )


def _best_orientation(
    descriptors: Floats, block: Indices, same: NDArray[np.bool_]
) -> tuple[Floats, Indices]:
    """Return the similarity of each query to each image (Q, N), and the orientation it takes.

    Images of the `same` value as the query get -infinity.
    """
    queries = descriptors[0, block]
    best = queries @ descriptors[0].T
    orientations = np.zeros(best.shape, np.int64)
    for orientation in range(1, len(descriptors)):
        scores = queries @ descriptors[orientation].T
        better = scores > best
        best[better] = scores[better]
        orientations[better] = orientation

    best[same] = -np.inf
    return best, orientations


def _largest(scores: Floats, number: int) -> Indices:
    """Return the indices of the largest scores in falling order, without those of -infinity."""
    number = min(number, len(scores))
    indices = np.argpartition(-scores, number - 1)[:number]
    ordered = indices[np.argsort(-scores[indices], kind="stable")]
    return ordered[scores[ordered] > -np.inf].astype(np.int64)


def _coarse(thumbnails: NDArray[np.uint8]) -> Floats:
    """Return the low frequencies of the cosine transform in each orientation, (8, N, 99)."""
    edge = thumbnails.shape[-1]
    waves = np.arange(FREQUENCIES)[:, None] * (np.arange(edge) + 0.5) * (np.pi / edge)
    basis = np.cos(waves).astype(np.float32)

    result = np.empty((NUM_ORIENTATIONS, len(thumbnails), FREQUENCIES**2 - 1), np.float32)
    for start in range(0, len(thumbnails), BLOCK):
        block = slice(start, start + BLOCK)
        grey = thumbnails[block].astype(np.float32)
        for orientation in range(NUM_ORIENTATIONS):
            turned = orient(grey, orientation)
            frequencies = (basis @ turned @ basis.T).reshape(len(turned), -1)
            result[orientation, block] = _unit(frequencies[:, 1:])

    return result


def _spectra(images: NDArray[np.float16]) -> Floats:
    """Return the standardised log amplitudes of low frequencies in four orientations, (4, N, F)."""
    edge = images.shape[-1]
    window = np.sqrt(np.hanning(edge + 2)[1:-1]).astype(np.float32)
    result = []
    for orientation in SPECTRUM_ORIENTATIONS:
        parts = []
        for start in range(0, len(images), BLOCK):
            block = images[start : start + BLOCK].astype(np.float32)
            turned = orient(block, orientation) * np.outer(window, window)
            amplitudes = np.abs(np.fft.rfft2(turned))[:, :, : SPECTRUM + 1]
            low = np.concatenate([amplitudes[:, -SPECTRUM:], amplitudes[:, : SPECTRUM + 1]], axis=1)
            parts.append(np.log1p(low).reshape(len(block), -1).astype(np.float32))
        result.append(np.concatenate(parts))

    return _unit(_standardise(np.stack(result)))


def _standardise(values: NDArray[np.floating]) -> Floats:
    """Return values (..., numbers) with mean 0 and standard deviation 1 in each number."""
    axes = tuple(range(values.ndim - 1))
    centred = values - values.mean(axis=axes)
    standardised: Floats = (centred / (values.std(axis=axes) + 1e-6)).astype(np.float32)
    return standardised


def _unit(vectors: NDArray[np.floating]) -> Floats:
    """Return vectors (..., numbers) of length 1."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    units: Floats = (vectors / (norms + 1e-6)).astype(np.float32)
    return units
