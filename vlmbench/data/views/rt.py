"""The Recognition-Taguchi metric in every local window, as a picture.

An open stand-in for image processing of the Taguchi tradition. The article that vlmbench follows used an algorithm,
N-SOARTC, that was never published; this is not that algorithm.

For the k pixels x of a window and the same pixels m of the mean pattern of normal pictures (Taguchi's RT method):
    L = sum(m x)    r = sum(m^2)    S_T = sum(x^2)
    sensitivity  Y1 = L / r                           how bright the window is against the pattern
    error        V_e = (S_T - L^2 / r) / (k - 1)      what the pattern, scaled by Y1, does not explain
    Y2 = sqrt(V_e)
The processed picture holds Y1 in red, Y2 in green and the grey picture in blue.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vlmbench.config import ViewConfig, check_range, schema
from vlmbench.types import UserError

Floats = NDArray[np.float64]

# Fixed, so that one defect looks the same in every picture: stretching each picture to full contrast would hide how
# strong its effect is.
Y1_FULL = 2.0  # the sensitivity shown as 255: twice as bright as the pattern
Y2_FULL = 64.0  # the error shown as 255, grey levels
REVISION = 1  # raise it when the same fields give other pixels


@schema("view", "rt")
@dataclass(kw_only=True)
class RTConfig(ViewConfig):
    """conf/view/rt.yaml."""

    name: str = "rt"
    window: int = 9
    size: int = 160

    def __post_init__(self) -> None:
        check_range("view.window", self.window, 3)
        check_range("view.size", self.size, 8)
        if self.window % 2 == 0:
            raise UserError(
                f"view.window={self.window}: a window has a middle pixel; set view.window={self.window + 1}"
            )

    def build(self, references: Sequence[Path]) -> Callable[[Image.Image], Image.Image]:
        """The view whose pattern is the mean of `references`, each as a grey picture of `size` x `size` pixels.

        The pattern is stretched to each shown picture's own size.
        """
        if not references:
            raise UserError(
                "view.rt: the training side has no reference picture to take the pattern from; set view=raw"
            )
        total = np.zeros((self.size, self.size), np.int64)  # whole numbers: the sum does not depend on the order
        for path in references:
            with Image.open(path) as image:
                total += np.asarray(image.convert("L").resize((self.size, self.size), Image.Resampling.BILINEAR))
        return RecognitionTaguchi(pattern=total / len(references), window=self.window)

    def fingerprint(self, references: Sequence[str]) -> str:
        """The same for the same references in any order."""
        content = json.dumps([REVISION, asdict(self), sorted(references)], sort_keys=True)
        return sha256(content.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class RecognitionTaguchi:
    """The view as a function of a picture. `pattern`: grey levels 0 to 255, (rows, columns)."""

    pattern: Floats
    window: int

    def __call__(self, image: Image.Image) -> Image.Image:
        """The processed picture, RGB, of the same size."""
        grey = image.convert("L")
        pattern = Image.fromarray(self.pattern.astype(np.float32)).resize(grey.size, Image.Resampling.BILINEAR)
        y1, y2 = sensitivity_and_error(
            np.asarray(grey, np.float64), np.asarray(pattern, np.float64), window=self.window
        )
        channels = [y1 * (255 / Y1_FULL), y2 * (255 / Y2_FULL)]
        red, green = (Image.fromarray((channel.clip(0, 255) + 0.5).astype(np.uint8)) for channel in channels)
        return Image.merge("RGB", (red, green, grey))


def sensitivity_and_error(picture: Floats, pattern: Floats, *, window: int) -> tuple[Floats, Floats]:
    """Y1 and Y2 around every pixel, in windows of `window` x `window` pixels, edges mirrored.

    Where the pattern is black all over the window nothing can be scaled: Y1 is 0 and all of S_T is error.
    """
    k = window * window

    def window_sum(values: Floats) -> Floats:
        from scipy.ndimage import uniform_filter  # late: it takes half a second

        result: Floats = k * uniform_filter(values, window, mode="reflect")
        return result

    linear = window_sum(pattern * picture)
    norm = window_sum(pattern * pattern)
    lit = norm > 1e-6
    y1 = np.divide(linear, norm, out=np.zeros_like(linear), where=lit)
    error = (window_sum(picture * picture) - y1 * linear) / (k - 1)
    return y1, np.sqrt(np.maximum(error, 0.0))  # running sums round to just below 0 where picture and pattern agree
