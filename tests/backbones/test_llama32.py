"""What only Llama-3.2-Vision needs: words before the images see the record's own images."""

from __future__ import annotations

import pytest
import torch

from vlmbench.backbones.llama32 import attend_to_own_images

LOW = torch.finfo(torch.float32).min


@pytest.mark.parametrize("kind", ["added", "boolean"])
def test_words_before_the_images_see_what_the_later_ones_see(kind: str) -> None:
    """Two records of three words, four tiles. The first word stands before the images."""
    allowed = torch.tensor(
        [[[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]], [[1, 1, 1, 1], [0, 0, 1, 0], [1, 0, 1, 0]]],
        dtype=torch.bool,
    )[:, None]
    expected = allowed.clone()
    expected[0, 0, 0] = torch.tensor([True, True, False, False])
    expected[1, 0, 0] = torch.tensor([True, False, True, False])

    inputs = {
        "cross_attention_mask": allowed if kind == "boolean" else torch.where(allowed, 0.0, LOW),
        "full_text_row_masked_out_mask": torch.tensor([0.0, 1.0, 1.0]).expand(2, 3)[
            :, None, :, None
        ],
        "position_ids": None,
    }
    _, changed = attend_to_own_images(None, (), inputs)
    assert set(changed) == set(inputs)

    mask = changed["cross_attention_mask"]
    assert torch.equal(mask if kind == "boolean" else mask == 0, expected)
    if kind == "added":
        assert set(mask.unique().tolist()) == {0.0, LOW}


def test_without_a_mask_nothing_changes() -> None:
    inputs = {"cross_attention_mask": None, "full_text_row_masked_out_mask": None}
    assert attend_to_own_images(None, (), inputs) == ((), inputs)
