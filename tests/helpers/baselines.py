"""Answers of baselines in a sweep's folder, and features without a tower."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vlmbench.baselines.contract import Given
from vlmbench.runs.baselines import BaselineDir, BaselineFacts, HeatKey, baseline_dir
from vlmbench.runs.folder import RunDir
from vlmbench.types import ImageRef, Prediction, Probe, Record, Role, Task

KEY = "0123456789abcdef" * 2


class FakeFeatures:
    """Gives maps and numbers by the path of an image."""

    seconds = 0.0

    def __init__(self, by_path: dict[str, Any]) -> None:
        self.by_path = by_path

    def maps(self, records: Sequence[Record]) -> Iterator[tuple[Any, ...]]:
        for record in records:
            yield tuple(self.by_path[image.path.name] for image in record.images)

    pooled = maps


def pair(number: int, label: str, part: str | None = None) -> Record:
    """Return a pair of the images `<number>-ref` and `<number>-query`."""
    images = tuple(
        ImageRef(path=Path(f"/x/{number}-{name}"), role=role, view="raw")
        for name, role in (("ref", Role.REFERENCE), ("query", Role.QUERY))
    )
    return Record(
        id=f"r{number}",
        task=Task.JUDGE_PAIR,
        images=images,
        answer=label,
        label=label,
        group=part or f"part-{number}",
    )


def given(train: Sequence[Record], features: Any = None, ask: Callable[..., Any] = list) -> Given:
    return Given(
        task=Task.JUDGE_PAIR,
        view="raw",
        train=train,
        features=features,
        open_images=lambda record: (),
        ask_untuned=ask,
    )


def keep_baseline(
    sweep: Path,
    name: str,
    predictions: Sequence[Prediction],
    *,
    key: str = KEY,
    validation: Sequence[Prediction] = (),
    heat: dict[HeatKey, Any] | None = None,
    marked: dict[HeatKey, Any] | None = None,
    **facts: Any,
) -> BaselineDir:
    """Write the answers of a baseline into a sweep's folder."""
    folder = baseline_dir(sweep, key)
    known = {"title": f"about {name}", "seconds": {"features": 1.0, "fit": 0.5, "answers": 0.25}}
    folder.write(
        BaselineFacts(name=name, **known | facts),
        validation=validation,
        predictions=predictions,
        heat=heat or {},
        marked=marked,
    )
    return folder


def with_margins(
    predictions: Sequence[Prediction], margin: Callable[[Prediction], float]
) -> list[Prediction]:
    """Return the ordinary pair predictions with these log-odds of "abnormal"."""
    return [
        replace(each, scores={"normal": 0.0, "abnormal": margin(each)}, predicted="abnormal")
        for each in predictions
        if each.task is Task.JUDGE_PAIR and each.probe is Probe.NONE
    ]


def sign(prediction: Prediction) -> float:
    """Return 1 for a truly abnormal record, else -1."""
    return 1.0 if prediction.expected == "abnormal" else -1.0


def share_key(run: RunDir, **names: str) -> None:
    """Name the baselines of a run by their keys."""
    run.write_baselines({name: {"key": key} for name, key in names.items()})


def heat_map(rows: int = 4, columns: int = 4) -> Any:
    return np.arange(rows * columns, dtype=np.uint8).reshape(rows, columns)
