"""The contract between a run and one family of vision-language models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vlmbench.backbones.batches import Batch, PaddingSide
from vlmbench.backbones.layout import Size
from vlmbench.backbones.maps import FeatureMap, Features
from vlmbench.config import Engine, Vision
from vlmbench.types import LazyImage, Sample, TokenCount, UserError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from vlmbench.features.store import TokenStore


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionCost:
    """The cost of encoding images once: bytes of the stored tokens, floating-point operations.

    `num_bytes` is 0 for a family that stores no tokens: it encodes an image whenever it is shown.
    """

    num_bytes: int
    flops: float


class Backbone(Protocol):
    """A loaded model with its adapters."""

    model: Any  # a peft.PeftModel
    tokenizer: PreTrainedTokenizerBase
    engine: Engine  # the engine that runs, never `auto`
    vision: Vision
    max_tokens: int  # the longest sequence of the model, in positions
    store: TokenStore | None  # None: images are encoded each time that they are shown

    def collate(
        self,
        samples: Sequence[Sample],
        *,
        with_answer: bool,
        padding_side: PaddingSide = "right",
    ) -> Batch:
        """Return the model's inputs for a batch.

        With answers, `labels` (B, L) holds the tokens of exactly the answer and its end. It holds
        IGNORED at all other positions.
        """

    def prepare_training(self, samples: Sequence[Sample]) -> None:
        """Fit to the training samples whatever does not train by steps. Most families do nothing.

        The result is part of the adapter. Equal samples give an equal result.
        """

    def train_batch(self, samples: Sequence[Sample]) -> Batch:
        """Return the inputs of a training step, with labels, in the cheapest form.

        Pass the result to `complete_batch` before the model sees it.
        """

    def count_tokens(self, sample: Sample, sizes: Sequence[Size]) -> TokenCount:
        """Return the tokens of a sample whose images have these (width, height); open no image."""

    def vision_cost(self, size: Size) -> VisionCost:
        """Return the cost of encoding one image of `size` (width, height), without opening it."""

    def score(self, samples: Sequence[Sample], labels: Sequence[str]) -> Tensor:
        """Return log-probabilities (B, len(labels)) in nats.

        Each is the log-probability that the answer begins with the words of the label.
        """

    def generate(self, samples: Sequence[Sample], *, max_new_tokens: int) -> list[str]:
        """Return greedy answers."""

    def feature_maps(self, images: Sequence[LazyImage]) -> list[FeatureMap]:
        """Return what the vision tower sees at each location of each image, without padding.

        Raise NoFeaturesError if the family has no such map.
        """

    def image_features(self, images: Sequence[LazyImage]) -> list[Features]:
        """Return numbers of the vision tower that describe each whole image.

        Raise NoFeaturesError if the family has none.
        """

    def save(self, folder: Path) -> None:
        """Write the adapter to `folder` (safetensors)."""

    def merge(self) -> None:
        """Add the adapter to the model's own weights, in place and in their type."""

    def save_merged(self, folder: Path) -> None:
        """Write the merged model and its processor in the publisher's layout (safetensors).

        This backbone cannot be used afterwards.
        """


def choose_engine(engine: Engine) -> tuple[Engine, str]:
    """Return the engine that runs, and the reason.

    Raises UserError if the settings require Unsloth and Unsloth cannot run.
    """
    import importlib.util

    import torch

    if engine is Engine.transformers:
        return engine, "set by trainer.engine"

    has_gpu = torch.cuda.is_available()
    is_installed = importlib.util.find_spec("unsloth") is not None
    if has_gpu and is_installed:
        return Engine.unsloth, f"CUDA GPU {torch.cuda.get_device_name(0)}"

    if has_gpu:
        reason = "Unsloth is not installed (pip install 'vlmbench[gpu]')"
    else:
        reason = "there is no CUDA GPU"
    if engine is Engine.unsloth:
        raise UserError(f"trainer.engine=unsloth: {reason}; set trainer.engine=transformers")
    return Engine.transformers, reason
