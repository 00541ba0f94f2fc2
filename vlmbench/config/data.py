"""Settings of the data: sources, variants, views and prompts."""

from __future__ import annotations

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import yaml
from omegaconf import MISSING

from vlmbench.config.settings import Settings, setting
from vlmbench.types import Fold, Record, Split, Task, UserError

if TYPE_CHECKING:
    from PIL.Image import Image


MAX_FOLDS = 100
# Settings of a view that say how images are cut. Without `tile` they change nothing.
TILE_SETTINGS = ("tile", "overlap", "normal_tiles")


@dataclass(kw_only=True)
class SourceConfig(Settings, ABC):
    """Base of conf/source: the origin of images and records."""

    config_group: ClassVar[str] = "source"
    unit: ClassVar[str] = "parts"  # what messages call the groups that stay in one split

    # Any: with dict[str, str], OmegaConf refuses new keys on the command line.
    labels: Any = setting(
        None,
        "Labels of your words, such as {ng: abnormal, ok: normal}, or of the numbers 0, 1: "
        "[normal, abnormal]; null: the words are the labels.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()

        self.labels = read_mapping("source.labels", self.labels, "{ng: abnormal}")

    @abstractmethod
    def prepare(self, data_dir: Path) -> Path:
        """Write images and manifest.jsonl below `data_dir` and return the manifest's path.

        Files that exist already stay. A hash of this configuration names the folder. The folder
        appears complete or not at all.
        """


def read_mapping(setting: str, value: Any, example: str) -> dict[str, str]:
    """Return what the user maps to what; {} for None. A list maps the numbers 0, 1 and so on.

    Raise UserError, with the `example` as its cure, for any other value.
    """
    mapping = _read_quoted(value) if isinstance(value, str) else value
    if isinstance(mapping, list):
        mapping = dict(enumerate(mapping))
    if not isinstance(mapping, Mapping | None):
        raise UserError(
            f"{setting} must map your words to labels, got {mapping}; set '{setting}={example}'"
        )

    words: dict[str, str] = {}
    for key, label in (mapping or {}).items():
        # Data are read in NFC too.
        word, value = (unicodedata.normalize("NFC", str(text)) for text in (key, label))
        if words.setdefault(word, value) != value:
            raise UserError(
                f"{setting} maps {word} to {words[word]} and, in another Unicode form, to {value}; "
                "leave one of them out"
            )
    return words


def _read_quoted(text: str) -> Any:
    """Return what `text` holds in yaml, and `text` itself if it is no yaml.

    The command line passes words such as {良: normal} as a text, because Hydra's keys are ASCII.
    Words stay as they are: no is not false.
    """
    with suppress(yaml.YAMLError):
        return yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506 - it makes texts only
    return text


@dataclass(kw_only=True)
class SplitConfig(Settings):
    """Shares of the parts in the training, validation and test set."""

    config_group: ClassVar[str] = "data.split"

    train: float = setting(0.7, "Share of the parts that train.", at_least=0, at_most=1)
    val: float = setting(0.1, "Share of the parts that validate.", at_least=0, at_most=1)
    test: float = setting(0.2, "Share of the parts that test.", at_least=0, at_most=1)

    def __post_init__(self) -> None:
        super().__post_init__()

        total = self.train + self.val + self.test
        if abs(total - 1) > 1e-6:
            raise UserError(
                f"data.split must add up to 1, got {self.train} + {self.val} + {self.test} = "
                f"{total:g}; set 'data.split={{train: 0.7, val: 0.1, test: 0.2}}'"
            )

    @property
    def shares(self) -> dict[Split, float]:
        """Return the share of each split."""
        return {Split.TRAIN: self.train, Split.VAL: self.val, Split.TEST: self.test}


@dataclass(kw_only=True)
class VariantConfig(Settings, ABC):
    """Base of conf/data: which records of the training set train.

    All variants of a sweep share their test set.
    """

    config_group: ClassVar[str] = "data"

    split: SplitConfig = field(default_factory=SplitConfig)
    split_seed: int = setting(
        0, "Seed of the split. It is not `seed`, so that all seeds of a sweep share their test set."
    )
    allow_leak: bool = setting(
        False, "false: a leak between the splits is an error; true: the report warns of it."
    )

    group_alike: bool = setting(
        False, "true: parts whose images look the same stay in one split, instead of being a leak."
    )

    folds: int | None = setting(
        None,
        "Number of folds of a cross-validation, in which every part is tested once; null: one "
        "test set. A sweep (-m) runs all folds.",
        at_least=2,
        at_most=MAX_FOLDS,
        cure=5,
    )
    fold: int | None = setting(
        None, "Which fold this run tests, from 0; a sweep sets it.", at_least=0, cure=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()

        if self.folds is not None and self.fold is None:
            every = ",".join(map(str, range(self.folds)))
            raise UserError(
                f"data.folds={self.folds} takes a run for each fold, and this is one run; "
                f"add data.fold={every} -m"
            )
        if self.fold is not None and self.folds is None:
            raise UserError(f"data.fold={self.fold} needs data.folds; add data.folds=5")
        if self.folds is not None and self.fold is not None and self.fold >= self.folds:
            raise UserError(
                f"data.fold must be between 0 and {self.folds - 1}, got {self.fold}; "
                "set data.fold=0"
            )

    @property
    def tested_fold(self) -> Fold | None:
        """Return the fold that the run tests; None without a cross-validation."""
        if self.folds is None or self.fold is None:
            return None
        return Fold(self.fold, self.folds)

    @abstractmethod
    def select(
        self, records: Sequence[Record], *, cost: Callable[[Record], int], seed: int
    ) -> list[int]:
        """Return the positions in `records`, the training set, of the records that train.

        A position may repeat. `cost` counts a record's trained tokens: the tokens of its answer.
        The function is pure.
        """

    def make(self, records: Sequence[Record], *, seed: int) -> list[Record]:
        """Return further records that train, made from the selected `records`.

        Each says so: its `probe` is not NONE, and `of` names the record that it was made from.
        """
        return []

    def notes(self, tasks: Collection[Task]) -> list[str]:
        """Return what the report repeats about the selection, a sentence each.

        `tasks` are the tasks of the source.
        """
        return []


@dataclass(kw_only=True)
class ViewConfig(Settings, ABC):
    """Base of conf/view: the processed view. Every run has the raw view too."""

    config_group: ClassVar[str] = "view"

    name: str = setting(MISSING, "Name of the processed view in records.", cure="rt")
    tile: int | None = setting(
        None,
        "Edge of the tiles that large images are cut into, in pixels; null: no tiles.",
        at_least=32,
        cure="null",
    )
    overlap: float = setting(
        0.1, "Share of a tile that the next one repeats.", at_least=0, at_most=0.5
    )
    normal_tiles: float | None = setting(
        3.0,
        "Normal tiles that train for each abnormal one, drawn at random; null: all.",
        at_least=0.1,
        cure="null",
    )

    @abstractmethod
    def build(self, references: Sequence[Path]) -> Callable[[Image], Image]:
        """Return a deterministic function from image to image.

        `references` are the reference images of the training set.
        """

    @abstractmethod
    def fingerprint(self, references: Sequence[str]) -> str:
        """Return a hash of everything that the function depends on.

        `references` are the SHA-256 hashes of the reference images.
        """


@dataclass(kw_only=True)
class PromptConfig(Settings):
    """conf/prompt: the words of every task in one language."""

    config_group: ClassVar[str] = "prompt"

    questions: dict[str, str] = setting(MISSING, "Question of each task.")
    labels: dict[str, str] = setting(MISSING, "Word that the model answers for each label.")
    phrases: dict[str, str] = setting(
        factory=dict,
        meaning="Replacements in the rest of the answers, such as defects; the longest come first.",
    )

    rewordings: dict[str, str] = setting(
        factory=dict,
        meaning="Other wordings of the question of judge_pair, by name; `leading` suggests an "
        "answer.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()

        for task in Task:
            if task not in self.questions:
                raise UserError(
                    f"prompt.questions has no question for task {task}; "
                    f"set '+prompt.questions.{task}=Is this part normal or abnormal?'"
                )
