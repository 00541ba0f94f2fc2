"""Well-known models by a name and a size: model=qwen3_vl model.size=8B."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from vlmbench.backbones.anymodel import AnyConfig
from vlmbench.config import schema, setting
from vlmbench.types import UserError

APACHE = "The base model is under the Apache License 2.0; keep its notice with the weights."
GEMMA = "Gemma is under the Gemma Terms of Use, and so is this model: pass them on with it."


@dataclass(kw_only=True)
class NamedConfig(AnyConfig):
    """Base of the models that have a name here: `size` chooses the path."""

    sizes: ClassVar[Mapping[str, str]] = {}  # size -> name on the hub

    size: str = setting("", "Size of the model, in billions of weights.")
    path: str = setting("", "Name on the hub, or a local folder; empty: chosen by model.size.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.path:
            return

        if self.size not in self.sizes:
            cures = " or ".join(f"model.size={size}" for size in self.sizes)
            raise UserError(
                f"model.size must be {' or '.join(self.sizes)}, got {self.size!r}; set {cures}"
            )
        self.path = self.sizes[self.size]

    def num_weights(self) -> float | None:
        found = super().num_weights()
        if found is None and self.sizes.get(self.size) == self.path:
            return float(self.size.removesuffix("B")) * 1e9
        return found


@schema("model", "qwen25_vl")
@dataclass(kw_only=True)
class Qwen25Config(NamedConfig):
    """Settings of conf/model/qwen25_vl.yaml."""

    licence = "Qwen2.5-VL-7B is under the Apache License 2.0, 3B under the Qwen Research License."
    model_types: ClassVar[Sequence[str]] = ("qwen2_5_vl",)
    sizes: ClassVar[Mapping[str, str]] = {
        "3B": "Qwen/Qwen2.5-VL-3B-Instruct",
        "7B": "Qwen/Qwen2.5-VL-7B-Instruct",
    }

    size: str = setting("7B", "3B or 7B.")


@schema("model", "qwen3_vl")
@dataclass(kw_only=True)
class Qwen3Config(NamedConfig):
    """Settings of conf/model/qwen3_vl.yaml."""

    licence = APACHE
    model_types: ClassVar[Sequence[str]] = ("qwen3_vl",)
    sizes: ClassVar[Mapping[str, str]] = {
        "2B": "Qwen/Qwen3-VL-2B-Instruct",
        "4B": "Qwen/Qwen3-VL-4B-Instruct",
        "8B": "Qwen/Qwen3-VL-8B-Instruct",
    }

    size: str = setting("4B", "2B, 4B or 8B.")


@schema("model", "qwen35_vl")
@dataclass(kw_only=True)
class Qwen35Config(NamedConfig):
    """Settings of conf/model/qwen35_vl.yaml."""

    licence = APACHE
    model_types: ClassVar[Sequence[str]] = ("qwen3_5",)
    sizes: ClassVar[Mapping[str, str]] = {"27B": "Qwen/Qwen3.5-27B"}

    size: str = setting("27B", "27B.")


@schema("model", "gemma3")
@dataclass(kw_only=True)
class Gemma3Config(NamedConfig):
    """Settings of conf/model/gemma3.yaml."""

    licence = GEMMA
    model_types: ClassVar[Sequence[str]] = ("gemma3",)
    sizes: ClassVar[Mapping[str, str]] = {"4B": "google/gemma-3-4b-it"}

    size: str = setting("4B", "4B.")


@schema("model", "gemma4")
@dataclass(kw_only=True)
class Gemma4Config(NamedConfig):
    """Settings of conf/model/gemma4.yaml."""

    licence = GEMMA
    model_types: ClassVar[Sequence[str]] = ("gemma4",)
    sizes: ClassVar[Mapping[str, str]] = {"5B": "google/gemma-4-E2B-it"}

    size: str = setting("5B", "5B, of which 2 billion weights work on each token.")


@schema("model", "internvl3")
@dataclass(kw_only=True)
class InternVL3Config(NamedConfig):
    """Settings of conf/model/internvl3.yaml."""

    licence = "InternVL3 is under the MIT licence, its language model Qwen2.5 under Apache 2.0."
    model_types: ClassVar[Sequence[str]] = ("internvl",)
    sizes: ClassVar[Mapping[str, str]] = {
        "1B": "OpenGVLab/InternVL3-1B-hf",
        "2B": "OpenGVLab/InternVL3-2B-hf",
        "8B": "OpenGVLab/InternVL3-8B-hf",
    }

    size: str = setting("2B", "1B, 2B or 8B.")


@schema("model", "smolvlm2")
@dataclass(kw_only=True)
class SmolVLM2Config(NamedConfig):
    """Settings of conf/model/smolvlm2.yaml."""

    licence = APACHE
    model_types: ClassVar[Sequence[str]] = ("smolvlm",)
    sizes: ClassVar[Mapping[str, str]] = {
        "0.5B": "HuggingFaceTB/SmolVLM2-500M-Video-Instruct",
        "2.2B": "HuggingFaceTB/SmolVLM2-2.2B-Instruct",
    }

    size: str = setting("0.5B", "0.5B or 2.2B.")


@schema("model", "idefics3")
@dataclass(kw_only=True)
class Idefics3Config(NamedConfig):
    """Settings of conf/model/idefics3.yaml."""

    licence = APACHE
    model_types: ClassVar[Sequence[str]] = ("idefics3",)
    sizes: ClassVar[Mapping[str, str]] = {"8B": "HuggingFaceM4/Idefics3-8B-Llama3"}

    size: str = setting("8B", "8B.")


@schema("model", "llava_onevision")
@dataclass(kw_only=True)
class LlavaOnevisionConfig(NamedConfig):
    """Settings of conf/model/llava_onevision.yaml."""

    licence = APACHE
    model_types: ClassVar[Sequence[str]] = ("llava_onevision",)
    sizes: ClassVar[Mapping[str, str]] = {
        "0.5B": "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
        "7B": "llava-hf/llava-onevision-qwen2-7b-ov-hf",
    }

    size: str = setting("7B", "0.5B or 7B.")


@schema("model", "mistral3")
@dataclass(kw_only=True)
class Mistral3Config(NamedConfig):
    """Settings of conf/model/mistral3.yaml."""

    licence = APACHE
    model_types: ClassVar[Sequence[str]] = ("mistral3",)
    sizes: ClassVar[Mapping[str, str]] = {"24B": "mistralai/Mistral-Small-3.1-24B-Instruct-2503"}

    size: str = setting("24B", "24B.")


@schema("model", "glm4v")
@dataclass(kw_only=True)
class Glm4vConfig(NamedConfig):
    """Settings of conf/model/glm4v.yaml."""

    licence = "GLM-4.1V is under the MIT licence; keep its notice with the weights."
    model_types: ClassVar[Sequence[str]] = ("glm4v",)
    sizes: ClassVar[Mapping[str, str]] = {"9B": "zai-org/GLM-4.1V-9B-Thinking"}

    size: str = setting("9B", "9B.")


@schema("model", "paligemma2")
@dataclass(kw_only=True)
class PaliGemma2Config(NamedConfig):
    """Settings of conf/model/paligemma2.yaml."""

    licence = GEMMA
    model_types: ClassVar[Sequence[str]] = ("paligemma",)
    sizes: ClassVar[Mapping[str, str]] = {"3B": "google/paligemma2-3b-mix-224"}

    size: str = setting("3B", "3B.")
