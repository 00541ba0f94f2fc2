"""Settings that every chat family has: its backbone, its processor, and where LoRA goes."""

from __future__ import annotations

from typing import Any, ClassVar

from vlmbench.backbones.adapters import LANGUAGE_TARGETS
from vlmbench.backbones.chat import ChatBackbone
from vlmbench.config import Vision
from vlmbench.types import UserError


class ChatFamily:
    """Base of the settings of a model with a processor and a chat template."""

    backbone: ClassVar[type[ChatBackbone]] = ChatBackbone
    # Regular expressions of the modules that get adapters.
    language_targets: ClassVar[str] = LANGUAGE_TARGETS
    vision_targets: ClassVar[str | None] = None  # None: the tower is always frozen

    def targets(self, config: Any, vision: Vision) -> str:
        """Return the regular expression of the modules that get adapters.

        `config` is the model's own configuration. Raises UserError if the tower shall train but the
        family names no modules in it.
        """
        if vision is Vision.frozen:
            return self.language_targets
        if self.vision_targets is None:
            raise UserError(
                f"trainer.vision={vision}: this family has no adapters in its vision tower; "
                "set trainer.vision=frozen"
            )
        return f"{self.language_targets}|{self.vision_targets}"

    def register_classes(self) -> None:
        """Import classes that transformers does not have, so that it can load the model."""

    def load_processor(self, path: str) -> Any:
        """Return the processor of a folder or a hub name.

        Images go through PIL: the pixels are the same with and without torchvision.
        """
        import transformers

        processor = transformers.AutoProcessor.from_pretrained(path, trust_remote_code=False)
        name = type(processor.image_processor).__name__.removesuffix("Fast")
        pil_class = getattr(transformers, f"{name}Pil", None)
        if pil_class is not None:  # transformers chose torchvision
            processor.image_processor = pil_class.from_pretrained(path)
        return processor
