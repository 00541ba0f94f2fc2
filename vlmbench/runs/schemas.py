"""The types of a run folder's JSON files. They may come from strangers: other types are refused.

Unknown keys are left out, so that an older version reads the files of a newer one.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from vlmbench.types import Prediction

MAX_SCORE = 1e9  # nats; a log-probability is far from it
MAX_MARGIN = 1e300

State = Annotated[str, Meta(pattern="^(running|stopped|failed|pruned|finished|checked|done)$")]
Seed = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Count = Annotated[int, Meta(ge=0, le=10**18)]
Amount = Annotated[float, Meta(ge=0, le=1e15)]
Time = Annotated[float, Meta(ge=0, le=253402300799)]  # the end of the year 9999
Number = Annotated[float, Meta(ge=-MAX_MARGIN, le=MAX_MARGIN)]
Words = Annotated[list[str], Meta(max_length=2000)]
Counts = Annotated[dict[str, Count], Meta(max_length=200)]


class Part(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Base of all types here: what is missing stays missing."""


class Status(Part):
    """status.json."""

    state: State
    time: Time
    run_hash: str | None = None
    model: str | None = None
    data: str | None = None
    seed: Seed | None = None
    overrides: Words | None = None
    error: str | None = None
    note: str | None = None
    seconds: Amount | None = None
    joules: Amount | None = None
    phases: Annotated[dict[str, Amount], Meta(max_length=50)] | None = None
    xxh3_128: Annotated[dict[str, str], Meta(max_length=20)] | None = None


class Env(Part):
    """env.json."""

    command: str | None = None
    engine: str | None = None
    engine_reason: str | None = None
    vision: str | None = None
    precision: str | None = None
    precision_reason: str | None = None
    processes: Count | None = None
    device: str | None = None
    python: str | None = None
    git: str | None = None
    base_model: str | None = None
    versions: Annotated[dict[str, str], Meta(max_length=200)] | None = None


class Choices(Part):
    """choices.json."""

    batch_size: Annotated[int, Meta(ge=1, le=10**6)] | None = None
    gradient_accumulation: Annotated[int, Meta(ge=1, le=10**6)] | None = None
    gradient_checkpointing: bool | None = None
    too_many_at_once: Annotated[list[Count], Meta(max_length=100)] | None = None


class Figure(Part):
    """A figure with its interval; an older version wrote no `n_parts`."""

    value: Number
    low: Number
    high: Number
    n: Count
    n_parts: Count | None = None


Views = Annotated[
    dict[str, Annotated[dict[str, Figure], Meta(max_length=200)]],
    Meta(max_length=50),
]
Scores = Annotated[dict[str, Views], Meta(max_length=50)]


class SplitRow(Part):
    """The records of one split, task and view."""

    split: str
    task: str
    view: str
    labels: Counts
    parts: Count
    planted: Count | None = None


class Leaks(Part):
    """The leaks between splits."""

    found: Count
    first: Words


class NearPair(Part):
    """Two images of different splits."""

    splits: Annotated[list[str], Meta(min_length=2, max_length=2)]
    images: Annotated[list[str], Meta(min_length=2, max_length=2)]
    distance: Number
    orientation: str
    judgement: str


class Data(Part):
    """The data of a run."""

    train_records: Count | None = None
    train_tokens: Count | None = None
    steps: Count | None = None
    by_task: Counts | None = None
    questions: Annotated[dict[str, str], Meta(max_length=50)] | None = None
    parts: Counts | None = None
    splits: Annotated[list[SplitRow], Meta(max_length=500)] | None = None
    images: Count | None = None
    leaks: Leaks | None = None
    nearest: Annotated[list[NearPair], Meta(max_length=500)] | None = None
    warnings: Words | None = None


class Metrics(Part):
    """metrics.json."""

    scores: Scores | None = None
    validation_scores: Scores | None = None
    test: str | None = None
    data: Data | None = None
    notes: Words | None = None


class CalibrationRow(Part):
    """The numbers of a calibration, or the reason for having none."""

    slope: Number | None = None
    intercept: Number | None = None
    n: Count | None = None
    n_parts: Count | None = None
    n_positive: Count | None = None
    n_planted: Count | None = None
    error: str | None = None


class BaselineRow(Part):
    """The key of a baseline's answers, or the reason for having none; `of` is a hash of both."""

    key: str | None = None
    error: str | None = None
    of: str | None = None


class LogRow(Part):
    """A line of the training log: its step. The other values are numbers."""

    step: Annotated[int, Meta(ge=0, le=10**12)]


Calibrations = Annotated[
    dict[str, Annotated[dict[str, CalibrationRow], Meta(max_length=50)]], Meta(max_length=50)
]
Baselines = Annotated[dict[str, BaselineRow], Meta(max_length=100)]

_PREDICTION = msgspec.json.Decoder(Prediction)
_LOG_ROW = msgspec.json.Decoder(dict[str, float | None])


def decode(content: bytes, schema: Any) -> dict[str, Any]:
    """Return the values of a JSON file. Raise ValueError or RecursionError for other types."""
    values = msgspec.to_builtins(msgspec.json.decode(content, type=schema))
    return dict(values)


def decode_log_row(line: bytes) -> dict[str, Any]:
    """Return a line of the training log. Raise ValueError or RecursionError for other types."""
    step = msgspec.json.decode(line, type=LogRow).step
    values = {name: value for name, value in _LOG_ROW.decode(line).items() if value is not None}
    return {**values, "step": step}


def decode_prediction(line: bytes) -> Prediction:
    """Return a prediction. Raise ValueError or RecursionError for other types."""
    prediction = _PREDICTION.decode(line)
    if any(not math.isfinite(x) or abs(x) > MAX_SCORE for x in prediction.scores.values()):
        raise ValueError(f"a score must be between -{MAX_SCORE:g} and {MAX_SCORE:g}")
    if len(prediction.images) > 2:
        raise ValueError(f"a record has at most 2 images, got {len(prediction.images)}")
    return prediction
