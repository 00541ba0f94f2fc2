"""Batches of token sequences: padding, labels, positions and attention masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

Batch = dict[str, Any]  # the inputs of a model, by name
PaddingSide = Literal["left", "right"]
IGNORED = -100  # a label that carries no loss
MAX_PAIR_MASK = 512  # positions: longer sequences keep the mask of their rows
# The key of the function that returns those inputs which are still on their way to the device.
PENDING = "pending"


def complete_batch(batch: Batch) -> Batch:
    """Return the batch together with the inputs that were on their way to the device."""
    arrive = batch.pop(PENDING, None)
    return batch if arrive is None else batch | arrive()


def pad(rows: Sequence[Sequence[int]], value: int, padding_side: PaddingSide) -> Tensor:
    """Return rows of different lengths as one int64 tensor (B, L)."""
    import torch

    length = max(len(row) for row in rows)
    padded = []
    for row in rows:
        filling = [value] * (length - len(row))
        padded.append([*row, *filling] if padding_side == "right" else [*filling, *row])
    return torch.tensor(padded, dtype=torch.int64)


def text_batch(
    prompts: Sequence[list[int]],
    answers: Sequence[list[int]] | None,
    *,
    pad_id: int,
    padding_side: PaddingSide,
) -> Batch:
    """Return `input_ids`, `attention_mask`, `position_ids` and, with answers, `labels`: (B, L)."""
    endings = answers if answers is not None else [[] for _ in prompts]
    rows = [prompt + ending for prompt, ending in zip(prompts, endings, strict=True)]
    mask = pad([[1] * len(row) for row in rows], 0, padding_side)

    batch = {
        "input_ids": pad(rows, pad_id, padding_side),
        "attention_mask": mask,
        "position_ids": positions(mask),
    }
    if answers is not None:
        labels = [
            [IGNORED] * len(prompt) + answer
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        batch["labels"] = pad(labels, IGNORED, padding_side)
    return batch


def positions(attention_mask: Tensor) -> Tensor:
    """Return the position of each token within its own row (B, L). Left padding shifts nothing."""
    counted: Tensor = (attention_mask.cumsum(1) - 1).clamp(min=0)
    return counted


def count_positions(batch: Batch) -> int:
    """Return the positions of all rows of a training batch, without padding.

    A batch with neither positions nor a mask of its rows has right padding: a row then ends with
    its answer.
    """
    if "position_ids" in batch:
        return int((batch["position_ids"].amax(1) + 1).sum())

    mask = batch.get("attention_mask")
    if mask is not None and mask.dim() == 2:
        return int(mask.sum())

    is_trained = batch["labels"] != IGNORED
    num_after_answer = is_trained.flip(1).int().argmax(1)
    return int((batch["input_ids"].shape[1] - num_after_answer).sum())


def make_attention_mask(model: Any, attention_mask: Tensor, num_queries: int) -> Tensor:
    """Return where each of the last `num_queries` positions may attend: (B, 1, num_queries, L).

    `attention_mask` (B, L) is 0 for padding. transformers checks whether such a mask is full. For
    that check the processor waits until the GPU has finished all of its work. A full mask saves
    half of the attention, which pays for long sequences only. So longer sequences keep their
    (B, L) mask, and so does every kind of attention that takes no mask of pairs.
    """
    import torch

    length = attention_mask.shape[1]
    kind = model.config.get_text_config()._attn_implementation
    if length > MAX_PAIR_MASK or kind != "sdpa":
        return attention_mask

    shift = length - num_queries
    pairs = torch.ones(num_queries, length, dtype=torch.bool, device=attention_mask.device)
    earlier = pairs.tril(shift)
    itself = earlier.triu(shift)  # padding attends to itself: a row must not be empty
    return earlier & attention_mask.bool()[:, None, None] | itself
