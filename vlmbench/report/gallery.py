"""The worst errors: wrong answers that the model was most sure of, with their pictures."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from vlmbench.report.cells import Cell
from vlmbench.types import Prediction, Probe, Task

THUMBNAIL = 224  # pixels of the longer side: two of them fit a phone
MAIN_ERRORS = 6  # of judge_pair, in each cell
OTHER_ERRORS = 2  # of each other task, and of each control whose right answer is known beforehand
CONTROLS = (Probe.SELF, Probe.BLANK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """`uri` is "" where the file cannot be shown; `blank` is the grey picture of a blank reference."""

    caption: str
    name: str
    uri: str = ""
    blank: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    prediction: Prediction
    confidence: float | None
    pictures: tuple[Picture, ...]

    @property
    def said(self) -> str:
        """What the model answered: the label, else the words that name none."""
        return self.prediction.predicted or self.prediction.text or "no label"

    @property
    def sureness(self) -> str:
        return "" if self.confidence is None else f"{100 * self.confidence:.0f} % sure"

    @property
    def about(self) -> str:
        """Which record this is, and what is known of it."""
        p = self.prediction
        control = "" if p.probe == Probe.NONE else f"control: {p.probe}"
        defect = f"defect: {p.meta['defect']}" if p.meta.get("defect") else ""
        return " · ".join(part for part in (p.task.replace("_", " "), p.view, control, defect, p.id) if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """`total` counts all of the cell's wrong answers to ordinary records."""

    cell: Cell
    mistakes: tuple[Mistake, ...]
    total: int


def galleries(cells: Sequence[Cell]) -> list[Gallery]:
    """One for each finished cell that has predictions."""
    return [_gallery(cell) for cell in cells if cell.finished and cell.predictions]


def confidence(prediction: Prediction) -> float | None:
    """Probability that the model gave to its answer, among the labels; None without scores."""
    chosen = prediction.scores.get(prediction.predicted or "")
    if chosen is None:
        return None
    return 1.0 / sum(math.exp(min(score - chosen, 700.0)) for score in prediction.scores.values())


def _gallery(cell: Cell) -> Gallery:
    wrong = sorted((p for p in cell.predictions if not p.correct), key=lambda p: (-(confidence(p) or 0.0), p.id))
    ordinary = [p for p in wrong if p.probe == Probe.NONE]
    worst: list[Prediction] = []
    for task in Task:
        worst += [p for p in ordinary if p.task == task][: MAIN_ERRORS if task == Task.JUDGE_PAIR else OTHER_ERRORS]
    for control in CONTROLS:
        worst += [p for p in wrong if p.probe == control][:OTHER_ERRORS]
    return Gallery(cell=cell, mistakes=tuple(_mistake(p) for p in worst), total=len(ordinary))


def _mistake(prediction: Prediction) -> Mistake:
    captions = ("reference", "query") if len(prediction.images) == 2 else ("query",) * len(prediction.images)
    pictures = (picture_of(path, caption) for path, caption in zip(prediction.images, captions, strict=True))
    return Mistake(prediction=prediction, confidence=confidence(prediction), pictures=tuple(pictures))


def picture_of(path: str, caption: str) -> Picture:
    """The picture of a file made small, or what stands for it."""
    if path == "":
        return Picture(caption=caption, name="blank", blank=True)
    return Picture(caption=caption, name=Path(path).name, uri=_thumbnail(path))


@lru_cache(maxsize=512)  # cells of one sweep fail on the same pictures
def _thumbnail(path: str) -> str:
    """A data URI of the picture made small; "" where the file is missing or is no picture."""
    try:
        with Image.open(path) as image:
            small = _eight_bit(image)
            small.thumbnail((THUMBNAIL, THUMBNAIL))
            small = ImageOps.exif_transpose(small)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # what Pillow raises for a broken file
        return ""
    target = BytesIO()
    small.convert("RGB").save(target, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(target.getvalue()).decode('ascii')}"


def _eight_bit(image: Image.Image) -> Image.Image:
    """Pillow shows every 16-bit grey above 255 as white: keep the upper byte instead."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    return image
