"""What the families of models share."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.masking_utils import create_causal_mask

from vlmbench.backbones.base import SHORT, may_look


def a_model(attention: str) -> Any:
    return SimpleNamespace(config=LlamaConfig(attn_implementation=attention))


@pytest.mark.parametrize("n", [7, 3, 1])
def test_the_mask_of_pairs_is_transformers_own_where_nothing_pads(n: int) -> None:
    """Positions that pad are nobody's business, but that their rows are not empty."""
    seen = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]])
    model = a_model("sdpa")
    found = may_look(model, seen, n)
    expected = create_causal_mask(model.config, torch.empty(2, 7, 1), seen, None, allow_is_causal_skip=False)[:, :, -n:]
    assert found.dtype == torch.bool
    assert found.shape == (2, 1, n, 7)
    real = seen.bool()[:, -n:]
    assert torch.equal(found[:, 0][real], expected[:, 0][real])
    assert found.any(-1).all()


@pytest.mark.parametrize(("length", "attention"), [(SHORT + 1, "sdpa"), (8, "eager"), (8, "flash_attention_2")])
def test_masks_of_long_sequences_and_other_attention_stay(length: int, attention: str) -> None:
    model = SimpleNamespace(
        config=SimpleNamespace(get_text_config=lambda: SimpleNamespace(_attn_implementation=attention))
    )
    seen = torch.ones(2, length)
    assert may_look(model, seen, length) is seen
