"""The Recognition-Taguchi metric in every local window, as an image.

This is an open stand-in for image processing of the Taguchi tradition. The article that vlmbench
follows used an unpublished algorithm, N-SOARTC. This is not that algorithm.

For the k pixels x of a window, and the same pixels m of the mean pattern of normal images
(Taguchi's RT method):
    L = sum(m x)    r = sum(m^2)    S_T = sum(x^2)
    sensitivity  Y1 = L / r                       the window's brightness relative to the pattern
    error        V_e = (S_T - L^2 / r) / (k - 1)  what the pattern, scaled by Y1, does not explain
    Y2 = sqrt(V_e)
The processed image holds Y1 in red, Y2 in green and the grey image in blue.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlmbench.config import TILE_SETTINGS, ViewConfig, schema, setting
from vlmbench.data.images import FORMATS
from vlmbench.types import UserError

Floats = NDArray[np.float64]

# These scales are fixed, so that one defect looks the same in every image. A stretch of each image
# to full contrast would hide how strong a defect is.
Y1_FULL = 2.0  # the sensitivity shown as 255: twice as bright as the pattern
Y2_FULL = 64.0  # the error shown as 255, grey levels
REVISION = 1  # raise it when the same fields give other pixels


@schema("view", "rt")
@dataclass(kw_only=True)
class RTConfig(ViewConfig):
    """Settings of conf/view/rt.yaml."""

    name: str = setting("rt", "Name of the processed view in records.")
    window: int = setting(9, "Edge of the local window in pixels, an odd number.", at_least=3)
    size: int = setting(160, "Edge of the averaged reference images, in pixels.", at_least=8)

    def __post_init__(self) -> None:
        super().__post_init__()

        if self.window % 2 == 0:
            raise UserError(
                f"view.window must be odd, got {self.window}; set view.window={self.window + 1}"
            )

    def build(self, references: Sequence[Path]) -> Callable[[Image.Image], Image.Image]:
        """Return the view whose pattern is the mean of the reference images.

        Each reference is averaged as a grey image of `size` x `size` pixels. The view stretches the
        pattern to the size of each shown image.
        """
        if not references:
            raise UserError(
                "view.rt: the training split has no reference image to make the pattern from; "
                "set view=raw"
            )

        total = np.zeros((self.size, self.size), np.int64)  # integers: the order does not matter
        for path in references:
            # Not by its path: Pillow maps some files, and a mapped file must not be cut.
            with Image.open(BytesIO(path.read_bytes()), formats=tuple(FORMATS)) as image:
                grey = image.convert("L")
            small = grey.resize((self.size, self.size), Image.Resampling.BILINEAR)
            total += np.asarray(small)

        return RecognitionTaguchi(pattern=total / len(references), window=self.window)

    def fingerprint(self, references: Sequence[str]) -> str:
        """Return a hash of the settings and the references, in any order."""
        settings = {key: value for key, value in asdict(self).items() if key not in TILE_SETTINGS}
        content = json.dumps([REVISION, settings, sorted(references)], sort_keys=True)
        return sha256(content.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class RecognitionTaguchi:
    """The view as a function of an image. `pattern`: grey levels 0 to 255, (rows, columns)."""

    pattern: Floats
    window: int

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the processed image, RGB, of the same size."""
        grey = image.convert("L")
        pattern_image = Image.fromarray(self.pattern.astype(np.float32))
        pattern = pattern_image.resize(grey.size, Image.Resampling.BILINEAR)

        y1, y2 = sensitivity_and_error(
            np.asarray(grey, np.float64), np.asarray(pattern, np.float64), window=self.window
        )
        red = _to_grey_image(y1 * (255 / Y1_FULL))
        green = _to_grey_image(y2 * (255 / Y2_FULL))
        return Image.merge("RGB", (red, green, grey))


def _to_grey_image(values: Floats) -> Image.Image:
    return Image.fromarray((values.clip(0, 255) + 0.5).astype(np.uint8))


def sensitivity_and_error(image: Floats, pattern: Floats, *, window: int) -> tuple[Floats, Floats]:
    """Return Y1 and Y2 around every pixel, in windows of `window` x `window` pixels.

    Edges are mirrored. If the pattern is black in the whole window, Y1 is 0 and all of S_T is
    error.
    """
    linear = _window_sums(pattern * image, window)
    norm = _window_sums(pattern * pattern, window)
    lit = norm > 1e-6
    y1 = np.divide(linear, norm, out=np.zeros_like(linear), where=lit)

    error = (_window_sums(image * image, window) - y1 * linear) / (window * window - 1)
    # Running sums round to just below 0 where image and pattern agree.
    return y1, np.sqrt(np.maximum(error, 0.0))


def _window_sums(values: Floats, window: int) -> Floats:
    from scipy.ndimage import uniform_filter  # late: the import takes half a second

    sums: Floats = window * window * uniform_filter(values, window, mode="reflect")
    return sums
