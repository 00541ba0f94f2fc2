"""trainer.batch_size=auto: how many of the longest records fit into a training step on this GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from vlmbench.backbones.precision import compute_type
from vlmbench.config import AUTO_WITHOUT_GPU, Precision
from vlmbench.types import Sample, UserError

if TYPE_CHECKING:
    from vlmbench.backbones.contract import Backbone

MAX_BATCH = 512  # records a step
FEW, MORE = 2, 8  # records whose memory is measured: the memory of a step is linear in its records
# Share of the batch that just fits. The optimiser's first step, other lengths and fragments take
# some memory too. With 0.9, one of two runs on an H100 ran out of it; that costs 25 s, and the
# share 2 % of the speed.
SHARE = 0.85


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Records a step, whether activations are checkpointed for it, and the reason."""

    batch_size: int
    gradient_checkpointing: bool
    reason: str


def choose_batch_size(
    backbone: Backbone,
    longest: Sample,
    *,
    checkpointing: bool,
    vision_bytes: int,
    precision: Precision = Precision.auto,
) -> Choice:
    """Return the batch size that fits on this GPU, tried on the longest record.

    Room is left for the part of `vision_bytes` of tokens that the store will keep on the GPU. If
    not even one record fits, gradient checkpointing is switched on. Raise UserError if one record
    does not fit then either.
    """
    import torch

    if not torch.cuda.is_available():
        reason = "there is no CUDA GPU whose memory could be tried"
        return Choice(
            batch_size=AUTO_WITHOUT_GPU, gradient_checkpointing=checkpointing, reason=reason
        )

    gpu = torch.cuda.get_device_name(0)
    reason = f"{SHARE:.0%} of what fits on {gpu} of the longest record"
    find = partial(
        find_batch_size, backbone, longest, vision_bytes=vision_bytes, precision=precision
    )

    batch_size = find(checkpointing=checkpointing)
    if batch_size == 0 and not checkpointing:
        checkpointing = True
        reason += ", with gradient checkpointing: without it not even one record fits"
        batch_size = find(checkpointing=True)

    if batch_size == 0:
        raise UserError(
            f"record {longest.record.id!r} alone takes more memory than the GPU has, even with "
            "gradient checkpointing; set model.bits=4, or lower trainer.max_tokens, "
            "store.device_gb or the number of image tiles"
        )
    return Choice(
        batch_size=_round_down(batch_size), gradient_checkpointing=checkpointing, reason=reason
    )


def find_batch_size(
    backbone: Backbone,
    longest: Sample,
    *,
    checkpointing: bool = False,
    vision_bytes: int = 0,
    precision: Precision = Precision.auto,
) -> int:
    """Try forward and backward passes on copies of the longest record; return 0 if none fits.

    Nothing is compiled for them: a compiler would make code for each number of records, which
    training would throw away. Adapters and the random state stay as they are.
    """
    import torch

    device = next(backbone.model.parameters()).device
    store = backbone.store
    store_bytes = 0 if store is None else store.device_bytes_to_come(vision_bytes)
    try:
        reserved = torch.empty(store_bytes, dtype=torch.uint8, device=device)
    except torch.OutOfMemoryError:
        return 0

    base = backbone.model.get_base_model()
    backbone.model.train()
    if checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})

    try:
        with (
            torch.random.fork_rng(devices=range(torch.cuda.device_count())),
            torch.compiler.set_stance("force_eager"),
        ):
            peak_bytes = partial(_peak_bytes, backbone, longest, dtype=compute_type(precision))
            return search_batch(peak_bytes, _memory_of(device))
    finally:
        if checkpointing:
            base.gradient_checkpointing_disable()
        del reserved


def search_batch(peak_bytes: Callable[[int], int | None], memory: int) -> int:
    """Return SHARE of the largest number of records whose peak fits into `memory` (bytes).

    `peak_bytes(number)` is None if they do not fit. The number returned was tried.
    """
    if peak_bytes(1) is None:  # this first pass loads libraries too
        return 0

    few, more = peak_bytes(FEW), peak_bytes(MORE)
    if few is None or more is None or more <= few:
        largest = largest_batch(lambda number: peak_bytes(number) is not None)
        return max(1, int(largest * SHARE))

    each = (more - few) / (MORE - FEW)
    number = int(min(MAX_BATCH, MORE + (memory - more) / each) * SHARE)
    while number > MORE and peak_bytes(number) is None:
        number = int(number * SHARE)
    return max(number, MORE)


def largest_batch(fits: Callable[[int], bool], limit: int = MAX_BATCH) -> int:
    """Return about the largest number up to `limit` for which `fits` holds; 0 if there is none.

    `fits` must hold for every number below one for which it holds. The search doubles, then halves
    the gap to an eighth of the number.
    """
    good, bad = 0, 1
    while bad <= limit and fits(bad):
        good, bad = bad, 2 * bad

    bad = min(bad, limit + 1)
    while bad - good > max(1, good // 8):
        middle = (good + bad) // 2
        if fits(middle):
            good = middle
        else:
            bad = middle
    return good


def _memory_of(device: Any) -> int:
    """Return the bytes that this process may hold on a GPU; 0 without one."""
    import torch

    if device.type != "cuda":
        return 0
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return int(free) + int(torch.cuda.memory_reserved(device))


def _peak_bytes(backbone: Backbone, longest: Sample, number: int, *, dtype: Any) -> int | None:
    """Return the most bytes that a step's passes hold on the GPU; None if they do not fit."""
    import torch

    from vlmbench.backbones.batches import complete_batch
    from vlmbench.backbones.devices import to_device

    has_gpu = next(backbone.model.parameters()).is_cuda
    if has_gpu:
        torch.cuda.reset_peak_memory_stats()

    batch: dict[str, Any] = {}
    loss = None
    try:
        batch = to_device(complete_batch(backbone.train_batch([longest] * number)), backbone.model)
        is_mixed = dtype is not torch.float32
        with torch.autocast(batch["input_ids"].device.type, dtype=dtype, enabled=is_mixed):
            loss = backbone.model(**batch, use_cache=False).loss
        loss.backward()
    except torch.OutOfMemoryError:
        return None
    finally:
        batch, loss = {}, None
        backbone.model.zero_grad(set_to_none=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return torch.cuda.max_memory_allocated() if has_gpu else 0


def _round_down(number: int) -> int:
    """Return at most 3 fewer, divisible by 4 or 2: halves of it then make the same step."""
    if number >= 4:
        return number - number % 4
    if number >= 2:
        return number - number % 2
    return number
