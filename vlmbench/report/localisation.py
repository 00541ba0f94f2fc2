"""Does the heat map of a baseline find the marked defects?"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlmbench.data.defect_masks import shrink_mask
from vlmbench.metrics import MetricInfo
from vlmbench.report.baseline_answers import AskedBaseline, TaskView
from vlmbench.report.figures import Figure
from vlmbench.report.scores import RESAMPLING_SEED
from vlmbench.report.tables import task_view_title
from vlmbench.runs.baselines import HeatKey
from vlmbench.stats import estimate, estimate_rate
from vlmbench.types import LABELS, Prediction, Rate, UserError

log = logging.getLogger(__name__)

LEVELS = 256  # of a heat map in bytes

PIXEL_AUROC = MetricInfo(
    name="pixel_auroc",
    title="Pixel AUROC",
    unit="index",
    better="higher",
    meaning="Probability that a patch in a marked defect is hotter than a patch outside; 0.5 is "
    "chance.",
)
POINTING_GAME = MetricInfo(
    name="pointing_game",
    title="Pointing game",
    unit="share",
    better="higher",
    meaning="Share of marked defects that contain the hottest patch of their image (Zhang et al. "
    "2018).",
)
NOTE = (
    "Both figures are at the resolution of the heat map: a patch is in the defect if the mask or "
    "box touches it. All patches of a normal image are outside. Abnormal images without a mask are "
    "left out. The intervals keep images of one part together."
)

Counts = NDArray[np.int32 | np.int64]
Heat = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Localisation:
    """The figures of one baseline's heat maps on one task and view."""

    name: str
    title: str
    figures: tuple[Figure, ...]
    note: str = NOTE

    def to_row(self) -> dict[str, Any]:
        """Return the row of verdicts.json."""
        keys = ("value", "low", "high", "n", "n_parts")
        figures = {
            figure.metric.name: {key: getattr(figure, key) for key in keys}
            for figure in self.figures
        }
        return {"baseline": self.name, "records": self.title, **figures}


def localisations(baselines: Sequence[AskedBaseline]) -> Iterator[Localisation]:
    """Yield the figures of each baseline, task and view that has heat maps of marked defects.

    A baseline whose maps are damaged is logged and left out.
    """
    for baseline in baselines:
        try:
            marked = baseline.read_marked()
            heat = baseline.read_heat() if marked else {}
        except UserError as error:  # the other figures are worth more
            log.warning("%s", error)
            continue

        for kind, predictions in baseline.answers.items():
            figures = _figures(kind, predictions, heat, marked)
            if figures:
                yield Localisation(
                    name=baseline.name,
                    title=task_view_title(*kind),
                    figures=figures,
                )


def _figures(
    kind: TaskView,
    predictions: Sequence[Prediction],
    heat: Mapping[HeatKey, Heat],
    marked: Mapping[HeatKey, Mask],
) -> tuple[Figure, ...]:
    """Return the pixel AUROC and the pointing game; () without a marked defect."""
    negative, _ = LABELS[kind[0]]
    used: list[Prediction] = []
    counts: list[Counts] = []
    hits: dict[int, bool] = {}

    for prediction in predictions:
        key = prediction.id, *kind
        is_normal = prediction.expected == negative
        if key not in heat or not (is_normal or key in marked):
            continue

        values = heat[key]
        mask = np.zeros(values.shape, np.bool_)
        if not is_normal:
            mask = shrink_mask(marked[key], *values.shape)
            # Equally hot patches count as a hit only if all of them are in the defect.
            hits[len(used)] = bool(mask[values == values.max()].all())
        used.append(prediction)
        counts.append(count_levels(values, mask))

    if not hits:
        return ()

    histograms = np.stack(counts)
    slots = {id(prediction): slot for slot, prediction in enumerate(used)}

    def measure(drawn: Sequence[Prediction]) -> dict[str, float]:
        sums = histograms[[slots[id(each)] for each in drawn]].sum(0, dtype=np.int64)
        area = area_of(sums)
        return {} if area is None else {PIXEL_AUROC.name: area}

    found = estimate(measure, used, seed=RESAMPLING_SEED)
    parts = tuple(used[slot].cluster for slot in hits)
    pointing = estimate_rate(Rate(hits=tuple(hits.values()), parts=parts))
    area = asdict(found[PIXEL_AUROC.name]) if found else {}
    return Figure(metric=PIXEL_AUROC, **area), Figure(metric=POINTING_GAME, **asdict(pointing))


def count_levels(heat: Heat, mask: Mask) -> Counts:
    """Return how many patches outside of the mask and in it have each value, (2, LEVELS)."""
    boxes = heat.astype(np.intp) + LEVELS * mask
    numbers = np.bincount(boxes.ravel(), minlength=2 * LEVELS)
    return numbers.reshape(2, LEVELS).astype(np.int32)


def area_of(counts: Counts) -> float | None:
    """Return the area under the ROC curve of `count_levels`; None without both kinds of patch.

    Equal values count one half (Mann & Whitney 1947).
    """
    outside, inside = counts
    pairs = int(outside.sum()) * int(inside.sum())
    if pairs == 0:
        return None

    below = np.cumsum(outside) - outside
    return float(inside @ (below + outside / 2)) / pairs
