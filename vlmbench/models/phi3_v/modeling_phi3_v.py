"""Phi-3-vision (arXiv:2404.14219, section 6) on transformers' own CLIP and Phi-3.

The modules are laid out as the hub's checkpoint names them, so that its weights load, save and take adapters without
renaming: a Phi-3 decoder, and in it `vision_embed_tokens`, the embedding that turns pictures into tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from transformers import GenerationMixin, Phi3Config, Phi3Model, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding
from transformers.utils import can_return_tuple

from vlmbench.models.phi3_v.configuration_phi3_v import Phi3VConfig
from vlmbench.models.phi3_v.image_embedding_phi3_v import Phi3VImageEmbedding

IGNORE_INDEX = -100
PICTURE_INPUTS = ("pixel_values", "image_sizes", "image_features")


class Phi3VRotaryEmbedding(Phi3RotaryEmbedding):
    """LongRoPE (arXiv:2402.13753) whose short or long factors are chosen row by row.

    transformers chooses for the whole batch, by its longest row: a row's output would depend on its neighbours.
    """

    def __init__(self, config: Phi3Config) -> None:
        super().__init__(config)
        if self.rope_type == "longrope":
            self.long_inv_freq = nn.Buffer(self.compute_long_inv_freq(), persistent=False)

    def compute_long_inv_freq(self) -> Tensor:
        """(head_dim / 2,): for rows longer than the model's original context."""
        seq_len = self.config.rope_parameters["original_max_position_embeddings"] + 1
        return ROPE_INIT_FUNCTIONS["longrope"](self.config, None, seq_len=seq_len)[0]

    @torch.no_grad()
    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """`position_ids` (rows, length) -> cos and sin, (rows, length, head_dim) in the type of `x`."""
        if self.rope_type != "longrope":
            return super().forward(x, position_ids)
        is_long = position_ids.amax(-1, keepdim=True) >= self.config.rope_parameters["original_max_position_embeddings"]
        inv_freq = torch.where(is_long, self.long_inv_freq, self.inv_freq).float()
        angles = position_ids[..., None].float() * inv_freq[:, None]
        angles = torch.cat([angles, angles], dim=-1)
        cos, sin = angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling
        return cos.to(x.dtype), sin.to(x.dtype)


class Phi3VPreTrainedModel(PreTrainedModel):
    config_class = Phi3VConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["Phi3DecoderLayer", "CLIPEncoderLayer", "CLIPVisionEmbeddings"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    # Copies of the word embedding and of CLIP's position numbers, which some checkpoints carry.
    _keys_to_ignore_on_load_unexpected = [r"vision_embed_tokens\.wte\.", r"embeddings\.position_ids$"]  # noqa: RUF012
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True


class Phi3VModel(Phi3Model):
    """Phi-3 whose embedding takes pictures too. Its own `config` is the text configuration."""

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
            raise ValueError("inputs_embeds has the pictures in it already; pass input_ids to place pictures")
        if position_ids is None and attention_mask is not None and attention_mask.ndim == 2:
            # Positions count what is seen, so that a padded row is computed exactly as it is alone.
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -inputs_embeds.shape[1] :]
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
        """(rows, length) ids -> (rows, length, hidden), pictures in the order of their placeholders, row by row."""
        is_picture = input_ids == self.image_token_id
        # The placeholder may lie outside the vocabulary: any word will do, it is overwritten.
        words = self.embed_tokens(input_ids.masked_fill(is_picture, 0))
        if pixel_values is not None:
            if image_features is not None:
                raise ValueError("pass pixel_values or image_features, not both")
            image_features = self.vision_embed_tokens(pixel_values, image_sizes)
        tokens = words.new_empty(0, words.shape[-1]) if image_features is None else _concatenate(image_features)
        if (expected := int(is_picture.sum())) != len(tokens):
            raise ValueError(
                f"input_ids have {expected} picture positions (id {self.image_token_id}), the pictures {len(tokens)} "
                "tokens; pass input_ids and pictures that the processor made together"
            )
        embedded = words.masked_scatter(is_picture[..., None], tokens.to(words.device, words.dtype))
        return F.dropout(embedded, self.config.embd_pdrop, self.training)


class Phi3VForConditionalGeneration(Phi3VPreTrainedModel, GenerationMixin):
    """Phi-3-vision with its language modelling head."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: Phi3VConfig) -> None:
        super().__init__(config)
        self.model = Phi3VModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()
        self._complete_generation_config()

    def get_image_features(self, pixel_values: Tensor, image_sizes: Tensor | Sequence[Sequence[int]]) -> list[Tensor]:
        """Each picture's tokens after the projector, (tokens, hidden) a picture: what `image_features` takes.

        `pixel_values` (N, crops, 3, tile, tile) and `image_sizes` (N, 2) are the image processor's; crops beyond a
        picture's own are not encoded.
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
        """`image_features` are ready tokens, as `get_image_features` gives them, one tensor a picture or all of them
        concatenated, instead of `pixel_values` and `image_sizes`. Pictures come in the order of their placeholders
        in `input_ids`, row by row. `labels` at picture positions never count.

        Raises ValueError where pictures and placeholders do not match.
        """
        if use_cache is None:
            use_cache = getattr(self.config, "use_cache", None)  # trainers switch the cache off there
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
            labels = self._without_pictures(labels, input_ids)
            loss = self.loss_function(logits, labels, vocab_size=self.config.text_config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _without_pictures(self, labels: Tensor, input_ids: Tensor | None) -> Tensor:
        is_picture = labels == self.config.image_token_id
        if input_ids is not None:
            # With logits_to_keep, labels are those of the last positions.
            is_picture = is_picture | (input_ids[:, -labels.shape[1] :] == self.config.image_token_id)
        return labels.masked_fill(is_picture, IGNORE_INDEX)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
        is_first_iteration: bool | None = False,
        use_cache: bool | None = True,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """As in every generating model; where a row outgrows the original context, all of it is computed anew."""
        if past_key_values is not None and self._outgrows_context(past_key_values, input_ids, position_ids):
            past_key_values = self._emptied(past_key_values)
            next_sequence_length, is_first_iteration = None, True
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=next_sequence_length,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            position_ids=position_ids,
            is_first_iteration=is_first_iteration,
            use_cache=use_cache,
            **kwargs,
        )
        ids, computes_prompt = inputs["input_ids"], is_first_iteration or not use_cache
        if not computes_prompt or (ids is not None and not (ids == self.config.image_token_id).any()):
            for name in PICTURE_INPUTS:
                inputs.pop(name, None)
        return inputs

    def _outgrows_context(self, cache: Cache, input_ids: Tensor, position_ids: Tensor | None) -> bool:
        """Whether cached keys were rotated by the short factors, and this step needs the long ones.

        Raises ValueError where the prompt is not at hand to be computed anew.
        """
        rope, cached = self.config.text_config.rope_parameters, cache.get_seq_length()
        if rope["rope_type"] != "longrope" or cached == 0:
            return False
        context = rope["original_max_position_embeddings"]
        if position_ids is None:
            position_ids = torch.arange(max(input_ids.shape[1], cached + 1), device=input_ids.device)[None]
        if position_ids.shape[1] > cached:
            was_short = position_ids[:, :cached].amax(-1) < context
        else:
            was_short = torch.tensor([cached <= context], device=position_ids.device)
        if not (was_short & (position_ids.amax(-1) >= context)).any():
            return False
        if input_ids.shape[1] <= cached:
            raise ValueError(
                f"generation passes {context} tokens, from where the whole prompt must be computed anew: give "
                "generate() the prompt as input_ids, all of it, without prefill_chunk_size"
            )
        return True

    def _emptied(self, cache: Cache) -> Cache:
        if cache.is_compileable:
            cache.reset()
            return cache
        return DynamicCache(config=self.config)

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[Tensor | None, dict[str, Any]]:
        """Repeat rows for beams and several answers, each with its own pictures, which are encoded once."""
        if expand_size > 1 and input_ids is not None:
            pixel_values, image_sizes, features = (model_kwargs.pop(name, None) for name in PICTURE_INPUTS)
            if pixel_values is not None:
                features = self.get_image_features(pixel_values, image_sizes)
            if features is not None:
                rows = _concatenate(features).split((input_ids == self.config.image_token_id).sum(1).tolist())
                model_kwargs["image_features"] = [row for row in rows for _ in range(expand_size)]
        return super()._expand_inputs_for_generation(expand_size, is_encoder_decoder, input_ids, **model_kwargs)

    def adjust_generation_fn(self, generation_config: Any, *args: Any, **kwargs: Any) -> None:
        super().adjust_generation_fn(generation_config, *args, **kwargs)
        self._complete_generation_config()

    def _complete_generation_config(self) -> None:
        """Stop where the model ends its turns, whatever the hub's files say, and never say the placeholder."""
        generation, text = self.generation_config, self.config.text_config
        generation.eos_token_id = sorted({*_as_list(generation.eos_token_id), *_as_list(text.eos_token_id)})
        if generation.pad_token_id is None:
            generation.pad_token_id = text.pad_token_id
        generation.suppress_tokens = sorted({*_as_list(generation.suppress_tokens), self.config.image_token_id})


def _as_list(ids: int | list[int] | None) -> list[int]:
    if ids is None:
        return []
    return [ids] if isinstance(ids, int) else list(ids)


def _concatenate(features: Tensor | Sequence[Tensor]) -> Tensor:
    return features if isinstance(features, Tensor) else torch.cat(tuple(features))


__all__ = ["Phi3VForConditionalGeneration", "Phi3VModel", "Phi3VPreTrainedModel"]
