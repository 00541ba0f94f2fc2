"""Generation with Phi-3-vision: images, stop ids, and the switch from short to long rotary
factors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin
from transformers.cache_utils import Cache, DynamicCache

IMAGE_INPUTS = ("pixel_values", "image_sizes", "image_features")


def concatenate_features(features: Tensor | Sequence[Tensor]) -> Tensor:
    """Return the tokens (tokens, hidden) of all images in one tensor."""
    return features if isinstance(features, Tensor) else torch.cat(tuple(features))


class Phi3VGenerationMixin(GenerationMixin):
    """Generation with Phi-3-vision, for a model class with Phi-3-vision's configuration."""

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
        """Prepare a step as every generating model does.

        The model recomputes all rows once a row exceeds the original context.
        """
        if past_key_values is not None and self._outgrows_context(
            past_key_values, input_ids, position_ids
        ):
            past_key_values = self._empty_cache(past_key_values)
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

        computes_prompt = is_first_iteration or not use_cache
        if not computes_prompt or not self._may_have_images(inputs["input_ids"]):
            for name in IMAGE_INPUTS:
                inputs.pop(name, None)

        return inputs

    def _may_have_images(self, input_ids: Tensor | None) -> bool:
        return input_ids is None or bool((input_ids == self.config.image_token_id).any())

    def _outgrows_context(
        self, cache: Cache, input_ids: Tensor, position_ids: Tensor | None
    ) -> bool:
        """Return whether the short factors rotated the cache and this step needs the long ones.

        Raise ValueError if the prompt is missing and cannot be recomputed.
        """
        rope, cached = self.config.text_config.rope_parameters, cache.get_seq_length()
        if rope["rope_type"] != "longrope" or cached == 0:
            return False

        context = rope["original_max_position_embeddings"]
        if position_ids is None:
            length = max(input_ids.shape[1], cached + 1)
            position_ids = torch.arange(length, device=input_ids.device)[None]

        if position_ids.shape[1] > cached:
            was_short = position_ids[:, :cached].amax(-1) < context
        else:
            was_short = torch.tensor([cached <= context], device=position_ids.device)

        if not (was_short & (position_ids.amax(-1) >= context)).any():
            return False

        if input_ids.shape[1] <= cached:
            raise ValueError(
                f"generation passes {context} tokens, where the model recomputes the whole prompt; "
                "pass the whole prompt to generate() as input_ids, without prefill_chunk_size"
            )
        return True

    def _empty_cache(self, cache: Cache) -> Cache:
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
        """Repeat rows for beams and for several answers, each with its own images.

        The tower encodes each image once.
        """
        if expand_size > 1 and input_ids is not None:
            pixel_values, image_sizes, features = (
                model_kwargs.pop(name, None) for name in IMAGE_INPUTS
            )
            if pixel_values is not None:
                features = self.get_image_features(pixel_values, image_sizes)

            if features is not None:
                counts = (input_ids == self.config.image_token_id).sum(1).tolist()
                rows = concatenate_features(features).split(counts)
                model_kwargs["image_features"] = [row for row in rows for _ in range(expand_size)]

        return super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )

    def adjust_generation_fn(self, generation_config: Any, *args: Any, **kwargs: Any) -> None:
        super().adjust_generation_fn(generation_config, *args, **kwargs)
        self._complete_generation_config()

    def _complete_generation_config(self) -> None:
        """Add the ends of turns to the hub's stop ids, and never generate the placeholder."""
        generation, text = self.generation_config, self.config.text_config

        generation.eos_token_id = sorted(
            {*_as_list(generation.eos_token_id), *_as_list(text.eos_token_id)}
        )
        if generation.pad_token_id is None:
            generation.pad_token_id = text.pad_token_id

        generation.suppress_tokens = sorted(
            {*_as_list(generation.suppress_tokens), self.config.image_token_id}
        )


def _as_list(ids: int | list[int] | None) -> list[int]:
    if ids is None:
        return []

    return [ids] if isinstance(ids, int) else list(ids)
