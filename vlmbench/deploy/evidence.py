"""The answer of the served page to dropped images: the judgement, and controls of its grounds."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlmbench.baselines.features import TowerFeatures
from vlmbench.baselines.patch_nn import PatchNNConfig
from vlmbench.deploy.loaded import LoadedRun
from vlmbench.deploy.outputs import row_of
from vlmbench.deploy.requests import image_record
from vlmbench.report.images import Thumbnail, heat_thumbnail, tile_thumbnails
from vlmbench.runs.baselines import baseline_dir, to_bytes
from vlmbench.runs.folder import RunDir
from vlmbench.types import LABELS, Judgement, Record, UserError

log = logging.getLogger(__name__)

# Key in the JSON answer -> words on the page, of each control in order.
CONTROLS = {
    "blank_reference": "with a grey image instead of the reference",
    "swapped": "with the two images swapped",
}
DIFFERENCE = (
    "Where patch_nn, a baseline that is not trained, sees a difference. "
    "This is not the evidence of the tuned model."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The judgement of dropped images, and the same model's answers to the CONTROLS.

    `difference` shows the query where the baseline patch_nn sees a difference, or the deciding tile
    if the images are cut.
    """

    judgement: Judgement
    controls: tuple[Judgement, ...]
    difference: Thumbnail | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values; images are given by their names alone."""
        names = [Path(path).name for path in self.judgement.images]
        row = row_of(self.judgement) | {"images": names}
        del row["id"], row["expected"], row["error"]

        controls = {
            name: {"label": control.decision, "score": control.score}
            for name, control in zip(CONTROLS, self.controls, strict=False)
        }
        positive = LABELS[self.judgement.task][1]
        return {**row, "positive_label": positive, "controls": controls}


def judge_images(loaded: LoadedRun, paths: Sequence[Path], *, view: str) -> Evidence:
    """Judge a reference and a query with their controls, or one image.

    Processed copies of the images are removed, whatever happens.
    """
    record = image_record("dropped", paths, view)
    try:
        (judgement,) = loaded.judge([record], sentence=True)
        return Evidence(
            judgement=judgement,
            controls=tuple(loaded.judge(_controls(record))),
            difference=_deciding_tile(judgement) or _difference(loaded, record, view),
        )
    finally:
        loaded.asker.viewer.forget()


def _deciding_tile(judgement: Judgement) -> Thumbnail | None:
    """Return the query with a line around the deciding tile; None if it is not cut."""
    if judgement.prediction is None:
        return None
    return next(iter(tile_thumbnails(judgement.prediction)), None)


def _difference(loaded: LoadedRun, record: Record, view: str) -> Thumbnail | None:
    """Return the query under the heat map of patch_nn; None if the run has no such baseline.

    The colours are those of the report: the hottest held-out location is the reddest.
    """
    method = loaded.run.config.baseline.get("patch_nn")
    hottest = _hottest(loaded.folder, f"{record.task} {view}")
    if not isinstance(method, PatchNNConfig) or hottest is None or len(record.images) < 2:
        return None

    viewer = loaded.asker.viewer
    images = [viewer.lazy_image(image, of=record.id) for image in record.images]
    features = TowerFeatures(loaded.asker.backbone, lambda _: images)
    ((reference, query),) = features.maps([record])
    heat = to_bytes(method.distances(reference, query), hottest)
    return heat_thumbnail(str(viewer.path(record.images[-1])), heat, DIFFERENCE)


def _hottest(folder: RunDir, kind: str) -> float | None:
    """Return the hottest held-out location of patch_nn; None without its answers in the sweep."""
    row = folder.read_baselines().get("patch_nn")
    if not isinstance(row, dict) or "key" not in row:
        return None

    try:
        return baseline_dir(folder.path.parent, row["key"]).read_facts().hottest.get(kind)
    except UserError as error:  # the judgement is worth more than this image
        log.warning("%s", error)
        return None


def _controls(record: Record) -> list[Record]:
    if len(record.images) < 2:
        return []

    reference, query = record.images
    pairs = {
        "blank_reference": (replace(reference, blank=True), query),
        "swapped": (query, reference),
    }
    return [replace(record, id=name, images=pairs[name]) for name in CONTROLS]
