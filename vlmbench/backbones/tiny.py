"""Tiny random twins: a family's own classes with small random weights, for tests on any machine."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vlmbench.backbones.adapters import add_adapters
from vlmbench.backbones.chat import ChatBackbone
from vlmbench.backbones.checkpoint import load_exported
from vlmbench.backbones.family import ChatFamily
from vlmbench.backbones.layout import Layout
from vlmbench.config import BuildRequest, Engine, LoraConfig, ModelConfig, setting
from vlmbench.types import UserError


@dataclass(kw_only=True)
class TinyConfig(ChatFamily, ModelConfig):
    """Base of the tiny twins. Derive from this, then from the settings of the family."""

    lora: LoraConfig = field(default_factory=lambda: LoraConfig(r=4, alpha=8))
    layout: Layout = setting(
        Layout.two_images,
        "two_images: a pair is two images; stitched: one image shows the pair side by side.",
    )
    max_tokens: int = setting(512, "Longest sequence of the model, in tokens.", at_least=16)

    def requirements(self) -> Sequence[str]:
        return []

    @abstractmethod
    def make(self) -> tuple[Any, Any]:
        """Return a random model in float32, and its processor. Each call returns equal weights."""

    def build(self, request: BuildRequest) -> ChatBackbone:
        if request.engine is Engine.unsloth:
            raise UserError(
                "trainer.engine=unsloth: tiny random models run on transformers only; "
                "set trainer.engine=transformers"
            )
        self.register_classes()

        if request.merged is not None:
            base = load_exported(request.merged)
            processor = self.load_processor(str(request.merged))
        else:
            base, processor = self.make()
        if not request.weights:
            base = base.to("meta")

        targets = self.targets(base.config, request.vision)
        model = add_adapters(base, request, lora=self.lora, targets=targets)
        return self.backbone(model, processor, layout=self.layout, request=request)
