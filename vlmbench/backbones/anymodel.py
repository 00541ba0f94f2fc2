"""model=hub: any vision-language model of transformers by name, if the seam serves its type."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

from vlmbench.backbones.chat import ChatBackbone
from vlmbench.backbones.family import ChatFamily
from vlmbench.backbones.hub import HubConfig, missing_weights, published_here, read_published
from vlmbench.backbones.model_files import on_meta
from vlmbench.backbones.precision import compute_type, refuse_overflow, types_of
from vlmbench.config import Precision, Vision, schema, setting
from vlmbench.types import UserError

CPU_WEIGHTS = 1e9  # a model with fewer weights may train without a GPU
# Types that the seam cannot serve: the reason, and the nearest that can.
UNSERVED: dict[str, tuple[str, str]] = {
    "mllama": ("its images are read by cross-attention", "llama32"),
    "phi3_v": ("transformers has no class for it, vlmbench has its own", "phi3"),
    "llama4": ("it projects its features outside of get_image_features", "llama32"),
    "fuyu": ("it has no vision tower", "qwen3_vl"),
    "video_llava": ("it mixes images with videos", "llava_onevision"),
    "kosmos-2": ("it reads positions of images from an input of its own", "qwen3_vl"),
    "kosmos-2.5": ("it reads positions of images from an input of its own", "qwen3_vl"),
    "chameleon": ("it turns images into words of its vocabulary", "qwen3_vl"),
    "emu3": ("it turns images into words of its vocabulary", "qwen3_vl"),
    "janus": ("it has two towers, for reading and for drawing", "qwen3_vl"),
    "got_ocr2": ("it reads documents and does not answer questions", "qwen3_vl"),
    "idefics": ("its images are read by cross-attention", "idefics3"),
    "git": ("it has no chat template", "qwen3_vl"),
    "pi0": ("it moves robots", "paligemma2"),
    "diffusion_gemma": ("it writes its answer in any order", "gemma3"),
    "evolla": ("it reads proteins", "qwen3_vl"),
}
ENCODER_DECODERS = (
    "blip",
    "blip-2",
    "instructblip",
    "instructblipvideo",
    "florence2",
    "pix2struct",
    "t5gemma2",
    "udop",
    "vision-encoder-decoder",
    "pp_formulanet",
)


class SeamFamily(ChatFamily):
    """Adapters on all linear layers, whose names are read from the model itself."""

    def targets(self, config: Any, vision: Vision) -> str:
        """Return all linear layers of the language model; with vision=lora those of the tower."""
        language, tower = _targets(config.to_json_string(use_diff=False), config.model_type)
        return language if vision is Vision.frozen else f"{language}|{tower}"


@schema("model", "hub")
@dataclass(kw_only=True)
class AnyConfig(SeamFamily, HubConfig):
    """Settings of conf/model/hub.yaml."""

    licence = "The base model has its publisher's licence; read it before you pass the model on."
    gigabytes: ClassVar[Mapping[int, int]] = {16: 0, 4: 0}  # by the number of weights instead
    model_types: ClassVar[Sequence[str]] = ()  # none: all that the seam serves

    path: str = setting("", "Name on the hub, or a local folder.")

    def choose_backbone(self, model: Any) -> type[ChatBackbone]:
        from vlmbench.backbones.prefix import PrefixBackbone
        from vlmbench.backbones.seam import SeamBackbone

        return PrefixBackbone if model.config.model_type == "paligemma" else SeamBackbone

    def load_processor(self, path: str) -> Any:
        from vlmbench.backbones.processors import load_images_and_text

        revision = self.revision if path == self.path else ""
        hub = {"revision": revision} if revision else {}
        return load_images_and_text(path, read_published(path, revision), **hub)

    def check_type(self, published: Any, path: str) -> None:
        """Raise UserError for a type that the seam cannot serve, or that is not this choice's."""
        refuse_unserved(published.model_type, path)
        if self.model_types and published.model_type not in self.model_types:
            raise UserError(
                f"model.path={path}: it holds a model of type {published.model_type}, not "
                f"{' or '.join(self.model_types)}; set model=hub model.path={path}"
            )

    def kept_modules(self, published: Any) -> Sequence[str]:
        from vlmbench.backbones.seam import vision_children

        return [name for name, _ in vision_children(on_meta(published))]

    def dtype(self, precision: Precision) -> Any:
        return compute_type(precision)

    def check_precision(self, precision: Precision) -> None:
        published = self._published()
        types = self.model_types if published is None else types_of(published)
        refuse_overflow(types, self.path, precision)

    def requirements(self) -> Sequence[str]:
        import torch

        if not self.path:
            return ["model.path is not set; set model.path=Qwen/Qwen3-VL-4B-Instruct"]
        missing = list(missing_weights(self.path))
        if missing:
            return missing

        num_weights = self.num_weights()
        if not torch.cuda.is_available():
            if num_weights is not None and num_weights < CPU_WEIGHTS:
                return []
            shown = "" if num_weights is None else f" for {num_weights / 1e9:.1f} billion weights"
            return [f"there is no CUDA GPU{shown}"]

        memory = torch.cuda.get_device_properties(0).total_memory / 1e9
        needed = 0.0 if num_weights is None else gigabytes_for(num_weights, self.bits)
        if memory < needed:
            return [f"the GPU has {memory:.0f} GB of memory, and training needs {needed:.0f} GB"]
        return []

    def num_weights(self) -> float | None:
        """Return the number of weights if the model's configuration is on this machine."""
        published = self._published()
        return None if published is None else count_weights(published)

    def _published(self) -> Any | None:
        """Return the model's configuration if it is on this machine."""
        published = published_here(self.path, self.revision)
        if published is not None:
            self.check_type(published, self.path)
        return published


def refuse_unserved(model_type: str, path: str) -> None:
    """Raise UserError for a type that the seam cannot serve, with the nearest that it can."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as KNOWN,
    )

    reason, nearest = UNSERVED.get(model_type, ("", ""))
    if model_type in ENCODER_DECODERS:
        reason, nearest = "it is an encoder-decoder", "qwen3_vl"
    elif model_type not in KNOWN and not reason:
        reason, nearest = "it is no vision-language model of transformers", "qwen3_vl"
    if reason:
        raise UserError(
            f"model.path={path}: a model of type {model_type} cannot be served, because {reason}; "
            f"the nearest that can is model={nearest}"
        )


def gigabytes_for(num_weights: float, bits: int) -> float:
    """Return the least GPU memory for training, in 10^9 bytes.

    Phi-3-vision (4.1 billion weights) needs 14 at 16 bits and 8 at 4 bits; Llama-3.2-Vision (10.7
    billion) 28 and 12.
    """
    billions = num_weights / 1e9
    return 5.3 + 2.12 * billions if bits == 16 else 5.5 + 0.61 * billions


def count_weights(published: Any) -> int:
    """Return the number of a model's weights from its configuration."""
    return _count(published.to_json_string(use_diff=False), published.model_type)


@lru_cache(16)
def _count(text: str, kind: str) -> int:
    return sum(weight.numel() for weight in on_meta(_config_of(text, kind)).parameters())


@lru_cache(16)
def _targets(text: str, kind: str) -> tuple[str, str]:
    """Return the regular expressions of the language model's linear layers and of the tower's."""
    from vlmbench.backbones.seam import find_decoder, linear_layers, vision_children

    base = on_meta(_config_of(text, kind))
    _, tower = next(vision_children(base))
    return linear_layers(base, find_decoder(base)), linear_layers(base, tower)


def _config_of(text: str, kind: str) -> Any:
    """Return the configuration of a JSON text: a text can be the key of a cache."""
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING[kind].from_dict(json.loads(text))
