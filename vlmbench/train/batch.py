"""How many of the longest records fit into a training step on this GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from vlmbench.config import AUTO_WITHOUT_GPU
from vlmbench.types import Sample, UserError

if TYPE_CHECKING:
    from vlmbench.backbones.base import Backbone

MOST = 512  # records a step that are tried at most
SHARE = 0.9  # of what just fits: the optimiser's first step, other lengths and fragments take some memory too


def largest_batch(fits: Callable[[int], bool], most: int = MOST) -> int:
    """The largest number up to `most` for which `fits` holds, found by doubling and halving the gap; 0 for none.

    `fits` must hold for all numbers below one for which it holds.
    """
    good, bad = 0, 1
    while bad <= most and fits(bad):
        good, bad = bad, 2 * bad
    bad = min(bad, most + 1)
    while bad - good > max(1, good // 8):  # near enough
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Records a step for `trainer.batch_size=auto`, whether activations are checkpointed for it, and why."""

    batch_size: int
    gradient_checkpointing: bool
    why: str


def choose_batch_size(backbone: Backbone, longest: Sample, *, checkpointing: bool, vision_bytes: int) -> Choice:
    """Tried on the longest record, with room left for what the store will keep of `vision_bytes` of tokens. Where not
    even one fits, `checkpointing` is switched on.

    Raises UserError where one record does not fit with it either.
    """
    import torch

    if not torch.cuda.is_available():
        why = "there is no CUDA GPU whose memory could be tried"
        return Choice(batch_size=AUTO_WITHOUT_GPU, gradient_checkpointing=checkpointing, why=why)
    why = f"{SHARE:.0%} of what fits on {torch.cuda.get_device_name(0)} of the longest record"
    find = partial(find_batch_size, backbone, longest, vision_bytes=vision_bytes)
    found = find(checkpointing=checkpointing)
    if found == 0 and not checkpointing:
        checkpointing, why = True, f"{why}, with gradient checkpointing: without it not even one does"
        found = find(checkpointing=True)
    if found == 0:
        raise UserError(
            f"record {longest.record.id!r} alone takes more memory than the GPU has, even with gradient checkpointing; "
            "set model.bits=4, or lower trainer.max_tokens, store.device_gb or the pictures' tiles"
        )
    return Choice(batch_size=_divisible(found), gradient_checkpointing=checkpointing, why=why)


def _divisible(number: int) -> int:
    """At most 3 fewer: what does not fit after all is halved, and halves make the same step."""
    return number - number % 4 if number >= 4 else number - number % 2 if number >= 2 else number


def find_batch_size(backbone: Backbone, longest: Sample, *, checkpointing: bool = False, vision_bytes: int = 0) -> int:
    """Try forward and backward passes on copies of the longest record; 0 where not even one fits. Adapters and the
    random state are left alone."""
    import torch

    kept = 0 if backbone.store is None else backbone.store.device_bytes_to_come(vision_bytes)
    try:
        reserved = torch.empty(kept, dtype=torch.uint8, device=next(backbone.model.parameters()).device)
    except torch.OutOfMemoryError:
        return 0
    base = backbone.model.get_base_model()
    backbone.model.train()
    if checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            fitting = largest_batch(lambda number: _fits(backbone, longest, number))
    finally:
        if checkpointing:
            base.gradient_checkpointing_disable()
        del reserved
    return fitting and max(1, int(fitting * SHARE))


def _fits(backbone: Backbone, longest: Sample, number: int) -> bool:
    import torch

    from vlmbench.backbones.base import ready, to_device

    try:
        batch: dict[str, Any] = to_device(ready(backbone.train_batch([longest] * number)), backbone.model)
        with torch.autocast(batch["input_ids"].device.type, dtype=torch.bfloat16):
            loss = backbone.model(**batch, use_cache=False).loss
        loss.backward()
    except torch.OutOfMemoryError:
        return False
    finally:
        batch, loss = {}, None
        backbone.model.zero_grad(set_to_none=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return True
