"""Configuration of Phi-3-vision: the hub's flat fields become a text and a vision configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import CLIPVisionConfig, Phi3Config
from transformers.configuration_utils import PreTrainedConfig

# openai/clip-vit-large-patch14-336. The hub's config names it without its sizes.
CLIP_VIT_LARGE_336: Mapping[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "projection_dim": 768,
    "image_size": 336,
    "patch_size": 14,
}

# `<|endoftext|>` and `<|end|>` end the model's turns. The hub's files name only `</s>` (2), which
# the model never generates.
STOP_TOKEN_IDS = (32000, 32007)

# The image embedding of the released models.
_EMBEDDING = {
    "embedding_cls": "image",
    "hd_transform_order": "sub_glb",
    "projection_cls": "mlp",
    "use_hd_transform": True,
    "with_learnable_separator": True,
}

_COMMON_FIELDS = {field.name for field in fields(PreTrainedConfig)}
_TEXT_FIELDS = {field.name for field in fields(Phi3Config)} - _COMMON_FIELDS | {
    "rope_scaling",
    "rope_theta",
}


def _refuse(field: str, value: object, supported: object) -> None:
    raise ValueError(
        f"Phi-3-vision config: {field}={value!r} is not supported; "
        f"use {supported!r}, as the released models do"
    )


def _rope_parameters(
    scaling: Mapping[str, Any], context: int, original_context: int
) -> dict[str, Any]:
    """Return the hub's `rope_scaling` with transformers' names.

    "su" is LongRoPE (arXiv:2402.13753).
    """
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind not in ("su", "longrope"):
        _refuse("rope_scaling.type", kind, "su")

    parameters = {key: value for key, value in scaling.items() if key != "type"}
    # transformers would choose this factor too, with a warning.
    parameters.setdefault("factor", max(1.0, context / original_context))

    return {**parameters, "rope_type": "longrope"}


def _text_config(hub: Mapping[str, Any]) -> Phi3Config:
    """Return the Phi3Config of the flat fields in the hub's config.json."""
    text = {
        key: value
        for key, value in hub.items()
        if value is not None or key not in ("rope_scaling", "rope_theta")
    }

    vocab_size = text.get("vocab_size", Phi3Config.vocab_size)
    context = text.get("max_position_embeddings", Phi3Config.max_position_embeddings)
    if "rope_scaling" in text:
        original = text.get(
            "original_max_position_embeddings", Phi3Config.original_max_position_embeddings
        )
        text["rope_scaling"] = _rope_parameters(text["rope_scaling"], context, original)

    eos = text.get("eos_token_id")
    eos_ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
    text["eos_token_id"] = sorted({*eos_ids, *STOP_TOKEN_IDS})

    pad = text.setdefault("pad_token_id", Phi3Config.pad_token_id)
    if pad is not None and pad >= vocab_size:
        text["pad_token_id"] = None

    window = text.get("sliding_window")
    if window is not None and window >= context:
        # A window as long as the context has no effect, but disables fast attention and caching.
        text["sliding_window"] = None

    return Phi3Config(**text)


def _vision_feature_layer(img_processor: Mapping[str, Any], embd_layer: Mapping[str, Any]) -> int:
    """Return the index of CLIP's hidden state that holds the image features.

    Raise ValueError if the hub's two image sections have unsupported values.
    """
    for key, supported in _EMBEDDING.items():
        if embd_layer.get(key, supported) != supported:
            _refuse(f"embd_layer.{key}", embd_layer[key], supported)

    for key, supported in (("name", "clip_vision_model"), ("type_feature", "patch")):
        if img_processor.get(key, supported) != supported:
            _refuse(f"img_processor.{key}", img_processor[key], supported)

    layer: int = img_processor.get("layer_idx", -2)
    return layer


@strict
class Phi3VConfig(PreTrainedConfig):  # type: ignore[misc]
    """Configuration of Phi-3-vision and Phi-3.5-vision.

    The arguments are `text_config` and `vision_config` (configurations or dicts), or the flat
    fields of the hub's config.json. An optional `clip_vision_config` overrides sizes of the tower.
    The hub's `_attn_implementation` and `auto_map` are dropped: the caller chooses the attention,
    and no remote code ever runs.

    `image_token_id` marks the positions of images in `input_ids`. The model never looks it up in
    the word embedding, so it may lie outside the vocabulary. `vision_feature_layer` indexes CLIP's
    hidden states; 0 is the embedding. Raise ValueError for an image embedding that no released
    model has.
    """

    model_type = "phi3_v"
    sub_configs: ClassVar[dict[str, type[PreTrainedConfig]]] = {
        "text_config": Phi3Config,
        "vision_config": CLIPVisionConfig,
    }

    text_config: dict[str, Any] | PreTrainedConfig | None = None
    vision_config: dict[str, Any] | PreTrainedConfig | None = None
    image_token_id: int = 32044
    vision_feature_layer: int = -2
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        for dropped in ("auto_map", "_attn_implementation"):
            kwargs.pop(dropped, None)

        hub = {key: kwargs.pop(key) for key in _TEXT_FIELDS & kwargs.keys()}
        img_processor = kwargs.pop("img_processor", None)
        embd_layer = kwargs.pop("embd_layer", None)
        if img_processor is not None or embd_layer is not None:
            self.vision_feature_layer = _vision_feature_layer(img_processor or {}, embd_layer or {})

        if self.text_config is None:
            hub["tie_word_embeddings"] = self.tie_word_embeddings
            self.text_config = _text_config(hub)
        else:
            kwargs.update(hub)
            if isinstance(self.text_config, dict):
                self.text_config = Phi3Config(**self.text_config)
        self.tie_word_embeddings = self.text_config.tie_word_embeddings

        clip = kwargs.pop("clip_vision_config", None)
        if not isinstance(self.vision_config, PreTrainedConfig):
            sizes = {**CLIP_VIT_LARGE_336, **(self.vision_config or clip or {})}
            self.vision_config = CLIPVisionConfig(**sizes)

        if self.architectures == ["Phi3VForCausalLM"]:
            self.architectures = ["Phi3VForConditionalGeneration"]
        super().__post_init__(**kwargs)


__all__ = ["Phi3VConfig"]
