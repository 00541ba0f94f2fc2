"""Mllama's attention at less cost: what is computed is the same.

Cross-attention has grouped heads (arXiv:2305.13245) over thousands of picture tokens a record. The stock way copies
keys and values for each query head wherever there is a mask; kept for the backward pass, in each of eight layers, the
copies take most of the memory of a training step. And it reads the pictures' tokens four times a layer: for keys, for
values, and for the adapters of both. Here the query heads of a group are laid one after the other, as more queries,
and both adapters read at once.

In the tower, tokens of empty places (tiles that a picture does not use, and what fills a tile up) look at tokens that
show something, and not at each other. The stock way computes those pairs too, and masks them: of four places with one
tile, more than half of all pairs. Here tokens that show something stand first, and there is no mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from vlmbench.backbones._lean import only_adapter


def use_lean_cross_attention(decoder: Any) -> None:
    """Put it in the place of the cross-attention of Mllama's decoder; the modules, and their names, stay."""
    for module in decoder.modules():
        if hasattr(module, "k_norm"):  # self-attention has no norms
            module.forward = partial(cross_attention, module)


def cross_attention(
    module: Any,
    hidden_states: Tensor,
    cross_attention_states: Any = None,
    past_key_values: Any | None = None,
    attention_mask: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What words (B, L, hidden) take from pictures (B, N, hidden), or from the cache where these were seen before:
    generate() hands them over with every word.

    The mask, (B, 1, L, N), is True or 0 where a word may look. Gives (B, L, hidden) and no weights.
    """
    query = module.q_norm(_by_head(module.q_proj(hidden_states), module.head_dim))
    if past_key_values is not None and past_key_values.get_seq_length(module.layer_idx):
        seen = past_key_values.layers[module.layer_idx]
        key, value = seen.keys, seen.values
    else:
        # From the tower they come as (B x pictures x tiles, tokens, hidden).
        pictures = cross_attention_states.reshape(len(hidden_states), -1, cross_attention_states.shape[-1])
        projected = project_both(pictures, module.k_proj, module.v_proj)
        key, value = (_by_head(states, module.head_dim) for states in projected)
        key = module.k_norm(key)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, module.layer_idx)
    dropout = module.dropout if module.training else 0.0
    attended = folded_attention(query, key, value, attention_mask, dropout=dropout, scale=module.scaling)
    return module.o_proj(attended.transpose(1, 2).flatten(2)), None


def _by_head(states: Tensor, size: int) -> Tensor:
    return states.unflatten(-1, (-1, size)).transpose(1, 2)


def folded_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, dropout: float = 0.0, scale: float | None = None
) -> Tensor:
    """Attention of `query` (B, heads, L, D) to `key` and `value` (B, groups, N, D) under a mask (B, 1, L, N):
    (B, heads, L, D)."""
    batch, heads, length, size = query.shape
    groups = key.shape[1]
    share = heads // groups
    out = scaled_dot_product_attention(
        query.reshape(batch, groups, share * length, size),
        key,
        value,
        attn_mask=None if mask is None else mask.repeat(1, 1, share, 1),
        dropout_p=dropout,
        scale=scale,
    )
    return out.reshape(batch, heads, length, size)  # on a GPU, not always laid out as it is indexed


def project_both(states: Tensor, first: Any, second: Any) -> tuple[Tensor, Tensor]:
    """`first(states), second(states)`; where both are LoRA layers, their first matrices are one product."""
    adapters = [only_adapter(layer) for layer in (first, second)]
    if None in adapters:
        return first(states), second(states)
    dtype = states.dtype
    downs = [layer.lora_A[name].weight for layer, name in zip((first, second), adapters, strict=True)]
    low = linear(states, torch.cat(downs).to(dtype)).split([len(down) for down in downs], -1)
    # Scaled while small: the backward pass would make a scaled copy of the large gradient.
    one, other = (
        layer.base_layer(states) + linear(part * layer.scaling[name], layer.lora_B[name].weight.to(dtype))
        for layer, name, part in zip((first, second), adapters, low, strict=True)
    )
    return one, other


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """Which tokens of each picture are computed: `order`, (B, K) of S, of which the first `counts` show something.

    The last `tile` of them also stand for `copies` tiles that are the same. `places`, (B, S): where each token's value
    is found among the K."""

    counts: list[int]
    order: Tensor
    places: Tensor
    tile: int
    copies: int


def use_tile_attention(vision_model: Any) -> None:
    """Put it in the place of the attention of Mllama's tower; the modules, and their names, stay."""
    local, whole = vision_model.transformer, vision_model.global_transformer
    taken = [range(len(local.layers))[index] for index in vision_model.intermediate_layers_indices]
    before = partial(_shown_first, num_tiles=vision_model.max_num_tiles, folds=_unused_tiles_are_the_same(vision_model))
    for encoder, layers in ((local, taken), (whole, [])):
        encoder.register_forward_pre_hook(before, with_kwargs=True)
        encoder.register_forward_hook(partial(_as_they_stood, layers=layers), with_kwargs=True)
        for layer in encoder.layers:
            layer.self_attn.forward = partial(tile_attention, layer.self_attn)


def _unused_tiles_are_the_same(vision_model: Any) -> bool:
    """Whether weights make no difference between the tiles that a picture does not use, nor dropout."""
    if any(isinstance(module, torch.nn.Dropout) and module.p for module in vision_model.modules()):
        return False
    ratios = vision_model.config.supported_aspect_ratios
    used = [0, *(height * width for height, width in ratios)]  # tiles by the number of the aspect ratio
    embeddings = (
        vision_model.gated_positional_embedding.tile_embedding.weight,
        vision_model.pre_tile_positional_embedding.embedding.weight,
        vision_model.post_tile_positional_embedding.embedding.weight,
    )
    if any(embedding.is_meta or embedding.requires_grad for embedding in embeddings):
        return False
    return not any(
        row.view(vision_model.max_num_tiles, -1)[number:].any()
        for embedding in embeddings
        for row, number in zip(embedding.detach(), used, strict=True)
    )


def _shown_first(
    encoder: Any, args: tuple[Tensor, ...], inputs: dict[str, Any], *, num_tiles: int, folds: bool
) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """A hook before an encoder, whose tokens are (B, S, hidden): empty is what may not look at itself."""
    empty = inputs["attention_mask"][:, 0].diagonal(dim1=-2, dim2=-1) != 0
    shown = arrange(empty, num_tiles=num_tiles, folds=folds)
    (states,) = args
    return (_picked(states, shown.order),), {**inputs, "attention_mask": shown}


def arrange(empty: Tensor, *, num_tiles: int, folds: bool) -> Shown:
    """How tokens are computed of which some are `empty` (B, S); with `folds`, one of the tiles that are so as a whole:
    as many are left out as every picture of the batch can spare."""
    length = empty.shape[1]
    tile = length // num_tiles
    unused = empty.unflatten(1, (num_tiles, tile)).all(2)
    counts, spare = torch.stack([(~empty).sum(1), unused.sum(1)]).tolist()  # one look at the GPU
    copies = max(0, min(spare) - 1) if folds else 0
    # What shows something, what is empty, the tile that stands for others, those others.
    number, last = unused.cumsum(1), unused.sum(1, keepdim=True) - copies
    rank = 1 + unused * ((number >= last).int() + (number > last).int())
    order = torch.where(empty, rank.repeat_interleave(tile, 1), 0).argsort(dim=1, stable=True)
    places, kept = order.argsort(dim=1), length - copies * tile
    places = torch.where(places < kept, places, kept - tile + (places - kept) % tile)
    return Shown(counts=counts, order=order[:, :kept], places=places, tile=tile, copies=copies)


def _as_they_stood(
    encoder: Any, args: tuple[Any, ...], inputs: dict[str, Any], output: Any, *, layers: Sequence[int]
) -> Any:
    """A hook after an encoder. Of what its layers gave, the tower takes that of `layers`; the rest is left out."""
    places = inputs["attention_mask"].places
    output.last_hidden_state = _picked(output.last_hidden_state, places)
    output.hidden_states = tuple(
        _picked(states, places) if number in layers else None for number, states in enumerate(output.hidden_states)
    )
    return output


def _picked(states: Tensor, places: Tensor) -> Tensor:
    return states.gather(1, places[..., None].expand(-1, -1, states.shape[-1]))


def tile_attention(module: Any, hidden_states: Tensor, attention_mask: Shown, **kwargs: Any) -> tuple[Tensor, None]:
    """Attention among the computed tokens (B, K, hidden) of each picture."""
    query, key, value = (
        _by_head(project(hidden_states), module.head_dim) for project in (module.q_proj, module.k_proj, module.v_proj)
    )
    copied = [slice(None), *[slice(-attention_mask.tile, None)] * attention_mask.copies]
    parts, start = [], 0
    for shown, alike in groupby(attention_mask.counts):
        rows = slice(start, start := start + len(list(alike)))
        looking, empty = query[rows].split([shown, query.shape[2] - shown], 2)
        keys, values = (torch.cat([states[rows, :, part] for part in copied], 2) for states in (key, value))
        seen = scaled_dot_product_attention(looking, keys, values, scale=module.scaling)
        filled = scaled_dot_product_attention(empty, key[rows, :, :shown], value[rows, :, :shown], scale=module.scaling)
        parts.append(torch.cat([seen, filled], 2))
    attended = torch.cat(parts)
    return module.o_proj(attended.transpose(1, 2).flatten(2)), None
