"""Configuration of the small model: a Llama decoder that sees a picture as one token and a pair as one more."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import CONFIG_MAPPING, PretrainedConfig


class SmolConfig(PretrainedConfig):
    """`vision_size` numbers describe a picture; `image_token_id` and `comparison_token_id` are unused words of the
    decoder's vocabulary that mark the positions of a picture and of a pair's comparison."""

    model_type = "vlmbench_smol"
    sub_configs: ClassVar = {"text_config": PretrainedConfig}

    def __init__(
        self,
        text_config: dict[str, Any] | PretrainedConfig | None = None,
        vision_size: int = 864,
        projector_size: int = 256,
        image_token_id: int = 6,
        comparison_token_id: int = 5,
        **kwargs: Any,
    ) -> None:
        if text_config is None:
            text_config = {}
        if isinstance(text_config, dict):
            text_config = CONFIG_MAPPING[text_config.get("model_type", "llama")](**text_config)
        self.text_config = text_config
        self.vision_size = vision_size
        self.projector_size = projector_size
        self.image_token_id = image_token_id
        self.comparison_token_id = comparison_token_id
        kwargs.setdefault("tie_word_embeddings", text_config.tie_word_embeddings)
        super().__init__(**kwargs)
