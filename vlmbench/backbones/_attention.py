"""Cross-attention with grouped heads (arXiv:2305.13245) whose keys and values are not copied for each query head.

transformers copies them wherever there is a mask. With thousands of picture tokens a record, in each of eight layers,
and kept for the backward pass, the copies take most of the memory of a training step. Here the query heads of a group
are laid one after the other instead, as more queries: what is computed is the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_folded"


def use_folded_attention(decoder: Any) -> None:
    """Let the cross-attention of a decoder on `sdpa` fold its query heads; other attention is left alone."""
    if decoder.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, folded_attention)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        decoder.config._attn_implementation = NAME


def folded_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """As transformers' `sdpa_attention_forward`: `query` (B, heads, L, D), `key` and `value` (B, groups, N, D), mask
    (B, 1, L, N); gives (B, L, heads, D). Cross-attention is told by its `k_norm`; it is never causal."""
    if not hasattr(module, "k_norm"):
        attended: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return attended
    batch, heads, length, size = query.shape
    groups = key.shape[1]
    share = heads // groups
    if attention_mask is not None:
        attention_mask = attention_mask.repeat(1, 1, share, 1)
    out = torch.nn.functional.scaled_dot_product_attention(
        query.reshape(batch, groups, share * length, size),
        key,
        value,
        attn_mask=attention_mask,
        dropout_p=dropout,
        scale=scaling,
    )
    return out.view(batch, heads, length, size).transpose(1, 2).contiguous(), None
