"""Rotary position embedding of Phi-3-vision: LongRoPE with a choice of factors for each row."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import Phi3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding


class Phi3VRotaryEmbedding(Phi3RotaryEmbedding):
    """LongRoPE (arXiv:2402.13753) that chooses the short or the long factors row by row.

    transformers chooses for the whole batch, by its longest row. A row's output would then depend
    on the other rows.
    """

    def __init__(self, config: Phi3Config) -> None:
        super().__init__(config)
        if self.rope_type == "longrope":
            self.long_inv_freq = nn.Buffer(self.compute_long_inv_freq(), persistent=False)

    def compute_long_inv_freq(self) -> Tensor:
        """Return the inverse frequencies (head_dim / 2,) of rows beyond the original context."""
        seq_len = self.config.rope_parameters["original_max_position_embeddings"] + 1
        return ROPE_INIT_FUNCTIONS["longrope"](self.config, None, seq_len=seq_len)[0]

    @torch.no_grad()
    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return cos and sin, (rows, length, head_dim) in the type of `x`.

        `position_ids` has the shape (rows, length).
        """
        if self.rope_type != "longrope":
            return super().forward(x, position_ids)

        context = self.config.rope_parameters["original_max_position_embeddings"]
        is_long = position_ids.amax(-1, keepdim=True) >= context
        inv_freq = torch.where(is_long, self.long_inv_freq, self.inv_freq).float()

        angles = position_ids[..., None].float() * inv_freq[:, None]
        angles = torch.cat([angles, angles], dim=-1)
        cos = angles.cos() * self.attention_scaling
        sin = angles.sin() * self.attention_scaling

        return cos.to(x.dtype), sin.to(x.dtype)
