"""Feature maps: what a vision tower sees at each location of an image.

Baselines read them. A family without a map raises NoFeaturesError, and such baselines are left out.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vlmbench.types import UserError

if TYPE_CHECKING:
    from torch import Tensor

FeatureMap = NDArray[np.float32]  # (rows, columns, channels)
Features = NDArray[np.float32]  # (numbers,)


class NoFeaturesError(UserError):
    """The family cannot show what its tower sees at each location."""


def to_host(features: Tensor) -> NDArray[np.float32]:
    """Return a tensor of any type and device as float32 in the host's memory."""
    host: NDArray[np.float32] = features.detach().float().cpu().numpy()
    return host


def crop_map(grid: Tensor, *, canvas: tuple[int, int], box: tuple[int, int, int, int]) -> Tensor:
    """Return the part of a map (rows, columns, channels) that shows the image itself.

    `canvas` is the (width, height) that the whole map shows, `box` the image in it: left, top,
    right and bottom, in pixels. Patches that hold a part of the image stay.
    """
    rows, columns = grid.shape[:2]
    (width, height), (left, top, right, bottom) = canvas, box

    first_row, last_row = top * rows // height, math.ceil(bottom * rows / height)
    first_column, last_column = left * columns // width, math.ceil(right * columns / width)
    return grid[first_row:last_row, first_column:last_column]


def square_map(states: Any, family: str) -> Tensor:
    """Return the map (edge, edge, channels) of a tower's states (1, tokens, channels).

    A class token before the patches is left out. Raise NoFeaturesError for another shape.
    """
    shape = tuple(getattr(states, "shape", ()))
    if len(shape) == 3 and shape[0] == 1:
        for num_extra in (0, 1):
            edge = math.isqrt(shape[1] - num_extra)
            if edge > 0 and edge * edge == shape[1] - num_extra:
                patches: Tensor = states[0, num_extra:].unflatten(0, (edge, edge))
                return patches

    raise NoFeaturesError(
        f"the vision tower of {family} returns states of shape {shape}, which are no square map; "
        "give its backbone a method feature_maps"
    )


def pool_map(feature_map: FeatureMap) -> Features:
    """Return the mean and the maximum over all locations: (2 * channels,)."""
    return np.concatenate([feature_map.mean((0, 1)), feature_map.max((0, 1))])
