"""Mllama's frozen vision tower for one image, without what is computed several times.

The tower has room for four tiles. Unused tiles are equal, and so are the positions that pad a tile
to a multiple of eight: each kind is computed once, and weighs as often as it occurs. A softmax in
which a key occurs `n` times equals one in which its score is larger by `log(n)`. That score comes
from two more channels of each head.

The published tower: transformers' MllamaVisionModel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from vlmbench.backbones._replay import Replay

EXTRA = 8  # channels: fast attention kernels take heads of multiples of eight
SCALER = 8.0  # of a query's extra channels: a power of two is exact in 16 bits
PADDED_TO = 8  # positions of a tile are padded to a multiple of this


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """The positions of one image. Its tiles' own come first: `num_used`.

    The others follow: one that stands for each tile's padding, and unused tiles. `scores` (others,
    2) raise their scores, by the logarithm of how often they occur. `order` are the positions in a
    grid of `num_computed` tiles with one position of padding each, and `tile_of` their tiles.
    """

    num_used: int
    num_computed: int
    scores: Tensor
    order: Tensor
    tile_of: Tensor

    def to(self, weight: Tensor) -> Room:
        """Return the same on a weight's device, and the scores in its type.

        Two numbers make a score: a single one of 16 bits would be 0.4 % off.
        """
        first = self.scores.to(weight.dtype)
        both = torch.cat([first, (self.scores - first).to(weight.dtype)], 1)
        device = weight.device
        order, tile_of = self.order.to(device), self.tile_of.to(device)
        return replace(self, scores=both.to(device), order=order, tile_of=tile_of)


class TileTower:
    """The tower and the projector of a frozen Mllama, for one image a call.

    Attention weights are packed into one matrix a layer: 0.6 GB for Llama-3.2-11B-Vision. With
    `equal_tiles`, unused tiles are equal, and one of them is computed.
    """

    def __init__(self, vision_model: Any, projector: Any, *, equal_tiles: bool) -> None:
        self.tower, self.projector = vision_model, projector
        self.equal_tiles = equal_tiles
        self.padding = -vision_model.num_patches % PADDED_TO
        self.local = [Layer(layer) for layer in vision_model.transformer.layers]
        self.whole = [Layer(layer) for layer in vision_model.global_transformer.layers]
        numbers = range(len(self.local))
        self.read_layers = [numbers[index] for index in vision_model.intermediate_layers_indices]
        self.rooms: dict[int, Room] = {}
        self.encode = Replay(self._encode)

    def __call__(self, pixels: Tensor, ratio: Tensor) -> Tensor:
        """Return the image's tokens (tiles * patches, hidden).

        `pixels` (tiles, 3, height, width) are its used tiles. `ratio` (1,) is the number of their
        arrangement.
        """
        weight = self.tower.patch_embedding.weight
        num_tiles = len(pixels)
        if num_tiles not in self.rooms:
            self.rooms[num_tiles] = self._room(num_tiles).to(weight)
        return self.encode(pixels.to(weight.dtype), ratio)

    def _room(self, num_tiles: int) -> Room:
        patches, num_unused = self.tower.num_patches, self.tower.max_num_tiles - num_tiles
        num_empty = min(1, num_unused) if self.equal_tiles else num_unused
        copies = num_unused // max(1, num_empty)

        is_padded = self.padding > 0
        num_computed = num_tiles + num_empty
        grid = torch.arange(num_computed * (patches + is_padded)).view(num_computed, -1)
        counts = torch.ones(grid.shape, dtype=torch.float64)
        counts[:, patches:] = self.padding
        counts[num_tiles:] *= copies

        order, weights = (
            torch.cat(
                [
                    each[:num_tiles, :patches].flatten(),
                    each[:num_tiles, patches:].flatten(),
                    each[num_tiles:].flatten(),
                ]
            )
            for each in (grid, counts)
        )
        num_used = num_tiles * patches
        return Room(
            num_used=num_used,
            num_computed=num_computed,
            scores=weights[num_used:, None].log() / (SCALER * self.local[0].scale),
            order=order,
            tile_of=order // grid.shape[1],
        )

    def _encode(self, pixels: Tensor, ratio: Tensor) -> Tensor:
        tower, room = self.tower, self.rooms[len(pixels)]
        states = self._embed(pixels, ratio, room)

        read = []
        for number, layer in enumerate(self.local):
            states = layer(states, room)
            if number in self.read_layers:
                read.append(states[: room.num_used].clone())  # the next layer works in place

        added = self._by_tile(tower.post_tile_positional_embedding, ratio)[:, 0]
        states = tower.layernorm_post(states) + added[room.tile_of]
        for layer in self.whole:
            states = layer(states, room)

        deeper = torch.stack(read, -1).flatten(1)
        tokens: Tensor = self.projector(torch.cat([states[: room.num_used], deeper], 1))
        return tokens

    def _embed(self, pixels: Tensor, ratio: Tensor, room: Room) -> Tensor:
        """Return the states (positions, hidden) before the first layer."""
        tower, number = self.tower, room.num_computed
        seen = tower.patch_embedding(pixels).flatten(2).transpose(1, 2)
        empty = seen.new_zeros(number - len(pixels), *seen.shape[1:])
        states = torch.cat([seen, empty])
        states = states + self._by_tile(tower.pre_tile_positional_embedding, ratio)[:number]

        first = tower.class_embedding.expand(number, 1, -1)
        states = torch.cat([first, states], 1)
        positional = tower.gated_positional_embedding
        gate = positional.gate.tanh()
        by_tile = positional.tile_embedding(ratio).view(-1, *states.shape[1:])[:number]
        states = states + (1 - gate) * positional.embedding + gate * by_tile

        states = tower.layernorm_pre(states)
        if self.padding:
            states = torch.cat([states, states.new_zeros(number, 1, states.shape[-1])], 1)
        return states.flatten(0, 1)[room.order]

    def _by_tile(self, embedding: Any, ratio: Tensor) -> Tensor:
        """Return what an embedding adds to each tile: (tiles, 1, hidden)."""
        hidden = len(self.tower.class_embedding)
        added: Tensor = embedding.embedding(ratio).view(-1, 1, hidden) * embedding.gate.tanh()
        return added


class Layer:
    """A layer of the tower, whose attention weighs positions."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        attention = layer.self_attn
        self.num_heads, self.size = attention.num_heads, attention.head_dim
        self.scale = attention.scaling
        self.qkv, self.bias = self._pack_inputs()
        self.out = _widen(attention.o_proj.weight.t(), self.size).t().contiguous()

    def __call__(self, states: Tensor, room: Room) -> Tensor:
        """Return the next states (positions, hidden)."""
        layer = self.layer
        states = self._attend(states, room)
        changed = layer.mlp(layer.post_attention_layernorm(states))
        return states + (layer.gate_ffn.tanh() * changed if layer.is_gated else changed)

    def _attend(self, states: Tensor, room: Room) -> Tensor:
        """Add to the states, in place, what positions attend to.

        Used ones attend to all, as often as these occur; others to used ones alone.
        """
        number, size = room.num_used, self.size
        packed = linear(self.layer.input_layernorm(states), self.qkv, self.bias)
        packed = packed.view(len(states), 3, self.num_heads, size + EXTRA)
        packed[number:, 1, :, size : size + 2] = room.scores[:, None]
        query, key, value = packed.permute(1, 2, 0, 3)[:, None]

        by_used = scaled_dot_product_attention(query[:, :, :number], key, value, scale=self.scale)
        by_others = scaled_dot_product_attention(
            query[:, :, number:], key[:, :, :number], value[:, :, :number], scale=self.scale
        )

        # A product that adds its result in place: neither part is copied.
        out = self.out if not self.layer.is_gated else self.out * self.layer.gate_attn.tanh()
        for rows, attended in ((slice(number), by_used), (slice(number, None), by_others)):
            states[rows].addmm_(attended[0].transpose(0, 1).flatten(1), out.t())
        return states

    def _pack_inputs(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias of one product for queries, keys and values with more channels."""
        attention = self.layer.self_attn
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        weights = torch.stack([_widen(one.weight, self.size) for one in projections])

        bias = weights.new_zeros(3, self.num_heads, self.size + EXTRA)
        bias[0, :, self.size : self.size + 2] = SCALER
        return weights.flatten(0, 1), bias.flatten()


def _widen(weight: Tensor, size: int) -> Tensor:
    """Return a weight (heads * size, inputs) with EXTRA rows of zeros after each head."""
    heads = weight.detach().unflatten(0, (-1, size))
    return torch.nn.functional.pad(heads, (0, 0, 0, EXTRA)).flatten(0, 1)
