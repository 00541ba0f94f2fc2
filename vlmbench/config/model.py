"""Settings of models: engine, adapters, vision-token store, and the request to build a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

from vlmbench.config.settings import Settings, setting


class Engine(StrEnum):
    """The library that loads and trains a model."""

    auto = "auto"  # Unsloth on a CUDA GPU, transformers elsewhere
    unsloth = "unsloth"
    transformers = "transformers"


class Vision(StrEnum):
    """Whether the vision tower trains."""

    frozen = "frozen"  # the vision tower stays unchanged
    lora = "lora"  # the vision tower gets adapters too


class Precision(StrEnum):
    """The type of numbers in which a model computes."""

    auto = "auto"  # bf16 if the GPU has it, else fp16; float32 without a GPU
    bf16 = "bf16"
    fp16 = "fp16"  # with a scaled loss


@dataclass(kw_only=True)
class StoreConfig(Settings):
    """conf/store: the vision-token store, which needs a frozen vision tower.

    Budgets are in 10^9 bytes.
    """

    config_group: ClassVar[str] = "store"

    enabled: bool = setting(
        True, "Encode each image once; false: encode it whenever a record shows it."
    )
    device_gb: float | None = setting(
        None,
        "GB on the model's device; null: half of the free memory.",
        at_least=0,
        cure="null",
    )
    host_gb: float | None = setting(
        None,
        "GB in the host's memory, with a GPU only; null: half of the free memory.",
        at_least=0,
        cure="null",
    )
    disk_gb: float = setting(
        100.0, "GB under cache_dir, for all models together; 0: store nothing on disk.", at_least=0
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """How a backbone builds its model.

    `seed` draws fresh adapters, unless the folder `adapter` holds trained ones. `merged` is the
    folder of an exported model, which replaces the published one. Without `weights`, the model is
    on the meta device: it tokenises and counts, but does not run.
    """

    seed: int
    engine: Engine
    vision: Vision
    cache_dir: Path
    store: StoreConfig = field(default_factory=StoreConfig)
    precision: Precision = Precision.auto
    adapter: Path | None = None
    merged: Path | None = None
    weights: bool = True


@dataclass(kw_only=True)
class LoraConfig(Settings):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685)."""

    config_group: ClassVar[str] = "model.lora"

    r: int = setting(16, "Rank of the adapters.", at_least=1)
    alpha: int = setting(32, "The adapters' output is scaled by alpha / r.", at_least=1)
    dropout: float = setting(
        0.0, "Dropout on the adapters' input, a probability.", at_least=0, at_most=1
    )


@dataclass(kw_only=True)
class ModelConfig(Settings, ABC):
    """Base of conf/model: one family of vision-language models."""

    config_group: ClassVar[str] = "model"

    lora: LoraConfig = field(default_factory=LoraConfig)

    # trainer.engine=auto chooses Unsloth for runs that show at least so many records; None: never.
    unsloth_from: ClassVar[int | None] = None
    # The base model's licence; a family of published models sets its own.
    licence: ClassVar[str] = "The base model is random, for tests; it has no licence of its own."

    @abstractmethod
    def requirements(self) -> Sequence[str]:
        """Return what this machine lacks to run the model, a sentence each. Download nothing."""

    def why_not_unsloth(self) -> str:
        """Return why the model does not run on Unsloth, "" if it may. Download nothing."""
        return "" if self.unsloth_from is not None else "Unsloth does not know it"

    def check_precision(self, precision: Precision) -> None:
        """Raise UserError if the model is known to fail in this precision. Download nothing."""

    @abstractmethod
    def build(self, request: BuildRequest) -> Any:
        """Return a `vlmbench.backbones.contract.Backbone`.

        Raise UserError if the family cannot build the request.
        """

    def base_hash(self, cache_dir: Path) -> str:
        """Return the identity of the base model's files, "" for a model that vlmbench makes."""
        return ""

    def for_export(self) -> ModelConfig:
        """Return the settings of a model that an adapter can merge into, without 4-bit weights."""
        return self
