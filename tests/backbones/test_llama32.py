"""What is particular to Llama-3.2-Vision."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tests.backbones.test_contract import build, sample
from vlmbench.backbones._attention import folded_attention
from vlmbench.backbones.llama32 import see_own_pictures

LOW = torch.finfo(torch.float32).min


@pytest.mark.parametrize("kind", ["added", "boolean"])
def test_words_before_the_pictures_see_what_the_later_ones_see(kind: str) -> None:
    """Two records of three words; the first word of each stands before the pictures. Four places for tiles."""
    may_look = torch.tensor(
        [[[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]], [[1, 1, 1, 1], [0, 0, 1, 0], [1, 0, 1, 0]]], dtype=torch.bool
    )[:, None]
    expected = may_look.clone()
    expected[0, 0, 0] = torch.tensor([True, True, False, False])
    expected[1, 0, 0] = torch.tensor([True, False, True, False])
    sees = torch.tensor([0.0, 1.0, 1.0]).expand(2, 3)[:, None, :, None]
    mask = may_look if kind == "boolean" else torch.where(may_look, 0.0, LOW)
    inputs = {"cross_attention_mask": mask, "full_text_row_masked_out_mask": sees, "position_ids": None}
    _, changed = see_own_pictures(None, (), inputs)
    found = changed["cross_attention_mask"]
    assert torch.equal(found if kind == "boolean" else found == 0, expected)
    assert set(changed) == set(inputs)
    if kind == "added":
        assert set(found.unique().tolist()) == {0.0, LOW}


def test_without_a_mask_nothing_changes() -> None:
    inputs = {"cross_attention_mask": None, "full_text_row_masked_out_mask": None}
    assert see_own_pictures(None, (), inputs) == ((), inputs)


@pytest.mark.parametrize("kind", ["none", "boolean", "added"])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_folded_attention_is_attention(kind: str, groups: int) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 6, 5, 8, generator=generator, requires_grad=True)
    key, value = (torch.randn(2, groups, 9, 8, generator=generator, requires_grad=True) for _ in range(2))
    boolean = torch.rand(2, 1, 5, 9, generator=generator) > 0.4
    mask = {"none": None, "boolean": boolean, "added": torch.where(boolean, 0.0, LOW)}[kind]
    module: Any = SimpleNamespace(num_key_value_groups=6 // groups, k_norm=None, is_causal=False)
    expected, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=0.3)
    gradients = torch.autograd.grad(expected.square().sum(), (query, key, value))
    found, _ = folded_attention(module, query, key, value, mask, scaling=0.3)
    torch.testing.assert_close(found, expected)
    for one, other in zip(torch.autograd.grad(found.square().sum(), (query, key, value)), gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_self_attention_is_left_as_it_is() -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 4, 5, 8, generator=generator)
    key, value = (torch.randn(1, 2, 5, 8, generator=generator) for _ in range(2))
    module: Any = SimpleNamespace(num_key_value_groups=2, is_causal=True)
    found, _ = folded_attention(module, query, key, value, None)
    assert torch.equal(found, sdpa_attention_forward(module, query, key, value, None)[0])


def test_the_decoder_folds_and_answers_as_it_did(shared_cache: Path) -> None:
    backbone = build("llama32_tiny", shared_cache)
    decoder = backbone.model.get_base_model().model.language_model
    assert decoder.config._attn_implementation == "sdpa_folded"
    folded = backbone.score([sample(0)], ["normal", "abnormal"])
    decoder.config._attn_implementation = "sdpa"
    torch.testing.assert_close(backbone.score([sample(0)], ["normal", "abnormal"]), folded)
