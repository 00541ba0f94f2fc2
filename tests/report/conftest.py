"""A sweep folder as a run leaves it: two finished variants and a failed one, with real small pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw

from vlmbench.rundir import RunDir, State, SweepDir
from vlmbench.types import LABELS, Prediction, Probe, Task

DEFECTS = ("none", "scratch", "dent", "hole")
# Task, view, probe, records. With the 2nd variant each kind has `WRONG_WITH` errors, with the 1st `WRONG_WITHOUT`.
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

CellMaker = Callable[..., RunDir]
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>|`*[x](y)\n# \"'&\x1b[31m_"


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Paths of 12 drawn parts, each fourth of them without a defect."""
    folder = tmp_path_factory.mktemp("pictures")
    return [str(_draw_part(folder / f"p{i:03}.png", i, DEFECTS[i % 4])) for i in range(12)]


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


def make_predictions(pictures: Sequence[str], wrong: Sequence[int]) -> list[Prediction]:
    """Of each kind the first `wrong` records are answered wrong, the first of them most surely (95 %, 94 %, ...)."""
    predictions = []
    for (task, view, probe, count), errors in zip(KINDS, wrong, strict=True):
        for i in range(count):
            expected = LABELS[task][0 if probe == Probe.SELF else i % 2]
            other = LABELS[task][1 - LABELS[task].index(expected)]
            said = other if i < errors else expected
            sure = 0.95 - 0.01 * i if i < errors else 0.8
            query = pictures[i % len(pictures)]
            reference = {Probe.BLANK: "", Probe.SELF: query}.get(probe, pictures[4 * (i % 3)])
            predictions.append(
                Prediction(
                    id=f"{task}-{view}-{probe}-{i:03}",
                    task=task,
                    group=f"part-{i % 20:03}",
                    view=view,
                    expected=expected,
                    predicted=said,
                    scores={said: math.log(sure), (other if said == expected else expected): math.log(1 - sure)},
                    probe=probe,
                    question="The first picture is a good part. Is the part in the second picture normal?",
                    answer=expected if i % 2 == 0 else f"{expected}: a {DEFECTS[i % 3 + 1]} across the upper face",
                    images=(reference, query),
                    meta={"defect": DEFECTS[i % 4]},
                )
            )
    return predictions


def estimate(value: float, half: float, n: int, n_groups: int = 20) -> dict[str, Any]:
    return {
        "value": value,
        "low": round(max(0.0, value - half), 3),
        "high": round(min(1.0, value + half), 3),
        "n": n,
        "n_groups": n_groups,
    }


def make_metrics(better: float) -> dict[str, Any]:
    """`better` is added to the figures of the first variant."""
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
        "blank_reference_accuracy": estimate(0.625, 0.3, 8, 8),
        "reference_gain": {"value": 0.075 + better, "low": -0.05, "high": 0.2, "n": 60, "n_groups": 20},
    }
    accuracy = {"accuracy": estimate(0.55 + better, 0.21, 20)}
    scores = {
        "judge_pair": {"raw": pair | consistency, "rt": pair | {"accuracy": estimate(0.75 + better, 0.13, 40)}},
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
            "groups": {"train": 224, "val": 32, "test": 64},
            "sides": [
                {
                    "side": "train",
                    "task": "judge_pair",
                    "view": "raw",
                    "labels": {"abnormal": 448, "normal": 452},
                    "parts": 224,
                },
                {
                    "side": "test",
                    "task": "judge_pair",
                    "view": "raw",
                    "labels": {"abnormal": 30, "normal": 30},
                    "parts": 20,
                },
            ],
            "pictures": 1600,
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
        rows.append({"step": step, "epoch": step / 100, "num_tokens": 18 * step, "loss": round(max(loss, 0.02), 4)})
        if step % 50 == 0:
            share = 0.5 + (0.28 - floor / 4) * (1 - math.exp(-step / 90))
            rows.append({"step": step, "eval_loss": round(loss + 0.1, 4), "eval_balanced_accuracy": round(share, 4)})
    return rows


@pytest.fixture
def make_cell(tmp_path: Path, pictures: list[str]) -> CellMaker:
    """Writes a cell into the sweep folder; every file can be replaced, or left out by None."""

    def make(
        number: int, data: str, *, better: float = 0.0, wrong: Sequence[int] = WRONG_WITHOUT, **given: Any
    ) -> RunDir:
        values = {
            "state": State.FINISHED,
            "details": {},
            "env": {
                "command": "python -m vlmbench experiment=quick",
                "engine": "transformers",
                "engine_reason": "no CUDA GPU",
                "vision": "frozen",
                "device": "cpu: AMD EPYC 7B13",
                "versions": {"torch": "2.13.0", "transformers": "5.17.0", "trl": "1.14.2"},
                "git": "1a2b3c4",
            },
            "config": {
                "seed": 0,
                "cell": f"cell-{number}",
                "model": {"lora": {"r": 8}},
                "source": {"num_parts": 320, "labels": {}},
                "data": {"comparison": ["views", "shapes"]} if data == "with_comparison" else {},
            },
            "metrics": make_metrics(better),
            "log": make_log(300, 0.35 - better),
            "predictions": make_predictions(pictures, wrong),
        } | given
        cell = RunDir(tmp_path / "2026-11-22_quick" / f"{number}_smol_{data}_s0")
        cell.path.mkdir(parents=True)
        status = {"seconds": 312.0, "joules": None, "model": "smol", "data": data, "seed": 0, "error": ""}
        status["overrides"] = ["experiment=quick", f"data={data}"]
        cell.write_status(values["state"], content_hash="9f8e7d", **(status | values["details"]))
        cell.write_env(values["env"])
        if values["config"] is not None:
            cell.write_config(yaml.safe_dump(values["config"]))
        if values["metrics"] is not None:
            cell.write_metrics(values["metrics"])
        for row in values["log"]:
            cell.append_train_log(row)
        if values["predictions"] is not None:
            cell.write_predictions(values["predictions"])
        return cell

    return make


@pytest.fixture
def sweep(make_cell: CellMaker) -> SweepDir:
    """Without and with comparison records, finished; the control, failed."""
    first = make_cell(0, "without_comparison")
    make_cell(1, "with_comparison", better=0.1, wrong=WRONG_WITH)
    error = "mine.jsonl:812: label 'ng' is not one of normal, abnormal; fix the row or add it to source.labels"
    make_cell(
        2,
        "matched_control",
        state=State.FAILED,
        details={"error": error, "seconds": 41.0},
        metrics=None,
        log=make_log(80, 0.4),
        predictions=None,
    )
    return SweepDir(first.path.parent)


def sweep_of(cell: RunDir) -> SweepDir:
    return SweepDir(cell.path.parent)


def judged(**given: Any) -> Prediction:
    """A wrong answer."""
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
    """The same structure with every string, and every key, hostile."""
    if isinstance(value, str):
        return HOSTILE
    if isinstance(value, Mapping):
        return {f"{HOSTILE}{i}": hostile(item) for i, item in enumerate(value.values())}
    return [hostile(item) for item in value] if isinstance(value, list) else value


@pytest.fixture
def hostile_sweep(make_cell: CellMaker) -> SweepDir:
    estimate = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10, "n_groups": 5}
    scores = {"judge_pair": {"raw": {"accuracy": estimate, HOSTILE: estimate}}, HOSTILE: {HOSTILE: {"ece": estimate}}}
    metrics = {
        "scores": scores,
        "data": {"warnings": [HOSTILE], "by_task": {HOSTILE: 1}, "groups": {HOSTILE: 1}, "steps": HOSTILE},
        "notes": [HOSTILE + "2"],
    }
    keys = ("command", "engine", "engine_reason", "vision", "device", "git")
    env = dict.fromkeys(keys, HOSTILE) | {"versions": {HOSTILE: HOSTILE}}
    texts = dict.fromkeys(("id", "group", "expected", "predicted", "text", "question", "answer"), HOSTILE)
    wrong = judged(
        **texts | {"predicted": HOSTILE + "!"},
        images=(HOSTILE, f"/x/{HOSTILE}"),
        meta={"defect": HOSTILE, HOSTILE: HOSTILE},
        scores={HOSTILE: -1.0, HOSTILE + "!": -0.5},
    )
    elsewhere = judged(**texts | {"predicted": None}, view=HOSTILE, probe=Probe.BLANK)
    names = {"model": HOSTILE, "overrides": [HOSTILE, f"a={HOSTILE}"]}
    cell = make_cell(0, "without_comparison", metrics=metrics, env=env, predictions=[wrong, elsewhere], details=names)
    make_cell(1, "with_comparison", metrics=metrics, env=env, predictions=[wrong, elsewhere], details=names)
    make_cell(2, "x", state=State.FAILED, details=names | {"error": HOSTILE, "data": HOSTILE})
    return sweep_of(cell)
