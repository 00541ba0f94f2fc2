"""Batches of token sequences, and their attention masks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.masking_utils import create_causal_mask

from vlmbench.backbones.batches import (
    IGNORED,
    MAX_PAIR_MASK,
    PENDING,
    complete_batch,
    count_positions,
    make_attention_mask,
)


def make_model(attention: str) -> Any:
    return SimpleNamespace(config=LlamaConfig(attn_implementation=attention))


@pytest.mark.parametrize("num_queries", [7, 3, 1])
def test_the_mask_of_pairs_is_transformers_own_where_nothing_pads(num_queries: int) -> None:
    """Rows of padding may differ, but must not be empty."""
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]])
    model = make_model("sdpa")
    pairs = make_attention_mask(model, mask, num_queries)

    expected = create_causal_mask(
        model.config, torch.empty(2, 7, 1), mask, None, allow_is_causal_skip=False
    )[:, :, -num_queries:]
    assert pairs.dtype == torch.bool
    assert pairs.shape == (2, 1, num_queries, 7)

    is_text = mask.bool()[:, -num_queries:]
    assert torch.equal(pairs[:, 0][is_text], expected[:, 0][is_text])
    assert pairs.any(-1).all()


@pytest.mark.parametrize(
    ("length", "attention"),
    [(MAX_PAIR_MASK + 1, "sdpa"), (8, "eager"), (8, "flash_attention_2")],
)
def test_masks_of_long_sequences_and_other_attention_stay(length: int, attention: str) -> None:
    text_config = SimpleNamespace(_attn_implementation=attention)
    model = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: text_config))
    mask = torch.ones(2, length)
    assert make_attention_mask(model, mask, length) is mask


def test_a_batch_is_complete_when_the_inputs_on_their_way_have_arrived() -> None:
    batch = {"input_ids": 1, PENDING: lambda: {"image_features": 2}}
    assert complete_batch(batch) == {"input_ids": 1, "image_features": 2}
    assert complete_batch({"input_ids": 1}) == {"input_ids": 1}


def test_positions_are_counted_from_whatever_the_batch_has() -> None:
    """Rows of 3 and 2 positions, padded on the right."""
    labels = torch.tensor([[IGNORED, 5, 6], [IGNORED, 5, IGNORED]])
    batch = {"labels": labels, "input_ids": torch.ones(2, 3)}
    assert count_positions(batch) == 5

    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    assert count_positions(batch | {"attention_mask": mask}) == 5

    position_ids = torch.tensor([[0, 1, 2], [0, 1, 1]])
    assert count_positions(batch | {"position_ids": position_ids}) == 5
