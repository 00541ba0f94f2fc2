"""Phi-3-vision (arXiv:2404.14219, section 6) on transformers' own CLIP and Phi-3.

The modules have the names of the hub's checkpoint: its weights load, save and take adapters without
renaming. The model is a Phi-3 decoder with `vision_embed_tokens`, which turns images into tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from transformers import Phi3Model, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from vlmbench.models.phi3_v.configuration_phi3_v import Phi3VConfig
from vlmbench.models.phi3_v.generation_phi3_v import Phi3VGenerationMixin, concatenate_features
from vlmbench.models.phi3_v.image_embedding_phi3_v import Phi3VImageEmbedding
from vlmbench.models.phi3_v.rope_phi3_v import Phi3VRotaryEmbedding

IGNORE_INDEX = -100


class Phi3VPreTrainedModel(PreTrainedModel):
    config_class = Phi3VConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["Phi3DecoderLayer", "CLIPEncoderLayer", "CLIPVisionEmbeddings"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    # Some checkpoints hold copies of the word embedding and of CLIP's position numbers.
    _keys_to_ignore_on_load_unexpected = [  # noqa: RUF012
        r"vision_embed_tokens\.wte\.",
        r"embeddings\.position_ids$",
    ]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True


class Phi3VModel(Phi3Model):
    """Phi-3 whose embedding takes images too. Its own `config` is the text configuration."""

    def __init__(self, config: Phi3VConfig) -> None:
        super().__init__(config.text_config)
        self.image_token_id = config.image_token_id
        self.rotary_emb = Phi3VRotaryEmbedding(config.text_config)
        self.vision_embed_tokens = Phi3VImageEmbedding(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Phi3VImageEmbedding):
            init.normal_(module.glb_GN, mean=0.0, std=self.config.initializer_range)
            init.normal_(module.sub_GN, mean=0.0, std=self.config.initializer_range)
        elif isinstance(module, Phi3VRotaryEmbedding) and module.rope_type == "longrope":
            init.copy_(module.long_inv_freq, module.compute_long_inv_freq())

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_sizes: Tensor | None = None,
        image_features: Tensor | Sequence[Tensor] | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass either input_ids or inputs_embeds")

        if inputs_embeds is None:
            inputs_embeds = self.embed(input_ids, pixel_values, image_sizes, image_features)
        elif pixel_values is not None or image_features is not None:
            raise ValueError(
                "inputs_embeds already contains the images; pass input_ids to insert images"
            )

        if position_ids is None and attention_mask is not None and attention_mask.ndim == 2:
            # Positions count attended tokens only: padding does not change a row's output.
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
            position_ids = position_ids[:, -inputs_embeds.shape[1] :]

        return super().forward(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            **kwargs,
        )

    def embed(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        image_sizes: Tensor | None = None,
        image_features: Tensor | Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Return the embeddings (rows, length, hidden) of `input_ids` (rows, length).

        Images come in the order of their placeholders, row by row. Raise ValueError if images and
        placeholders do not match.
        """
        is_image = input_ids == self.image_token_id
        # The placeholder may lie outside the vocabulary. Word 0 stands in and is overwritten.
        words = self.embed_tokens(input_ids.masked_fill(is_image, 0))

        if pixel_values is not None:
            if image_features is not None:
                raise ValueError("pass pixel_values or image_features, not both")
            image_features = self.vision_embed_tokens(pixel_values, image_sizes)

        if image_features is None:
            tokens = words.new_empty(0, words.shape[-1])
        else:
            tokens = concatenate_features(image_features)

        num_placeholders = int(is_image.sum())
        if num_placeholders != len(tokens):
            raise ValueError(
                f"input_ids have {num_placeholders} image positions (id {self.image_token_id}), "
                f"but the images have {len(tokens)} tokens; "
                "pass input_ids and images from one call of the processor"
            )

        embedded = words.masked_scatter(is_image[..., None], tokens.to(words.device, words.dtype))
        return F.dropout(embedded, self.config.embd_pdrop, self.training)


class Phi3VForConditionalGeneration(Phi3VPreTrainedModel, Phi3VGenerationMixin):
    """Phi-3-vision with its language modelling head."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: Phi3VConfig) -> None:
        super().__init__(config)
        self.model = Phi3VModel(config)
        self.lm_head = nn.Linear(
            config.text_config.hidden_size, config.text_config.vocab_size, bias=False
        )
        self.post_init()
        self._complete_generation_config()

    def get_image_features(
        self, pixel_values: Tensor, image_sizes: Tensor | Sequence[Sequence[int]]
    ) -> list[Tensor]:
        """Return each image's tokens after the projector, (tokens, hidden), as `image_features`.

        `pixel_values` (N, crops, 3, tile, tile) and `image_sizes` (N, 2) come from the image
        processor. Crops beyond an image's own are not encoded.
        """
        return self.model.vision_embed_tokens(pixel_values, image_sizes)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_sizes: Tensor | None = None,
        image_features: Tensor | Sequence[Tensor] | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Return logits, and the loss if `labels` are given. Labels at image positions never count.

        `image_features` are the tokens of `get_image_features`, which replace `pixel_values` and
        `image_sizes`: one tensor for each image, or all of them concatenated. Images come in the
        order of their placeholders in `input_ids`, row by row.

        Raise ValueError if images and placeholders do not match.
        """
        if use_cache is None:
            # Trainers switch the cache off in the configuration.
            use_cache = getattr(self.config, "use_cache", None)

        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            pixel_values=pixel_values,
            image_sizes=image_sizes,
            image_features=image_features,
            use_cache=use_cache,
            **kwargs,
        )

        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept])

        loss = None
        if labels is not None:
            labels = self._ignore_images(labels, input_ids)
            loss = self.loss_function(
                logits, labels, vocab_size=self.config.text_config.vocab_size, **kwargs
            )

        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _ignore_images(self, labels: Tensor, input_ids: Tensor | None) -> Tensor:
        is_image = labels == self.config.image_token_id

        if input_ids is not None:
            # With logits_to_keep, labels are those of the last positions.
            last_ids = input_ids[:, -labels.shape[1] :]
            is_image = is_image | (last_ids == self.config.image_token_id)

        return labels.masked_fill(is_image, IGNORE_INDEX)


__all__ = ["Phi3VForConditionalGeneration", "Phi3VModel", "Phi3VPreTrainedModel"]
