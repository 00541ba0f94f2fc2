"""Pictures that belong to no manifest, judged by a finished cell."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vlmbench.cell import Cell, build, engine_of, require_machine, wording_of
from vlmbench.data.pictures import open_picture
from vlmbench.data.prompts import Wording
from vlmbench.evaluate import predict
from vlmbench.rundir import RunDir
from vlmbench.types import Record, Sample, Task, UserError

log = logging.getLogger(__name__)


def predict_pictures(cell: Cell) -> None:
    """Judge the pictures of `images` with the finished cell of `run`: a reference and a query, or one picture."""
    config = cell.config
    if not config.images or len(config.images) > 2:
        raise UserError(
            f"images={config.images}: give the reference and the query, or one picture: images=[a.png,b.png]"
        )
    finished = RunDir(Path(config.run or ""))
    if config.run is None or not finished.adapter.exists():
        raise UserError(
            f"run={config.run}: there is no finished run in this folder; name one with run=runs/<sweep>/<cell>"
        )
    require_machine(cell)
    engine, _ = engine_of(cell)
    backbone = build(cell, engine, adapter=finished.adapter)
    wording = wording_of(config)
    sample = _loose_sample(config.images, wording)
    (prediction,) = predict(
        backbone,
        [sample.record],
        open_sample=lambda record: sample,
        shown=lambda image: str(image.path),
        wording=wording,
        settings=config.eval,
        title=None,
    )
    sentence = backbone.generate([sample], max_new_tokens=config.eval.max_new_tokens)[0]
    scores = {label: round(float(np.exp(score)), 4) for label, score in prediction.scores.items()}
    log.info("%s", json.dumps({"label": prediction.predicted, "probabilities": scores, "answer": sentence}))


def _loose_sample(paths: Sequence[str], wording: Wording) -> Sample:
    """A sample of pictures that belong to no manifest; the label is not known."""
    task = Task.JUDGE_PAIR if len(paths) == 2 else Task.JUDGE_SINGLE
    record = Record(id="+".join(paths), task=task, images=(), answer="normal", label="normal", group="")
    images = tuple(open_picture(Path(path)) for path in paths)
    return Sample(record=record, images=images, question=wording.question(record), answer=wording.answer(record))
