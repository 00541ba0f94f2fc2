"""The small model: EfficientNet-Lite0 encodes an image as 864 features, a projector makes them a
token.

It trains on a laptop in minutes. In that time, the decoder does not learn to compare two images. A
linear read-out of the features compares them, and the word that it expects becomes one more token.
The decoder puts this token into sentences. It adds no accuracy over the read-out.
"""

from __future__ import annotations

from typing import Any

import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from transformers import AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from vlmbench.models.smol.configuration_smol import SmolConfig
from vlmbench.models.smol.readout import SmolReadout

# The feature maps at stride 8, stride 16 and stride 32.
FINE_CHANNELS, MIDDLE_CHANNELS, LAST_CHANNELS = 40, 112, 320
NO_WORD = -1
SOFTNESS = 3.0  # divides the scores: at 1, the words of sure answers are all alike


class SmolVisionTower(nn.Module):
    """EfficientNet-Lite0 (Tan & Le 2019, arXiv:1905.11946) up to its last block, always frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.network = EfficientNet.from_name("efficientnet-lite0")
        self.requires_grad_(False)
        self.to(memory_format=torch.channels_last)  # halves the time on a CPU
        self.eval()

    def train(self, mode: bool = True) -> SmolVisionTower:
        """Stay in evaluation mode: training would change the batch statistics."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return (B, 864): mean and maximum of the feature maps at stride 16 and stride 32.

        `pixel_values` (B, 3, 224, 224) are in [-1, 1].
        """
        maps = self.maps(pixel_values)

        features = []
        for channels in (MIDDLE_CHANNELS, LAST_CHANNELS):
            features += [maps[channels].mean((2, 3)), maps[channels].amax((2, 3))]

        return torch.cat(features, dim=1)

    @torch.no_grad()
    def maps(self, pixel_values: Tensor) -> dict[int, Tensor]:
        """Return the last feature map (B, channels, rows, columns) of each number of channels."""
        pixel_values = pixel_values.to(memory_format=torch.channels_last)
        hidden = self.network._swish(self.network._bn0(self.network._conv_stem(pixel_values)))

        maps = {}
        for block in self.network._blocks:
            hidden = block(hidden)
            maps[hidden.shape[1]] = hidden

        return maps

    @torch.no_grad()
    def patches(self, pixel_values: Tensor) -> Tensor:
        """Return (B, 28, 28, 152): the maps at stride 8 and 16, each patch of length 1 in each."""
        maps = self.maps(pixel_values)
        fine = normalize(maps[FINE_CHANNELS], dim=1)
        middle = normalize(maps[MIDDLE_CHANNELS], dim=1)

        repeated = middle.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return torch.cat([fine, repeated], 1).permute(0, 2, 3, 1)


class SmolProjector(nn.Module):
    """Project image features to tokens of the decoder, one an image; with the fitted read-out."""

    def __init__(self, config: SmolConfig) -> None:
        super().__init__()
        size, hidden = config.vision_size, config.projector_size
        out = config.text_config.hidden_size

        # Mean and standard deviation of the features in the alignment.
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("spread", torch.ones(size))
        # `picture`: the name in projector.safetensors and in the adapters of finished runs.
        self.picture = nn.Sequential(nn.Linear(size, hidden), nn.GELU(), nn.Linear(hidden, out))
        self.readout = SmolReadout(size)

    def forward(self, features: Tensor, answer_keys: Tensor) -> tuple[Tensor, Tensor]:
        """Return image tokens (B, N, H), and the read-out's scores (B, C) of the answers.

        `features` has the shape (B, N, 864), and `answer_keys` the shape (B, C, R).
        """
        return self.image_tokens(features), self.readout(features, answer_keys)

    def image_tokens(self, features: Tensor) -> Tensor:
        """Return the tokens (..., H) of features (..., 864)."""
        normalised = ((features - self.mean) / self.spread).to(self.picture[0].weight.dtype)

        return self.picture(normalised)


class SmolPreTrainedModel(PreTrainedModel):
    config_class = SmolConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True


class SmolForConditionalGeneration(SmolPreTrainedModel, GenerationMixin):
    """The decoder with its projector. Images come as features of `SmolVisionTower`, not as
    pixels."""

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
        image_features: Tensor | None = None,
        answer_keys: Tensor | None = None,
        answer_words: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Return logits (B, L, vocabulary), and the loss if `labels` (B, L) are given.

        `image_token_id` in `input_ids` (B, L) marks the positions of images, in the order of
        `image_features` (B, N, 864). `readout_token_id` marks the position of the word that the
        read-out expects. The possible answers have `answer_keys` (B, C, R) in the read-out, and
        their words are the tokens `answer_words` (B, C, T). NO_WORD fills missing tokens.

        With `labels`, only positions before a label get logits, and the others get 0. The matrix of
        the vocabulary is a fifth of the model's computation. Positions outside `attention_mask` (B,
        L) cost nothing.
        """
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
            if image_features is not None:
                images, scores = self.projector(image_features, answer_keys)
                inputs_embeds = self._insert_images(input_ids, inputs_embeds, images)
                inputs_embeds = self._insert_word(input_ids, inputs_embeds, scores, answer_words)

        if labels is None:
            return self.language_model(inputs_embeds=inputs_embeds, **kwargs)

        num_items = kwargs.pop("num_items_in_batch", None)
        next_labels = torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], -100)], dim=1)
        is_trained = next_labels != -100
        hidden = self._hidden(inputs_embeds, **kwargs)
        trained_logits = self.language_model.lm_head(hidden[is_trained])

        loss = cross_entropy(
            trained_logits.float(),
            next_labels[is_trained],
            reduction="mean" if num_items is None else "sum",
        )

        logits = trained_logits.new_zeros(*labels.shape, trained_logits.shape[-1])
        logits[is_trained] = trained_logits.detach()

        return CausalLMOutputWithPast(
            loss=loss if num_items is None else loss / num_items, logits=logits
        )

    def _hidden(
        self,
        inputs_embeds: Tensor,
        *,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Return hidden states (B, L, H), 0 outside the attention mask.

        All rows go through the model as one row without padding. Each position attends to the
        earlier positions of its own row.
        """
        if attention_mask is None:
            return self.language_model.model(
                inputs_embeds=inputs_embeds, position_ids=position_ids, **kwargs
            ).last_hidden_state

        kept = attention_mask.bool()
        if position_ids is None:
            position_ids = (attention_mask.cumsum(1) - 1).clamp(min=0)

        rows = kept.nonzero()[:, 0]
        packed_mask = (rows[:, None] == rows).tril()
        packed = self.language_model.model(
            inputs_embeds=inputs_embeds[kept][None],
            attention_mask=packed_mask[None, None],
            position_ids=position_ids[kept][None],
            **kwargs,
        ).last_hidden_state

        hidden = packed.new_zeros(inputs_embeds.shape)
        hidden[kept] = packed[0]

        return hidden

    def _insert_images(self, input_ids: Tensor, inputs_embeds: Tensor, images: Tensor) -> Tensor:
        is_image = input_ids == self.config.image_token_id
        order = (is_image.cumsum(1) - 1).clamp(0, images.shape[1] - 1)
        tokens = images.gather(1, order[..., None].expand(*order.shape, images.shape[-1]))

        return torch.where(is_image[..., None], tokens.to(inputs_embeds.dtype), inputs_embeds)

    def _insert_word(
        self, input_ids: Tensor, inputs_embeds: Tensor, scores: Tensor, answer_words: Tensor
    ) -> Tensor:
        """Insert the mean of the answers' words, weighted by their probabilities."""
        is_word = answer_words != NO_WORD
        is_answer = is_word.any(2)
        probabilities = (scores / SOFTNESS).masked_fill(~is_answer, -torch.inf).softmax(1)

        embeddings = self.get_input_embeddings()(answer_words.clamp(min=0)) * is_word[..., None]
        words = embeddings.sum(2) / is_word.sum(2).clamp(min=1)[..., None]
        expected = (words * probabilities[..., None]).sum(1, keepdim=True)

        is_readout = (input_ids == self.config.readout_token_id)[..., None]
        return torch.where(is_readout, expected.to(inputs_embeds.dtype), inputs_embeds)
