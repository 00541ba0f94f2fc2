"""What a run needs from one family of vision-language models, and what the families share."""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from vlmbench.backbones.saved import load_saved
from vlmbench.config import BuildRequest, Engine, LoraConfig, Vision
from vlmbench.data.pictures import Picture
from vlmbench.types import Sample, UserError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from vlmbench.features.store import TokenStore

Item = TypeVar("Item")
Made = TypeVar("Made")
PaddingSide = Literal["left", "right"]
IGNORED = -100  # a label that carries no loss
SHORT = 512  # positions
AHEAD = 32  # pictures that are ready, or being made so, before the tower takes them
PENDING = "pending"  # a batch's function that gives the inputs which are still on their way to the device


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCount:
    """Positions of a record's whole sequence, and how many of them carry loss."""

    total: int
    trained: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionCost:
    """What the tokens of pictures take: bytes to keep them, floating-point operations to make them once."""

    num_bytes: int
    flops: float


class Backbone(Protocol):
    """One model family, loaded, with its adapters."""

    model: Any  # a peft.PeftModel
    tokenizer: PreTrainedTokenizerBase
    engine: Engine  # the one that runs: never auto
    vision: Vision
    max_tokens: int  # positions that the model can take
    store: TokenStore | None  # of pictures' tokens; None where they are computed anew each time

    def collate(
        self, samples: Sequence[Sample], *, with_answer: bool, padding_side: PaddingSide = "right"
    ) -> dict[str, Any]:
        """Model inputs for a batch: one processor call on the full text. With answers, `labels` (B, L) holds the ids of
        exactly the answer and its end; IGNORED elsewhere."""

    def train_batch(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Model inputs for a training step, with labels, in the form that costs least; complete once `ready`."""

    def count_tokens(self, sample: Sample, sizes: Sequence[tuple[int, int]]) -> TokenCount:
        """Without opening pictures: `sizes` are their (width, height)."""

    def vision_cost(self, size: tuple[int, int]) -> VisionCost:
        """Of one picture of this (width, height), without opening it."""

    def encode(self, images: Sequence[Image]) -> list[Tensor]:
        """Vision tokens of each picture, as the store keeps them: (tokens, size)."""

    def fingerprint(self) -> str:
        """Of everything that encode() depends on."""

    def score(self, samples: Sequence[Sample], labels: Sequence[str]) -> Tensor:
        """Log-probability (B, len(labels)) of each label's words at the start of the answer, in nats."""

    def generate(self, samples: Sequence[Sample], *, max_new_tokens: int) -> list[str]:
        """Greedy answers."""

    def save(self, folder: Path) -> None:
        """Write the adapter (safetensors)."""

    def merge(self) -> None:
        """Add the adapter to the model's own weights, in place and in their type: from here on it has none."""

    def save_merged(self, folder: Path) -> None:
        """Write the merged model and its processor as its publisher does (safetensors); then this backbone is spent."""


def seed_everything(seed: int) -> None:
    """Before anything random is made: adapters drawn before this would differ between runs of one seed."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def choose_engine(engine: Engine) -> tuple[Engine, str]:
    """The engine that runs, and why. Raises UserError where Unsloth is asked for and cannot run."""
    import importlib.util

    import torch

    gpu, installed = torch.cuda.is_available(), importlib.util.find_spec("unsloth") is not None
    if engine is Engine.transformers:
        return engine, "asked for by trainer.engine"
    lacking = "there is no CUDA GPU" if not gpu else "Unsloth is not installed (pip install 'vlmbench[gpu]')"
    if gpu and installed:
        return Engine.unsloth, f"CUDA GPU {torch.cuda.get_device_name(0)}"
    if engine is Engine.unsloth:
        raise UserError(f"trainer.engine=unsloth: {lacking}; set trainer.engine=transformers")
    return Engine.transformers, lacking


def adapted(
    base: Any, request: BuildRequest, *, lora: LoraConfig, targets: str, trained: list[str] | None = None
) -> Any:
    """A PeftModel with adapters: fresh LoRA in the modules that the regular expression `targets` names, or those of
    `request.adapter`. The modules `trained` train in full."""
    import peft

    if request.adapter is not None:
        return load_saved(base, request.adapter)
    model = peft.get_peft_model(base, peft_config(lora, targets, trained), low_cpu_mem_usage=not request.weights)
    if request.weights:
        draw_adapters(model, request.seed)
    return model


def draw_adapters(model: Any, seed: int) -> None:
    """Draw the adapters of a PeftModel anew, in the order of its modules, and put modules that train in full back to
    what they were: one seed gives the same adapters in a new model and in one that has been trained."""
    from peft.tuners.lora import LoraLayer
    from peft.utils import ModulesToSaveWrapper

    seed_everything(seed)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.reset_lora_parameters("default", init_lora_weights=True)
        elif isinstance(module, ModulesToSaveWrapper):
            module.modules_to_save["default"].load_state_dict(module.original_module.state_dict())


def peft_config(lora: LoraConfig, targets: str, trained: list[str] | None = None) -> Any:
    """The peft.LoraConfig of fresh adapters."""
    import peft

    return peft.LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        modules_to_save=trained,
        task_type="CAUSAL_LM",
    )


def merge_adapter(model: Any) -> None:
    """Add the adapter of a PeftModel to its base's weights, in place. Raises UserError where a weight is no number
    afterwards."""
    import torch

    model.merge_adapter(safe_merge=False)
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise UserError(f"{name}: merging the adapter gave a weight that is no number; train with a lower rate")


def pad(rows: Sequence[Sequence[int]], value: int, side: PaddingSide) -> Tensor:
    """(B, L) int64 from rows of different lengths."""
    import torch

    length = max(len(row) for row in rows)
    padded = [
        [*row, *[value] * (length - len(row))] if side == "right" else [*[value] * (length - len(row)), *row]
        for row in rows
    ]
    return torch.tensor(padded, dtype=torch.int64)


def text_batch(
    prompts: Sequence[list[int]], answers: Sequence[list[int]] | None, *, pad_id: int, side: PaddingSide
) -> dict[str, Tensor]:
    """`input_ids`, `attention_mask`, `position_ids` and, with answers, `labels`, all (B, L)."""
    ends = answers if answers is not None else [[] for _ in prompts]
    rows = [prompt + end for prompt, end in zip(prompts, ends, strict=True)]
    mask = pad([[1] * len(row) for row in rows], 0, side)
    batch = {"input_ids": pad(rows, pad_id, side), "attention_mask": mask, "position_ids": positions(mask)}
    if answers is not None:
        labels = [[IGNORED] * len(prompt) + end for prompt, end in zip(prompts, answers, strict=True)]
        batch["labels"] = pad(labels, IGNORED, side)
    return batch


def positions(attention_mask: Tensor) -> Tensor:
    """Position of each token in its own row, so that padding on the left shifts nothing."""
    places: Tensor = (attention_mask.cumsum(1) - 1).clamp(min=0)
    return places


def count_positions(batch: Mapping[str, Any]) -> int:
    """Positions of all rows of a training batch, without what pads.

    Rows without `position_ids` begin with the first position and end with their answer.
    """
    if "position_ids" in batch:
        return int((batch["position_ids"].amax(1) + 1).sum())
    trained = batch["labels"] != IGNORED
    after = trained.flip(1).int().argmax(1)  # positions after the answer
    return int((batch["input_ids"].shape[1] - after).sum())


def may_look(model: Any, attention_mask: Tensor, n: int) -> Tensor:
    """(B, 1, n, L), True where each of the last n positions may look, from a mask (B, L) of what is no padding.

    Of a mask (B, L) transformers wants to know whether it is full, and the processor waits for all that the GPU has to
    do to see it. A full mask lets attention skip half of the work, which pays for long sequences alone: theirs stays as
    it is, as do those of attention that takes no mask of pairs.
    """
    import torch

    length = attention_mask.shape[1]
    if length > SHORT or model.config.get_text_config()._attn_implementation != "sdpa":
        return attention_mask
    pairs = torch.ones(n, length, dtype=torch.bool, device=attention_mask.device)
    own = pairs.tril(length - n).triu(length - n)  # what pads looks at itself: no row is empty
    return pairs.tril(length - n) & attention_mask.bool()[:, None, None] | own


def ready(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch with the inputs that were still on their way to the device."""
    arrive = batch.pop(PENDING, None)
    return batch if arrive is None else batch | arrive()


def keyed(image: Image | Picture) -> Picture:
    """The picture with its key, as the store wants it."""
    return image if isinstance(image, Picture) else Picture(lambda: image)


def opened(image: Image | Picture) -> Image:
    """The picture's pixels."""
    return image.image if isinstance(image, Picture) else image


def ahead(function: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """`function` of each item, in their order: by several threads, some items ahead of whoever asks."""
    waiting: deque[Future[Made]] = deque()
    for item in items:
        waiting.append(_workers().submit(function, item))
        if len(waiting) > AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@cache
def _workers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="pictures")


def to_device(batch: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """The batch on the model's device."""
    device = next(model.parameters()).device
    return {name: _moved(value, device) for name, value in batch.items()}


def pinned(batch: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """The batch in memory from which a GPU copies by itself."""
    if next(model.parameters()).device.type != "cuda":
        return dict(batch)
    return {name: value.pin_memory() if hasattr(value, "pin_memory") else value for name, value in batch.items()}


def _moved(value: Any, device: Any) -> Any:
    if isinstance(value, list):
        return [_moved(one, device) for one in value]
    if not hasattr(value, "to"):
        return value
    if device.type == "cuda" and value.device.type == "cpu":
        value = value.pin_memory()  # else the copy waits for all that is queued
    return value.to(device, non_blocking=True)


def without_gradients(module: Any) -> None:
    """Keep a frozen module out of autograd's graph, also where checkpointing makes its inputs require gradients."""
    import torch

    module.requires_grad_(False)
    module.forward = torch.no_grad()(module.forward)


def tower_flops(tower: Any, positions: int, *, pairs: int, layers: int, width: int) -> float:
    """Operations of a vision transformer: two a weight and position; in each layer, queries with keys and weights with
    values for each pair of positions of which one sees the other."""
    weights: int = sum(weight.numel() for weight in tower.parameters())
    return 2.0 * weights * positions + 4.0 * pairs * width * layers


def content_of(settings: str, *modules: Any) -> str:
    """A fingerprint (128 bits, hexadecimal) of settings and of the modules' weights, their types included."""
    import torch

    digest = hashlib.sha256(settings.encode())
    for module in modules:
        for name, tensor in module.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:32]
