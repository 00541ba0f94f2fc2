"""The frozen values that the whole package shares. This module imports nothing heavy."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_HASHED_FILES = 1_000_000  # entries: 200 bytes each
FileVersion = Hashable  # a file as long as it does not change: its path, its times and its size
Box = tuple[int, int, int, int]  # (x, y, width, height) in pixels of the upright image


class UserError(Exception):
    """A mistake that the user can mend.

    The message names the location, the value and the cure. No traceback is shown.
    """


class Task(StrEnum):
    """The question that a record asks about its images."""

    JUDGE_PAIR = "judge_pair"
    COMPARE_VIEWS = "compare_views"
    COMPARE_SHAPES = "compare_shapes"
    JUDGE_SINGLE = "judge_single"
    JUDGE_LINK = "judge_link"
    CHOOSE_OPTION = "choose_option"


class Role(StrEnum):
    """The purpose of an image in its record."""

    REFERENCE = "reference"
    QUERY = "query"


class Split(StrEnum):
    """The set that a record belongs to."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Fold:
    """A fold of a cross-validation: its `index` from 0, and the number of all folds."""

    index: int
    number: int


class Probe(StrEnum):
    """How a control record was made from held-out records; NONE is an ordinary record."""

    NONE = "none"
    SWAP = "swap"  # the same two images in the other order
    SELF = "self"  # the reference beside itself
    BLANK = "blank"  # the reference replaced by a grey image
    OTHER = "other"  # the reference replaced by that of another part
    CLOSURE = "closure"  # A~B and A~C are records, this one asks B~C
    PERTURBED = "perturbed"  # the query is blurred, darker, or changed otherwise
    REWORDED = "reworded"  # the same question in other words


# The labels of each task that has two: first the negative one, then the positive one, which an
# inspector looks for. In choose_option each record has its own labels: the letters of its options.
LABELS: Mapping[Task, tuple[str, str]] = {
    Task.JUDGE_PAIR: ("normal", "abnormal"),
    Task.COMPARE_VIEWS: ("same_part", "different_part"),
    Task.COMPARE_SHAPES: ("same_shape", "different_shape"),
    Task.JUDGE_SINGLE: ("normal", "abnormal"),
    Task.JUDGE_LINK: ("normal", "abnormal"),
}

# The decision on a record whose score keeps no promise: somebody looks at the part.
LOOK = "look_at_it"
PLANTED = "planted_defect"  # the key of a record's `meta` with the kind of its planted defect

# The tasks that tell whether a part is good. A finished run is used for these.
JUDGING = frozenset({Task.JUDGE_PAIR, Task.JUDGE_SINGLE})

# How many images a record of each task may show.
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
    """An image on disk, and how to show it.

    `path` is absolute. `view` is "raw" or the name of the run's processed view. `sha256` is of the
    file's bytes; "" if the manifest does not give it. `blank` shows a mid-grey image of the same
    size instead. `change` names a change of `data/changes.py`, made when the image is shown.
    `box` is the tile that is shown; None: the whole image.
    """

    path: Path
    role: Role
    view: str
    sha256: str = ""
    blank: bool = False
    change: str = ""
    box: Box | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A question about one or two images, with its true answer.

    `answer` starts with `label`. `question` is "" if the prompt group words it. `group` names the
    part: all records of a part are in one split. `split` is None unless the manifest fixes it.
    `options` of a multiple choice map a letter to a text. `of` holds the ids of the records that a
    probe was made from, and `change` names what was changed: "blurred", "leading".
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
    change: str = ""

    @property
    def view(self) -> str:
        """The views of the images in order, each once: "raw", "rt", "raw+rt"."""
        return "+".join(dict.fromkeys(image.view for image in self.images))

    @property
    def labels(self) -> tuple[str, ...]:
        """The possible answers: the task's two labels, or the letters of the record's options."""
        return LABELS[self.task] if self.task in LABELS else tuple(self.options)


class LazyImage:
    """An image as the model sees it, opened when its pixels are first needed.

    `rgb` is the PIL image in RGB, `hash` the SHA-256 of its pixels, `size` its (width, height). For
    a known `version` of a file, `hash` and `size` are remembered and the file stays closed.
    """

    def __init__(self, load: Callable[[], Image], *, version: FileVersion | None = None) -> None:
        self._load, self._version = load, version

    @classmethod
    def of(cls, image: Image) -> LazyImage:
        """Return a lazy image of pixels that are open already."""
        return cls(lambda: image)

    @cached_property
    def rgb(self) -> Image:
        return self._load()

    @property
    def hash(self) -> str:
        return self._hash_and_size[0]

    @property
    def size(self) -> tuple[int, int]:
        return self._hash_and_size[1]

    @property
    def is_hashed(self) -> bool:
        """Whether `hash` and `size` are known without opening the file."""
        return "_hash_and_size" in self.__dict__ or self._version in _known_hashes

    @cached_property
    def _hash_and_size(self) -> tuple[str, tuple[int, int]]:
        known = _known_hashes.get(self._version)
        if known is None:
            known = pixel_hash(self.rgb), self.rgb.size
            if self._version is not None and len(_known_hashes) < MAX_HASHED_FILES:
                _known_hashes[self._version] = known

        return known


_known_hashes: dict[FileVersion | None, tuple[str, tuple[int, int]]] = {}


def pixel_hash(image: Image) -> str:
    """Return the SHA-256 of what a model sees: the image's mode, size and pixels."""
    return hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A record with its images in their views and its words in the run's language.

    `words` are those of the record's labels, in their order. An image whose vision tokens are
    stored is never opened.
    """

    record: Record
    images: tuple[LazyImage, ...]
    question: str
    answer: str
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCount:
    """Positions of a record's whole sequence, and the positions among them that carry loss."""

    total: int
    trained: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A model's answer to one held-out record.

    `scores` maps each label to its log-probability (nats, summed over the label's tokens); it is
    empty for a generated answer, which is in `text`. `predicted` is None if a generated answer
    names no label: it counts as wrong. `images` are the files as shown, before a `change`; "" for a
    blank image. `component` names the parts that share images with the record's own part; "" for
    none. `followed`: training followed a validation record of its cluster; None: not known.
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
    change: str = ""
    question: str = ""
    answer: str = ""
    images: tuple[str, ...] = ()
    meta: Mapping[str, str] = field(default_factory=dict)
    component: str = ""
    followed: bool | None = None

    @property
    def cluster(self) -> str:
        """The name that dependent records share: their component, or else their part."""
        return self.component or self.group

    @property
    def correct(self) -> bool:
        """Whether the prediction is the expected label."""
        return self.predicted == self.expected

    @property
    def margin(self) -> float | None:
        """Log-odds of the positive label against the negative one, in nats.

        None without scores, and for a task without these two labels.
        """
        if not self.scores or self.task not in LABELS:
            return None
        negative, positive = (self.scores[label] for label in LABELS[self.task])
        return positive - negative

    @property
    def positive_probability(self) -> float | None:
        """Probability of the positive label, between 0 and 1; None if `margin` is None."""
        return None if self.margin is None else 1.0 / (1.0 + math.exp(min(-self.margin, 700.0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The answer of a finished run to one record, ready for use.

    `images` are as given. `prediction` is None if an image could not be read; `error` says why.
    `score` is the probability of the positive label, calibrated on the run's validation records if
    `calibrated`. `decision` is the positive label if the score is above `threshold`. Without a
    calibration it is the likelier label, and `threshold` is the score where both are as likely.

    For an answer that joins several records of a part, `singles` are theirs, and `decided_by` is
    the id of the deciding one; `images` are its images.

    With a promised error rate, `look_from` and `look_to` are the scores between which the decision
    is LOOK; `threshold` is the middle.
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
    look_from: float | None = None
    look_to: float | None = None
    decided_by: str | None = None
    singles: tuple[Judgement, ...] = ()

    @property
    def expected(self) -> str | None:
        """The true label, where it is known."""
        return (self.prediction.expected or None) if self.prediction is not None else None

    @property
    def stopped(self) -> bool:
        """Whether the decision is the positive label, such as abnormal."""
        return self.decision == LABELS[self.task][1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A share of records: one hit or miss for each, with the group that it belongs to."""

    hits: tuple[bool, ...]
    parts: tuple[str, ...]


class Difference(float):
    """A difference of shares, from -1 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure with its 95 % interval, from `n` records of `n_parts` independent parts."""

    value: float
    low: float
    high: float
    n: int
    n_parts: int
