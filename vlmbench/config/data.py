"""Data: where pictures come from, which records train, how pictures are shown, how questions are worded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from vlmbench.config.registry import check_range
from vlmbench.types import Record, Task, UserError

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(kw_only=True)
class SourceConfig(ABC):
    """Base of conf/source: where pictures and records come from. `labels` maps the user's words to labels."""

    # A mapping, str -> str, or a list of the labels of the numbers 0, 1, ...; None: empty. Any: OmegaConf lets the
    # command line add no key to a dict[str, str].
    labels: Any = None

    def __post_init__(self) -> None:
        labels = dict(enumerate(self.labels)) if isinstance(self.labels, list) else self.labels
        if not isinstance(labels, Mapping | None):
            raise UserError(f"source.labels={labels}: map your words to labels, as in source.labels={{ng: abnormal}}")
        self.labels = {str(word): str(label) for word, label in (labels or {}).items()}

    @abstractmethod
    def prepare(self, data_dir: Path) -> Path:
        """Write pictures and manifest.jsonl into a folder of `data_dir` named by this config's content, unless they
        are there already, and give the manifest's path. The folder appears whole or not at all."""


@dataclass(kw_only=True)
class SplitConfig:
    """Shares of the parts (groups) on each side."""

    train: float = 0.7
    val: float = 0.1
    test: float = 0.2

    def __post_init__(self) -> None:
        for name in ("train", "val", "test"):
            check_range(f"data.split.{name}", getattr(self, name), 0, 1)
        if abs(self.train + self.val + self.test - 1) > 1e-6:
            raise UserError(f"data.split: {self.train} + {self.val} + {self.test} is not 1; make the shares add up")


@dataclass(kw_only=True)
class VariantConfig(ABC):
    """Base of conf/data: which of the training side's records train. Every variant is tested on the same records."""

    split: SplitConfig = field(default_factory=SplitConfig)
    split_seed: int = 0  # apart from `seed`, so that every seed of a sweep is tested on the same records
    allow_leak: bool = False  # a leak is an error; true makes it a warning that the report repeats

    @abstractmethod
    def select(self, records: Sequence[Record], *, cost: Callable[[Record], int], seed: int) -> list[int]:
        """Positions, in the training side's `records`, of those that train; one may repeat. Pure.

        `cost` counts the trained tokens of a record: those of its answer.
        """

    def notes(self, tasks: Collection[Task]) -> list[str]:
        """What the report has to repeat about the selection, given the tasks that the source has; a sentence each."""
        return []


@dataclass(kw_only=True)
class ViewConfig(ABC):
    """Base of conf/view: the processed view, beside the raw one that every run has."""

    name: str = MISSING

    @abstractmethod
    def build(self, references: Sequence[Path]) -> Callable[[Image], Image]:
        """A deterministic picture -> picture function; `references` are the training side's reference pictures."""

    @abstractmethod
    def fingerprint(self, references: Sequence[str]) -> str:
        """Of everything that the function depends on; `references` are the sha256 of the reference pictures."""


@dataclass(kw_only=True)
class PromptConfig:
    """conf/prompt: the words of every task in one language."""

    questions: dict[str, str] = MISSING  # task -> question
    labels: dict[str, str] = MISSING  # label -> the word the model says
    phrases: dict[str, str] = field(default_factory=dict)  # replaced in the rest of the answers, longest first

    def __post_init__(self) -> None:
        for task in Task:
            if task not in self.questions:
                raise UserError(f"prompt.questions: no question for task {task}; add prompt.questions.{task}")
