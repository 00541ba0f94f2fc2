"""Phi-3-vision and Phi-3.5-vision for transformers, without remote code. Importing the package
registers them."""

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

# transformers' top-level AutoImageProcessor is a placeholder that raises without torchvision.
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from vlmbench.models.phi3_v.configuration_phi3_v import Phi3VConfig
from vlmbench.models.phi3_v.image_processing_phi3_v import ImageError, Phi3VImageProcessor
from vlmbench.models.phi3_v.modeling_phi3_v import Phi3VForConditionalGeneration
from vlmbench.models.phi3_v.processing_phi3_v import Phi3VProcessor

AutoConfig.register("phi3_v", Phi3VConfig, exist_ok=True)
AutoModelForImageTextToText.register(Phi3VConfig, Phi3VForConditionalGeneration, exist_ok=True)
# The same class under both names: another backend would give slightly different pixels.
AutoImageProcessor.register(
    Phi3VConfig,
    image_processor_classes={"pil": Phi3VImageProcessor, "torchvision": Phi3VImageProcessor},
    exist_ok=True,
)
AutoProcessor.register(Phi3VConfig, Phi3VProcessor, exist_ok=True)

__all__ = [
    "ImageError",
    "Phi3VConfig",
    "Phi3VForConditionalGeneration",
    "Phi3VImageProcessor",
    "Phi3VProcessor",
]
