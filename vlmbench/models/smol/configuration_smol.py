"""Configuration of the small model: a Llama decoder with one token an image and one read-out."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import CONFIG_MAPPING, PretrainedConfig


class SmolConfig(PretrainedConfig):
    """Sizes and special tokens of the small model.

    `vision_size` is the number of features of an image. `image_token_id` and `readout_token_id`
    are unused words of the decoder's vocabulary. They mark the positions of an image and of the
    word that the read-out expects.
    """

    model_type = "vlmbench_smol"
    sub_configs: ClassVar = {"text_config": PretrainedConfig}

    def __init__(
        self,
        text_config: dict[str, Any] | PretrainedConfig | None = None,
        vision_size: int = 864,
        projector_size: int = 256,
        image_token_id: int = 6,
        readout_token_id: int = 5,
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
        self.readout_token_id = readout_token_id

        kwargs.setdefault("tie_word_embeddings", text_config.tie_word_embeddings)
        super().__init__(**kwargs)
