"""Mllama's attention at lower cost, with the same results.

Cross-attention has grouped heads (arXiv:2305.13245) over thousands of image tokens a record. With a
mask, transformers copies keys and values for each query head. The backward pass keeps these copies
in each of eight layers: they are most of the memory of a training step. transformers also reads the
image tokens four times a layer: for keys, for values, and for the adapters of both. Here the query
heads of a group are stacked as more queries, and both adapters read the tokens together.

In the tower, empty tokens attend to used tokens, and not to each other. Empty tokens belong to
unused tiles, or pad a tile. transformers computes all pairs and masks some: with one of four tiles
in use, that is more than half of the pairs. Here used tokens stand first, and there is no mask.
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
    """Replace the forward of Mllama's cross-attention. The modules keep their names."""
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
    """Return what words (B, L, hidden) read from images (B, N, hidden): (B, L, hidden), None.

    If the cache already has the images, they come from there: generate() passes them again with
    every word. The mask (B, 1, L, N) is True, or 0, where a word may attend.
    """
    query = module.q_norm(_by_head(module.q_proj(hidden_states), module.head_dim))

    if past_key_values is not None and past_key_values.get_seq_length(module.layer_idx):
        layer = past_key_values.layers[module.layer_idx]
        key, value = layer.keys, layer.values
    else:
        # The tower returns them as (B x images x tiles, tokens, hidden).
        size = cross_attention_states.shape[-1]
        images = cross_attention_states.reshape(len(hidden_states), -1, size)
        projected = project_both(images, module.k_proj, module.v_proj)
        key, value = (_by_head(states, module.head_dim) for states in projected)
        key = module.k_norm(key)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, module.layer_idx)

    dropout = module.dropout if module.training else 0.0
    attended = folded_attention(
        query, key, value, attention_mask, dropout=dropout, scale=module.scaling
    )
    return module.o_proj(attended.transpose(1, 2).flatten(2)), None


def _by_head(states: Tensor, size: int) -> Tensor:
    return states.unflatten(-1, (-1, size)).transpose(1, 2)


def folded_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """Return grouped attention (B, heads, L, D) under a mask (B, 1, L, N).

    `query` is (B, heads, L, D); `key` and `value` are (B, groups, N, D).
    """
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
    return out.reshape(batch, heads, length, size)  # on a GPU its memory may have another order


def project_both(states: Tensor, first: Any, second: Any) -> tuple[Tensor, Tensor]:
    """Return `first(states), second(states)`. Two LoRA layers share one product for their A."""
    layers = (first, second)
    names = [only_adapter(layer) for layer in layers]
    if None in names:
        return first(states), second(states)

    dtype = states.dtype
    downs = [layer.lora_A[name].weight for layer, name in zip(layers, names, strict=True)]
    both = linear(states, torch.cat(downs).to(dtype))
    lows = both.split([len(down) for down in downs], -1)

    results = []
    for layer, name, low in zip(layers, names, lows, strict=True):
        up = layer.lora_B[name].weight.to(dtype)
        # The small tensor is scaled: the backward pass would scale a copy of the large gradient.
        results.append(layer.base_layer(states) + linear(low * layer.scaling[name], up))
    return results[0], results[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenOrder:
    """Which tokens of each image the tower computes, and in which order.

    `order` (B, K) are positions among the S tokens: the first `counts` of a row are used, the rest
    is empty. The last `tile` of them also stand for `copies` equal tiles. `slots` (B, S) tells
    where among the K each token's value is.
    """

    counts: list[int]
    order: Tensor
    slots: Tensor
    tile: int
    copies: int


def use_tile_attention(vision_model: Any) -> None:
    """Replace the forward of the attention in Mllama's tower. The modules keep their names."""
    local, whole = vision_model.transformer, vision_model.global_transformer
    layer_numbers = range(len(local.layers))
    read_layers = [layer_numbers[index] for index in vision_model.intermediate_layers_indices]
    sort = partial(
        _sort_tokens,
        num_tiles=vision_model.max_num_tiles,
        folds=unused_tiles_are_equal(vision_model),
    )

    for encoder, layers in ((local, read_layers), (whole, [])):
        encoder.register_forward_pre_hook(sort, with_kwargs=True)
        encoder.register_forward_hook(partial(_restore_order, layers=layers), with_kwargs=True)
        for layer in encoder.layers:
            layer.self_attn.forward = partial(tile_attention, layer.self_attn)


def unused_tiles_are_equal(vision_model: Any) -> bool:
    """Return whether neither weights nor dropout make an image's unused tiles different."""
    if any(isinstance(module, torch.nn.Dropout) and module.p for module in vision_model.modules()):
        return False

    embeddings = (
        vision_model.gated_positional_embedding.tile_embedding.weight,
        vision_model.pre_tile_positional_embedding.embedding.weight,
        vision_model.post_tile_positional_embedding.embedding.weight,
    )
    if any(embedding.is_meta or embedding.requires_grad for embedding in embeddings):
        return False

    ratios = vision_model.config.supported_aspect_ratios
    num_used = [0, *(height * width for height, width in ratios)]  # tiles by number of the ratio
    for embedding in embeddings:
        for row, number in zip(embedding.detach(), num_used, strict=True):
            if row.view(vision_model.max_num_tiles, -1)[number:].any():
                return False
    return True


def _sort_tokens(
    encoder: Any,
    args: tuple[Tensor, ...],
    inputs: dict[str, Any],
    *,
    num_tiles: int,
    folds: bool,
) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """A hook before an encoder, whose tokens are (B, S, hidden): put the used tokens first.

    A token is empty if the mask does not let it attend to itself.
    """
    is_empty = inputs["attention_mask"][:, 0].diagonal(dim1=-2, dim2=-1) != 0
    order = order_tokens(is_empty, num_tiles=num_tiles, folds=folds)
    (states,) = args
    return (_gather(states, order.order),), {**inputs, "attention_mask": order}


def order_tokens(empty: Tensor, *, num_tiles: int, folds: bool) -> TokenOrder:
    """Return the order in which tokens are computed, some of which are `empty` (B, S).

    With `folds`, one unused tile stands for others. As many tiles are left out as every image of
    the batch can spare.
    """
    length = empty.shape[1]
    tile = length // num_tiles
    is_unused = empty.unflatten(1, (num_tiles, tile)).all(2)
    facts = torch.stack([(~empty).sum(1), is_unused.sum(1)])
    counts, spare = facts.tolist()  # one wait for the GPU
    copies = max(0, min(spare) - 1) if folds else 0

    # Ranks: 0 used tokens, 1 empty ones, 2 the tile that stands for others, 3 those others.
    number = is_unused.cumsum(1)
    last = is_unused.sum(1, keepdim=True) - copies
    tile_rank = 1 + is_unused * ((number >= last).int() + (number > last).int())
    rank = torch.where(empty, tile_rank.repeat_interleave(tile, 1), 0)
    order = rank.argsort(dim=1, stable=True)

    num_computed = length - copies * tile
    slots = order.argsort(dim=1)
    in_last_tile = num_computed - tile + (slots - num_computed) % tile
    slots = torch.where(slots < num_computed, slots, in_last_tile)
    return TokenOrder(
        counts=counts, order=order[:, :num_computed], slots=slots, tile=tile, copies=copies
    )


def _restore_order(
    encoder: Any,
    args: tuple[Any, ...],
    inputs: dict[str, Any],
    output: Any,
    *,
    layers: Sequence[int],
) -> Any:
    """A hook after an encoder: put tokens back in their order.

    The tower reads the outputs of `layers`, and no others.
    """
    slots = inputs["attention_mask"].slots
    output.last_hidden_state = _gather(output.last_hidden_state, slots)
    output.hidden_states = tuple(
        _gather(states, slots) if number in layers else None
        for number, states in enumerate(output.hidden_states)
    )
    return output


def _gather(states: Tensor, positions: Tensor) -> Tensor:
    return states.gather(1, positions[..., None].expand(-1, -1, states.shape[-1]))


def tile_attention(
    module: Any,
    hidden_states: Tensor,
    attention_mask: TokenOrder,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Return attention among the computed tokens (B, K, hidden) of each image, and None."""
    query, key, value = (
        _by_head(project(hidden_states), module.head_dim)
        for project in (module.q_proj, module.k_proj, module.v_proj)
    )
    # Used tokens also attend to each copy of the last tile.
    with_copies = [slice(None), *[slice(-attention_mask.tile, None)] * attention_mask.copies]

    parts, start = [], 0
    for num_used, equal_rows in groupby(attention_mask.counts):
        stop = start + len(list(equal_rows))
        rows = slice(start, stop)
        start = stop

        used, empty = query[rows].split([num_used, query.shape[2] - num_used], 2)
        keys, values = (
            torch.cat([states[rows, :, part] for part in with_copies], 2) for states in (key, value)
        )
        from_used = scaled_dot_product_attention(used, keys, values, scale=module.scaling)
        from_empty = scaled_dot_product_attention(
            empty, key[rows, :, :num_used], value[rows, :, :num_used], scale=module.scaling
        )
        parts.append(torch.cat([from_used, from_empty], 2))

    attended = torch.cat(parts)
    return module.o_proj(attended.transpose(1, 2).flatten(2)), None
