"""The small model: EfficientNet-Lite0 describes a picture by 864 numbers, a projector turns them into a word.

What it is for: the whole road on a laptop in minutes. What it cannot do: the decoder does not learn to compare two
pictures in that time; one token projected from [|query - reference|, query] gives it the comparison, and the decoder
puts it into words. It adds no accuracy over that token's own read-out.
"""

from __future__ import annotations

from typing import Any

import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from vlmbench.models.smol.configuration_smol import SmolConfig

MIDDLE_CHANNELS, LAST_CHANNELS = 112, 320  # of the maps at stride 16 and stride 32


class SmolVisionTower(nn.Module):
    """EfficientNet-Lite0 (Tan & Le 2019, arXiv:1905.11946) up to its last block; always frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.network = EfficientNet.from_name("efficientnet-lite0")
        self.requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # half the time on a CPU
        self.eval()

    def train(self, mode: bool = True) -> SmolVisionTower:
        """Stay in evaluation mode: batch statistics must not move."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, 224, 224) in [-1, 1] -> (B, 864): mean and maximum of the stride-16 and stride-32 maps."""
        pixel_values = pixel_values.to(memory_format=torch.channels_last)
        hidden = self.network._swish(self.network._bn0(self.network._conv_stem(pixel_values)))
        maps = {}
        for block in self.network._blocks:
            hidden = block(hidden)
            maps[hidden.shape[1]] = hidden
        described = [maps[MIDDLE_CHANNELS], maps[LAST_CHANNELS]]
        return torch.cat([part for map_ in described for part in (map_.mean((2, 3)), map_.amax((2, 3)))], dim=1)


class SmolProjector(nn.Module):
    """From descriptions of pictures to tokens of the decoder: one a picture, one more for a pair."""

    def __init__(self, config: SmolConfig) -> None:
        super().__init__()
        size, hidden, out = config.vision_size, config.projector_size, config.text_config.hidden_size
        # Mean and spread of the descriptions, as alignment saw them.
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("spread", torch.ones(size))
        self.picture = nn.Sequential(nn.Linear(size, hidden), nn.GELU(), nn.Linear(hidden, out))
        self.comparison = nn.Sequential(nn.Linear(2 * size, hidden), nn.GELU(), nn.Linear(hidden, out))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, P, 864) -> picture tokens (B, P, H) and comparison tokens (B, 1, H) of the first and last picture."""
        features = ((features - self.mean) / self.spread).to(self.picture[0].weight.dtype)
        reference, query = features[:, 0], features[:, -1]
        pair = torch.cat([(query - reference).abs(), query], dim=-1)
        return self.picture(features), self.comparison(pair)[:, None]


class SmolPreTrainedModel(PreTrainedModel):
    config_class = SmolConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True


class SmolForConditionalGeneration(SmolPreTrainedModel, GenerationMixin):
    """The decoder and its projector. Pictures come in as descriptions by `SmolVisionTower`, not as pixels."""

    def __init__(self, config: SmolConfig) -> None:
        super().__init__(config)
        self.projector = SmolProjector(config)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def forward(
        self,
        input_ids: Tensor | None = None,
        picture_features: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """`input_ids` (B, L) with `image_token_id` where a picture goes, in the order of `picture_features`
        (B, P, 864), and `comparison_token_id` where the comparison of the first and last picture goes.

        With `labels` (B, L), logits are computed only where a label follows, and are 0 elsewhere: the vocabulary's
        matrix is a fifth of the model's work. Positions that `attention_mask` (B, L) leaves out cost nothing.
        """
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
            if picture_features is not None:
                inputs_embeds = self._place(input_ids, inputs_embeds, picture_features)
        if labels is None:
            return self.language_model(inputs_embeds=inputs_embeds, **kwargs)
        num_items = kwargs.pop("num_items_in_batch", None)
        following = torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], -100)], dim=1)
        wanted = following != -100
        computed = self.language_model.lm_head(self._hidden(inputs_embeds, **kwargs)[wanted])
        loss = cross_entropy(computed.float(), following[wanted], reduction="mean" if num_items is None else "sum")
        logits = computed.new_zeros(*labels.shape, computed.shape[-1])
        logits[wanted] = computed.detach()
        return CausalLMOutputWithPast(loss=loss if num_items is None else loss / num_items, logits=logits)

    def _hidden(
        self,
        inputs_embeds: Tensor,
        *,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """(B, L, H), 0 where the mask leaves out. The rows go through the model as one, without what pads them; each
        position sees those before it in its own row."""
        if attention_mask is None:
            return self.language_model.model(
                inputs_embeds=inputs_embeds, position_ids=position_ids, **kwargs
            ).last_hidden_state
        kept = attention_mask.bool()
        if position_ids is None:
            position_ids = (attention_mask.cumsum(1) - 1).clamp(min=0)
        rows = kept.nonzero()[:, 0]
        sees = (rows[:, None] == rows).tril()
        found = self.language_model.model(
            inputs_embeds=inputs_embeds[kept][None],
            attention_mask=sees[None, None],
            position_ids=position_ids[kept][None],
            **kwargs,
        ).last_hidden_state
        hidden = found.new_zeros(inputs_embeds.shape)
        hidden[kept] = found[0]
        return hidden

    def _place(self, input_ids: Tensor, inputs_embeds: Tensor, picture_features: Tensor) -> Tensor:
        pictures, comparison = self.projector(picture_features)
        is_picture = input_ids == self.config.image_token_id
        order = (is_picture.cumsum(1) - 1).clamp(0, pictures.shape[1] - 1)
        tokens = pictures.gather(1, order[..., None].expand(*order.shape, pictures.shape[-1]))
        inputs_embeds = torch.where(is_picture[..., None], tokens.to(inputs_embeds.dtype), inputs_embeds)
        is_comparison = (input_ids == self.config.comparison_token_id)[..., None]
        return torch.where(is_comparison, comparison.to(inputs_embeds.dtype), inputs_embeds)
