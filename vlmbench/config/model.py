"""Models: on which engine, with which adapters, and what a build is asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

from vlmbench.config.registry import check_range


class Engine(StrEnum):
    auto = "auto"  # Unsloth where there is a CUDA GPU, transformers elsewhere
    unsloth = "unsloth"
    transformers = "transformers"


class Vision(StrEnum):
    frozen = "frozen"  # the vision tower stays as it is
    lora = "lora"  # adapters in the vision tower too


@dataclass(kw_only=True)
class StoreConfig:
    """conf/store: the vision-token store, which serves where the vision tower is frozen. Budgets in 10^9 bytes."""

    enabled: bool = True
    device_gb: float | None = None  # on the model's device; None: half of what is free
    host_gb: float | None = None  # in the host's memory, beside a GPU; None: half of what is free
    disk_gb: float = 100.0  # under cache_dir, for all models together; 0: nothing is written

    def __post_init__(self) -> None:
        check_range("store.device_gb", self.device_gb, 0)
        check_range("store.host_gb", self.host_gb, 0)
        check_range("store.disk_gb", self.disk_gb, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """What a run asks of a backbone. `seed` draws fresh adapters, unless the folder `adapter` has trained ones.

    `merged` is the folder of an exported model, which is loaded instead of the published one. Without `weights` the
    model is on the meta device: it can tokenise and be counted, but not run.
    """

    seed: int
    engine: Engine
    vision: Vision
    cache_dir: Path
    store: StoreConfig = field(default_factory=StoreConfig)
    adapter: Path | None = None
    merged: Path | None = None
    weights: bool = True


@dataclass(kw_only=True)
class LoraConfig:
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685)."""

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_range("model.lora.r", self.r, 1)
        check_range("model.lora.alpha", self.alpha, 1)
        check_range("model.lora.dropout", self.dropout, 0, 1)


@dataclass(kw_only=True)
class ModelConfig(ABC):
    """Base of conf/model: one family of vision-language models."""

    lora: LoraConfig = field(default_factory=LoraConfig)

    unsloth: ClassVar[bool] = False  # whether trainer.engine=auto may choose Unsloth
    licence: ClassVar[str] = "The base model is random, for tests; it has no licence of its own."  # of the base model

    @abstractmethod
    def requirements(self) -> Sequence[str]:
        """What this machine lacks to run the model, a sentence each; empty where it can. Downloads nothing."""

    @abstractmethod
    def build(self, request: BuildRequest) -> Any:
        """A `vlmbench.backbones.base.Backbone`. Raises UserError where the request does not suit the family."""

    def for_export(self) -> ModelConfig:
        """The settings whose weights an adapter can be merged into: those that are not packed into 4 bits."""
        return self
