"""The contract of a baseline. A baseline is one file here and one yaml in conf/baseline."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vlmbench.baselines.features import TowerFeatures
from vlmbench.config import Settings
from vlmbench.types import JUDGING, LABELS, LazyImage, Record, Task

HeatMap = NDArray[np.float32]  # (rows, columns): how suspicious each location of the query is


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer to one record.

    `margin` is the log-odds of the positive label against the negative one. Any number that grows
    with the suspicion does: it is calibrated on the validation records.
    """

    margin: float
    heat: HeatMap | None = None

    def scores(self, task: Task) -> dict[str, float]:
        """Return the log-probability of each label, in nats."""
        negative, positive = LABELS[task]
        return {
            negative: float(-np.logaddexp(0.0, self.margin)),
            positive: float(-np.logaddexp(0.0, -self.margin)),
        }


Ask = Callable[[Sequence[Record]], list[Answer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A baseline that is ready to answer records; `note` says in words what the fit chose."""

    answer: Ask
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The means of a baseline to answer records of one task and view.

    `train` are the training records of this task and view, each once. `features` reads the vision
    tower, and `open_images` the images themselves. `ask_untuned` asks the model before its first
    step.
    """

    task: Task
    view: str
    train: Sequence[Record]
    features: TowerFeatures
    open_images: Callable[[Record], Sequence[LazyImage]]
    ask_untuned: Ask

    def is_positive(self, record: Record) -> bool:
        """Return whether the true label is the positive one, such as abnormal."""
        return record.label == LABELS[self.task][1]


@dataclass(kw_only=True)
class BaselineConfig(Settings, ABC):
    """Base of conf/baseline: a method that a tuned model has to beat."""

    tasks: ClassVar[frozenset[Task]] = JUDGING
    title: ClassVar[str] = ""  # a few words for the tables of the report
    learns: ClassVar[bool] = True  # False: the answers do not depend on the training records

    @abstractmethod
    def fit(self, given: Given) -> Method:
        """Return the method for one task and view. Raise UserError if it cannot answer."""
