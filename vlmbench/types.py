"""The frozen values that the whole package speaks. Nothing here imports anything heavy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

    from vlmbench.data.pictures import Picture


class UserError(Exception):
    """Something the user can mend. The message names the place, the value and the cure; no traceback is shown."""


class Task(StrEnum):
    """What a record asks about its pictures."""

    JUDGE_PAIR = "judge_pair"
    COMPARE_VIEWS = "compare_views"
    COMPARE_SHAPES = "compare_shapes"
    JUDGE_SINGLE = "judge_single"
    JUDGE_LINK = "judge_link"
    CHOOSE_OPTION = "choose_option"


class Role(StrEnum):
    """What a picture is for in its record."""

    REFERENCE = "reference"
    QUERY = "query"


class Split(StrEnum):
    """Which side of the experiment a record is on."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


class Probe(StrEnum):
    """How a control record was derived from held-out records; NONE is an ordinary record."""

    NONE = "none"
    SWAP = "swap"  # the same two pictures in the other order
    SELF = "self"  # the reference beside itself
    BLANK = "blank"  # the reference replaced by a grey picture
    CLOSURE = "closure"  # A~B and A~C are records, this one asks B~C


# The labels of each task that has two: the negative one first, the positive one (what an inspector looks for) second.
# Those of choose_option are each record's own: the letters of its options.
LABELS: Mapping[Task, tuple[str, str]] = {
    Task.JUDGE_PAIR: ("normal", "abnormal"),
    Task.COMPARE_VIEWS: ("same_part", "different_part"),
    Task.COMPARE_SHAPES: ("same_shape", "different_shape"),
    Task.JUDGE_SINGLE: ("normal", "abnormal"),
    Task.JUDGE_LINK: ("normal", "abnormal"),
}

# The tasks that say whether a part is good: what a finished run is put to.
JUDGING = frozenset({Task.JUDGE_PAIR, Task.JUDGE_SINGLE})

# How many pictures a record of each task may show.
NUM_IMAGES: Mapping[Task, tuple[int, ...]] = {
    Task.JUDGE_PAIR: (2,),
    Task.COMPARE_VIEWS: (2,),
    Task.COMPARE_SHAPES: (2,),
    Task.JUDGE_SINGLE: (1,),
    Task.JUDGE_LINK: (2,),
    Task.CHOOSE_OPTION: (1, 2),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRef:
    """A picture on disk and how it is to be shown.

    `path` is absolute. `view` is "raw" or the name of the run's processed view. `sha256` is of the file's bytes, ""
    where the manifest does not say. `blank` shows a mid-grey picture of the same size instead.
    """

    path: Path
    role: Role
    view: str
    sha256: str = ""
    blank: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One question about one or two pictures, with its true answer.

    `answer` starts with `label`. `question` is "" where the prompt group words it. `group` names the part: all of a
    part's records are on one side of the split. `split` is None unless the manifest fixes it. `options` are those of a
    multiple choice, letter -> text. `of` holds the ids of the records that a probe was derived from.
    """

    id: str
    task: Task
    images: tuple[ImageRef, ...]
    answer: str
    label: str
    group: str
    question: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    split: Split | None = None
    meta: Mapping[str, str] = field(default_factory=dict)
    probe: Probe = Probe.NONE
    of: tuple[str, ...] = ()

    @property
    def view(self) -> str:
        """The views of the pictures in order, once each: "raw", "rt", "raw+rt"."""
        return "+".join(dict.fromkeys(image.view for image in self.images))

    @property
    def labels(self) -> tuple[str, ...]:
        """What the answer may be: the task's two labels, or the letters of the record's options."""
        return LABELS[self.task] if self.task in LABELS else tuple(self.options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A record with its pictures, their views applied, and its words in the run's language.

    Pictures are opened, or can be: where their vision tokens are kept, most never are.
    """

    record: Record
    images: tuple[Image | Picture, ...]
    question: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a model said about one held-out record.

    `scores` maps each label to its log-probability (nats, summed over the label's tokens); empty when the answer was
    generated. `predicted` is None when a generated answer names no label: it is counted, and wrong. `text` is the
    generated answer. `images` are the pictures as shown, "" for a blank one.
    """

    id: str
    task: Task
    group: str
    view: str
    expected: str
    predicted: str | None
    scores: Mapping[str, float] = field(default_factory=dict)
    text: str | None = None
    probe: Probe = Probe.NONE
    of: tuple[str, ...] = ()
    question: str = ""
    answer: str = ""
    images: tuple[str, ...] = ()
    meta: Mapping[str, str] = field(default_factory=dict)

    @property
    def correct(self) -> bool:
        """Whether the prediction is the expected label."""
        return self.predicted == self.expected

    @property
    def margin(self) -> float | None:
        """Log-odds of the task's positive label against its negative one, in nats; None without scores, or labels that
        are so."""
        if not self.scores or self.task not in LABELS:
            return None
        negative, positive = (self.scores[label] for label in LABELS[self.task])
        return positive - negative

    @property
    def positive_probability(self) -> float | None:
        """Probability of the task's positive label among its labels; None without scores, or without such a label."""
        return None if self.margin is None else 1.0 / (1.0 + math.exp(min(-self.margin, 700.0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a finished run says of one record, ready for use.

    `images` are its pictures as they were given. `prediction` is None where a picture could not be read, and `error`
    says why. `score` is the probability of the task's positive label, calibrated on the run's validation side where
    `calibrated` says so. `decision` is the positive label where the score is above `threshold`; without costs it is the
    likelier label, and `threshold` is the score at which the labels are equally likely to the model.
    """

    id: str
    task: Task
    images: tuple[str, ...]
    prediction: Prediction | None = None
    score: float | None = None
    calibrated: bool = False
    threshold: float | None = None
    decision: str | None = None
    sentence: str | None = None
    error: str | None = None

    @property
    def expected(self) -> str | None:
        """The true label, where it is known."""
        return (self.prediction.expected or None) if self.prediction is not None else None

    @property
    def stopped(self) -> bool:
        """Whether the part is judged abnormal, or what stands for it."""
        return self.decision == LABELS[self.task][1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A share of records: one hit or miss for each, with the group that it belongs to."""

    hits: tuple[bool, ...]
    groups: tuple[str, ...]


class Difference(float):
    """A difference of shares, from -1 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure with its 95 % interval, the number of records it rests on and the number of independent groups."""

    value: float
    low: float
    high: float
    n: int
    n_groups: int
