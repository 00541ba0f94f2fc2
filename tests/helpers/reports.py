"""Predictions, figures and logs of runs that a report shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from vlmbench.runs.folder import RunDir
from vlmbench.runs.sweep import SweepDir
from vlmbench.types import LABELS, Prediction, Probe, Task

DEFECTS = ("none", "scratch", "dent", "hole")


# Task, view, probe, records. The 1st variant has WRONG_WITHOUT errors of each kind, the 2nd has
# WRONG_WITH.
KINDS = (
    (Task.JUDGE_PAIR, "raw", Probe.NONE, 60),
    (Task.JUDGE_PAIR, "rt", Probe.NONE, 40),
    (Task.JUDGE_LINK, "raw+rt", Probe.NONE, 20),
    (Task.COMPARE_VIEWS, "raw+rt", Probe.NONE, 16),
    (Task.JUDGE_PAIR, "raw", Probe.SELF, 8),
    (Task.JUDGE_PAIR, "raw", Probe.BLANK, 8),
)


WRONG_WITHOUT = (18, 10, 9, 8, 1, 3)


WRONG_WITH = (12, 6, 5, 2, 1, 3)


QUESTION = "The first image is a good part. Is the part in the second image normal?"


RunMaker = Callable[..., RunDir]


LABEL_ERROR = (
    "mine.jsonl:812: label 'ng' is not one of normal, abnormal; "
    "fix the row or add it to source.labels"
)


HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>|`*[x](y)\n# \"'&\x1b[31m_"


def _draw_part(path: Path, index: int, defect: str) -> Path:
    rng = np.random.default_rng([7, index])
    image = Image.new("RGB", (160, 120), tuple(int(v) for v in rng.integers(40, 70, 3)))
    draw = ImageDraw.Draw(image)
    box = (28, 18, 132, 102)
    if index % 2:
        draw.rectangle(box, fill=(168, 172, 178))
    else:
        draw.ellipse(box, fill=(172, 168, 160))
    x, y = (int(v) for v in rng.integers(55, 75, 2))
    if defect == "scratch":
        draw.line((x - 15, y - 5, x + 30, y + 8), fill=(230, 232, 236), width=2)
    elif defect == "dent":
        draw.ellipse((x, y - 10, x + 16, y + 6), fill=(140, 142, 148))
    elif defect == "hole":
        draw.ellipse((x, y - 10, x + 12, y + 2), fill=(20, 20, 22))
    image.save(path)
    return path


def make_predictions(image_paths: Sequence[str], wrong: Sequence[int]) -> list[Prediction]:
    """Return predictions of each kind, the first `wrong` of them wrong.

    The confidence of the wrong answers falls from 95 % by 1 point each.
    """
    predictions = []
    for (task, view, probe, count), errors in zip(KINDS, wrong, strict=True):
        for i in range(count):
            expected = LABELS[task][0 if probe == Probe.SELF else i % 2]
            other = LABELS[task][1 - LABELS[task].index(expected)]
            predicted = other if i < errors else expected
            sure = 0.95 - 0.01 * i if i < errors else 0.8
            query = image_paths[i % len(image_paths)]
            reference = {Probe.BLANK: "", Probe.SELF: query}.get(probe, image_paths[4 * (i % 3)])
            predictions.append(
                Prediction(
                    id=f"{task}-{view}-{probe}-{i:03}",
                    task=task,
                    group=f"part-{i % 20:03}",
                    view=view,
                    expected=expected,
                    predicted=predicted,
                    scores={
                        predicted: math.log(sure),
                        (other if predicted == expected else expected): math.log(1 - sure),
                    },
                    probe=probe,
                    question=QUESTION,
                    answer=expected
                    if i % 2 == 0
                    else f"{expected}: a {DEFECTS[i % 3 + 1]} across the upper face",
                    images=(reference, query),
                    meta={"defect": DEFECTS[i % 4]},
                )
            )
    return predictions


def estimate(value: float, half: float, n: int, n_parts: int = 20) -> dict[str, Any]:
    return {
        "value": value,
        "low": round(max(0.0, value - half), 3),
        "high": round(min(1.0, value + half), 3),
        "n": n,
        "n_parts": n_parts,
    }


def make_metrics(better: float) -> dict[str, Any]:
    """Return metrics; `better` is added to the figures of the first variant."""
    pair = {
        "accuracy": estimate(0.7 + better, 0.11, 60),
        "balanced_accuracy": estimate(0.69 + better, 0.12, 60),
        "auroc": estimate(0.78 + better / 2, 0.1, 60),
        "miss_rate": estimate(0.333 - better, 0.16, 30),
        "overkill_rate": estimate(0.267 - better, 0.15, 30),
        "ece": estimate(0.123 - better / 4, 0.05, 60),
    }
    consistency = {
        "swap_symmetry": estimate(0.65 + better, 0.12, 60),
        "self_pair": estimate(0.875, 0.2, 8, 8),
        "transitivity": estimate(0.6 + better, 0.2, 24, 12),
        "other_reference_accuracy": estimate(0.625, 0.3, 60),
        "reference_flips": estimate(0.25, 0.3, 60),
        "blank_reference_accuracy": estimate(0.625, 0.3, 8, 8),
        "reference_gain": {
            "value": 0.075 + better,
            "low": -0.05,
            "high": 0.2,
            "n": 60,
            "n_parts": 20,
        },
    }
    accuracy = {"accuracy": estimate(0.55 + better, 0.21, 20)}
    scores = {
        "judge_pair": {
            "raw": pair | consistency,
            "rt": pair | {"accuracy": estimate(0.75 + better, 0.13, 40)},
        },
        "judge_link": {"raw+rt": accuracy | {"auroc": estimate(0.6, 0.2, 20)}},
        "compare_views": {"raw+rt": {"accuracy": estimate(0.5 + 3 * better, 0.2, 16)}},
    }
    return {
        "scores": scores,
        "data": {
            "train_records": 900,
            "train_tokens": 5400,
            "steps": 300,
            "by_task": {"judge_pair": 600, "compare_views": 300},
            "parts": {"train": 224, "val": 32, "test": 64},
            "splits": [
                {
                    "split": "train",
                    "task": "judge_pair",
                    "view": "raw",
                    "labels": {"abnormal": 448, "normal": 452},
                    "parts": 224,
                },
                {
                    "split": "test",
                    "task": "judge_pair",
                    "view": "raw",
                    "labels": {"abnormal": 30, "normal": 30},
                    "parts": 20,
                },
            ],
            "images": 1600,
            "leaks": {"found": 0, "first": []},
            "warnings": [],
        },
        "notes": [],
    }


def make_log(steps: int, floor: float) -> list[dict[str, Any]]:
    rng = np.random.default_rng([3, steps])
    rows: list[dict[str, Any]] = []
    for step in range(5, steps + 1, 5):
        loss = floor + 1.3 * math.exp(-step / 60) + 0.08 * float(rng.normal())
        rows.append(
            {
                "step": step,
                "epoch": step / 100,
                "num_tokens": 18 * step,
                "loss": round(max(loss, 0.02), 4),
            }
        )
        if step % 50 == 0:
            share = 0.5 + (0.28 - floor / 4) * (1 - math.exp(-step / 90))
            rows.append(
                {
                    "step": step,
                    "eval_loss": round(loss + 0.1, 4),
                    "eval_balanced_accuracy": round(share, 4),
                }
            )
    return rows


def sweep_of(run: RunDir) -> SweepDir:
    return SweepDir(run.path.parent)


def wrong_prediction(**given: Any) -> Prediction:
    """Return a wrong answer."""
    values: dict[str, Any] = {
        "id": "r1",
        "task": Task.JUDGE_PAIR,
        "group": "g",
        "view": "raw",
        "expected": "normal",
        "predicted": "abnormal",
        "images": ("", ""),
    }
    return Prediction(**values | given)


def hostile(value: Any) -> Any:
    """Return the same structure with every string and every key hostile."""
    if isinstance(value, str):
        return HOSTILE
    if isinstance(value, Mapping):
        return {f"{HOSTILE}{i}": hostile(item) for i, item in enumerate(value.values())}
    return [hostile(item) for item in value] if isinstance(value, list) else value
