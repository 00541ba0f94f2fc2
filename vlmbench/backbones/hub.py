"""Published models at their real size: whether this machine can run them, and how they are loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from vlmbench.backbones.base import adapted, draw_adapters, peft_config
from vlmbench.backbones.chat import Layout
from vlmbench.backbones.saved import saved_config
from vlmbench.config import BuildRequest, Engine, ModelConfig
from vlmbench.types import UserError


@dataclass(kw_only=True)
class HubConfig(ModelConfig):
    """Base of the models that come from the hub, or from a folder with the hub's files."""

    unsloth = True
    gigabytes: ClassVar[Mapping[int, int]]  # of GPU memory that training takes at least, by bits

    path: str = ""  # hub name or local folder
    bits: int = 16  # of the frozen weights: 16, or 4 for QLoRA
    layout: Layout = Layout.two_images

    def __post_init__(self) -> None:
        if self.bits not in self.gigabytes:
            raise UserError(f"model.bits={self.bits}: it must be 16 or 4; set model.bits=16 or model.bits=4")

    def weights_at(self, request: BuildRequest) -> str:
        """The folder or hub name that weights and processor come from."""
        return self.path if request.merged is None else str(request.merged)

    def for_export(self) -> ModelConfig:
        return replace(self, bits=16)

    def requirements(self) -> Sequence[str]:
        import torch

        lacking = list(missing_weights(self.path))
        if not torch.cuda.is_available():
            return [*lacking, "there is no CUDA GPU"]
        memory = torch.cuda.get_device_properties(0).total_memory / 1e9
        if memory < self.gigabytes[self.bits]:
            lacking.append(f"{memory:.0f} GB of GPU memory are less than the {self.gigabytes[self.bits]} GB it takes")
        return lacking


def missing_weights(path: str) -> Iterator[str]:
    """What stands in the way of loading `path`, a local folder or a hub name; nothing where it can be loaded.

    Nothing is downloaded: a hub name that is not on this machine counts as available unless the hub is switched off
    (HF_HUB_OFFLINE).
    """
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if Path(path).is_dir():
        if not (Path(path) / "config.json").exists():
            yield f"{path} has no config.json: it is not a model's folder"
        return
    if path.startswith((".", "/", "~")):
        yield f"there is no folder {path}"
        return
    try:
        cached = try_to_load_from_cache(path, "config.json")
    except HFValidationError:
        yield f"{path} is neither a folder nor a name on the hub"
        return
    if constants.HF_HUB_OFFLINE and not isinstance(cached, str):
        yield f"the weights of {path} are not on this machine, and HF_HUB_OFFLINE forbids to fetch them"


def import_engine(request: BuildRequest) -> None:
    """Import Unsloth where it will run: it changes transformers, so it has to come first."""
    if request.engine is Engine.unsloth and request.weights:
        from vlmbench.backbones import _unsloth  # noqa: F401


def load_adapted(
    config: HubConfig,
    request: BuildRequest,
    *,
    model_type: str,
    targets: Callable[[Any], str],
    kept_whole: Sequence[str],
) -> Any:
    """The published model of `config` with adapters, on the engine of `request`: a peft.PeftModel.

    `targets` gives, from the model's own configuration, the regular expression of the modules that get adapters; with
    4 bits, modules named in `kept_whole` stay at 16. Raises UserError where the path holds another type of model.
    """
    import_engine(request)
    path = config.weights_at(request)
    published = _published_config(path, request)
    if published.model_type != model_type:
        raise UserError(
            f"model.path={path}: it holds a model of type {published.model_type}, not {model_type}; name the "
            "folder of such a model, or choose another model"
        )
    quantization = _quantization(kept_whole) if config.bits == 4 else None
    if request.engine is not Engine.unsloth or not request.weights:
        base = _load(path, quantization) if request.weights else _on_meta(published)
        return adapted(base, request, lora=config.lora, targets=targets(published))
    from vlmbench.backbones import _unsloth

    lora = peft_config(config.lora, targets(published)) if request.adapter is None else saved_config(request.adapter)
    model = _unsloth.load(path, lora=lora, seed=request.seed, quantization=quantization)
    if request.adapter is None:
        draw_adapters(model, request.seed)
    else:
        model.load_adapter(request.adapter, "default", is_trainable=True)
    return model


def _published_config(path: str, request: BuildRequest) -> Any:
    """The model's own configuration. Raises UserError where it, or weights that are no pickle, cannot be had."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    if lacking := list(missing_weights(path)):
        raise UserError(f"model.path={path}: {'; '.join(lacking)}; name a folder with the hub's files")
    if request.weights and Path(path).is_dir() and not list(Path(path).glob("*.safetensors")):
        raise UserError(
            f"model.path={path}: there are no weights (*.safetensors); files in PyTorch's own format are pickles, "
            "which are never loaded: convert them"
        )
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError, RecursionError, StrictDataclassError) as error:
        # No such name, no permission, no network, no configuration.
        raise UserError(f"model.path={path}: the model's config.json cannot be read ({error})") from error


def load_exported(folder: Path) -> Any:
    """The model of an exported folder with its processor, in the type that it was saved in."""
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(
        folder, dtype="auto", trust_remote_code=False, use_safetensors=True
    ).eval()


def _load(path: str, quantization: Any | None) -> Any:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText

    try:
        return AutoModelForImageTextToText.from_pretrained(
            path,
            dtype=torch.bfloat16,
            quantization_config=quantization,
            device_map={"": 0 if torch.cuda.is_available() else "cpu"},
            trust_remote_code=False,
            use_safetensors=True,
        )
    except SafetensorError as error:
        raise UserError(f"model.path={path}: a file of weights is damaged ({error}); fetch it again") from error


def _quantization(kept_whole: Sequence[str]) -> Any:
    """QLoRA's 4-bit weights (Dettmers et al. 2023, arXiv:2305.14314), but for the modules named."""
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_use_double_quant=True,
        llm_int8_skip_modules=["lm_head", *kept_whole],
    )


def _on_meta(published: Any) -> Any:
    import torch
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(published, dtype=torch.bfloat16, trust_remote_code=False)
