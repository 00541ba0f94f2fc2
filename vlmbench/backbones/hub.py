"""Published models: whether this machine can run them, and how they are loaded."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from vlmbench.backbones.adapters import (
    add_adapters,
    draw_adapters,
    fill_adapter,
    peft_config,
    read_adapter_config,
)
from vlmbench.backbones.base import base_hash, download
from vlmbench.backbones.border import (
    check_folder,
    check_processor,
    check_sizes,
    check_text_and_images,
    explain_missing,
)
from vlmbench.backbones.chat import ChatBackbone
from vlmbench.backbones.checkpoint import load_checkpoint, load_packed
from vlmbench.backbones.family import ChatFamily
from vlmbench.backbones.layout import Layout
from vlmbench.backbones.model_files import check_files, on_meta, require_enough_weights
from vlmbench.backbones.precision import compute_type, refuse_overflow, types_of
from vlmbench.backbones.processors import PROCESSOR_ERRORS
from vlmbench.backbones.quantization import (
    is_quantized,
    new_quantization,
    stored_quantization,
    unpack,
)
from vlmbench.config import BuildRequest, Engine, ModelConfig, Precision, setting
from vlmbench.types import UserError

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class HubConfig(ChatFamily, ModelConfig):
    """Base of the models from the hub, or from a folder with the hub's files."""

    # Unsloth's first step is 38 s later than that of transformers, and it compiles for a while
    # after it. Then it saves 0.014 s for a record of a thousand positions (Phi-3-vision, H100).
    unsloth_from = 4_000
    model_type: ClassVar[str]  # of the model's config.json
    gigabytes: ClassVar[Mapping[int, int]]  # bits -> the least GPU memory for training, 10^9 bytes
    # The modules that stay at 16 bits in a model of 4 bits.
    kept_whole: ClassVar[Sequence[str]] = ("vision_tower", "multi_modal_projector")

    path: str = setting("", "Name on the hub, or a local folder.")
    revision: str = setting(
        "", "Commit, tag or branch of a name on the hub; empty: its newest version."
    )
    bits: int = setting(16, "Bits of a frozen weight: 16, or 4 for QLoRA.")
    layout: Layout = setting(
        Layout.two_images,
        "two_images: a pair is two images; stitched: one image shows the pair side by side.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()

        if self.bits not in self.gigabytes:
            choices = " or ".join(str(bits) for bits in self.gigabytes)
            cures = " or ".join(f"model.bits={bits}" for bits in self.gigabytes)
            raise UserError(f"model.bits must be {choices}, got {self.bits}; set {cures}")

    def weights_at(self, request: BuildRequest) -> str:
        """Return the folder or hub name of the weights and the processor."""
        if request.merged is not None:
            return str(request.merged)

        needs_download = self.revision and request.weights and not Path(self.path).is_dir()
        return download(self.path, self.revision) if needs_download else self.path

    def for_export(self) -> ModelConfig:
        return replace(self, bits=16)

    def base_hash(self, cache_dir: Path) -> str:
        return base_hash(self.path, self.revision, cache_dir)

    def check_type(self, published: Any, path: str) -> None:
        """Raise UserError if `published`, the configuration at `path`, is of another family."""
        if published.model_type != self.model_type:
            raise UserError(
                f"model.path={path}: it holds a model of type {published.model_type}, not "
                f"{self.model_type}; name the folder of such a model, or choose another model"
            )

    def kept_modules(self, published: Any) -> Sequence[str]:
        """Return the modules that stay at 16 bits in a model of 4 bits."""
        return self.kept_whole

    def dtype(self, precision: Precision) -> Any:
        """Return the type of the frozen weights: 16 bits, also for a model that only counts."""
        import torch

        dtype = compute_type(precision)
        return torch.bfloat16 if dtype is torch.float32 else dtype

    def quantization(self, published: Any, precision: Precision) -> Any | None:
        """Return how weights of 16 bits are packed when they are loaded; None: not at all."""
        if self.bits == 16:
            return None
        return new_quantization(self.kept_modules(published), self.dtype(precision))

    def unpack(self, model: Any, published: Any, precision: Precision) -> None:
        """Unpack weights that are stored in 4 bits; with bits=4 those of `kept_modules` alone."""
        if self.bits == 4:
            kept = ["lm_head", *self.kept_modules(published)]
            unpack(model, self.dtype(precision), only=kept)
            return

        log.info(
            "model.path=%s: its weights are stored in 4 bits, and model.bits=16 unpacks them; "
            "model.bits=4 takes a quarter of the memory",
            self.path,
        )
        unpack(model, self.dtype(precision))

    def why_not_unsloth(self) -> str:
        self.register_classes()
        published = published_here(self.path, self.revision)
        if published is not None and is_quantized(published):
            return "its weights are stored in 4 bits"
        return super().why_not_unsloth()

    def requirements(self) -> Sequence[str]:
        import torch

        missing = list(missing_weights(self.path))
        if not torch.cuda.is_available():
            return [*missing, "there is no CUDA GPU"]

        memory = torch.cuda.get_device_properties(0).total_memory / 1e9
        needed = self.gigabytes[self.bits]
        if memory < needed:
            missing.append(f"the GPU has {memory:.0f} GB of memory, and training needs {needed} GB")
        return missing

    def build(self, request: BuildRequest) -> ChatBackbone:
        if not self.path:
            raise UserError("model.path is not set; set model.path=Qwen/Qwen3-VL-4B-Instruct")
        path = self.weights_at(request)
        model = load_model(self, request)
        try:
            processor = self.load_processor(path)
        except PROCESSOR_ERRORS as error:
            raise explain_missing(error, path) from error

        check_processor(processor, path)
        check_sizes(processor, model.get_base_model(), path)
        backbone = self.choose_backbone(model)
        return backbone(model, processor, layout=self.layout, request=request)

    def choose_backbone(self, model: Any) -> type[ChatBackbone]:
        """Return the class of the backbone for a loaded model."""
        return self.backbone


def missing_weights(path: str) -> Iterator[str]:
    """Return what prevents loading `path`, a local folder or a hub name.

    Nothing is downloaded. A hub name that is not on this machine counts as available, unless
    HF_HUB_OFFLINE switches the hub off.
    """
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if Path(path).is_dir():
        if not (Path(path) / "config.json").exists():
            yield f"{path} has no config.json, so it is not a model's folder"
        return

    if path.startswith((".", "/", "~")):
        yield f"the folder {path} does not exist"
        return

    try:
        cached = try_to_load_from_cache(path, "config.json")
    except HFValidationError:
        yield f"{path} is neither a folder nor a name on the hub"
        return

    if constants.HF_HUB_OFFLINE and not isinstance(cached, str):
        yield f"the weights of {path} are not here, and HF_HUB_OFFLINE forbids a download"


def import_engine(request: BuildRequest) -> None:
    """Import Unsloth if it will run. It changes transformers, so it must come first."""
    if request.engine is Engine.unsloth and request.weights:
        from vlmbench.backbones import _unsloth  # noqa: F401


def load_model(config: HubConfig, request: BuildRequest) -> Any:
    """Return the published model of `config` with adapters, on the engine of `request`.

    The result is a peft.PeftModel. Raises UserError if the path holds another type of model.
    """
    import_engine(request)
    config.register_classes()

    path = config.weights_at(request)
    revision = config.revision if path == config.path else ""
    published = _published_config(path, request, revision)
    config.check_type(published, path)
    check_text_and_images(path)
    dtype = config.dtype(request.precision)
    stored = stored_quantization(published, path, dtype)
    if stored is not None:
        del published.quantization_config  # the checks are of the model in 16 bits
    refuse_overflow(types_of(published), path, request.precision)

    if request.weights:
        require_enough_weights(path, published)
    is_unsloth = request.weights and request.engine is Engine.unsloth
    if is_unsloth and stored is not None:
        raise UserError(
            f"model.path={path}: its weights are stored in 4 bits, which trainer.engine=unsloth "
            "does not load here; set trainer.engine=transformers"
        )
    has_headers = any(Path(path).glob("*.safetensors"))
    if has_headers and (stored is not None or is_unsloth or not request.weights):
        base = load_checkpoint(path, config=published, reads_weights=False, dtype=dtype)

    if is_unsloth:
        return _load_with_unsloth(path, config, request, published)
    if request.weights:
        base = _load_weights(path, config, request, published, stored)
    elif not has_headers:
        base = on_meta(published, dtype)
    targets = config.targets(published, request.vision)
    return add_adapters(base, request, lora=config.lora, targets=targets)


def _load_weights(
    path: str, config: HubConfig, request: BuildRequest, published: Any, stored: Any | None
) -> Any:
    """Return the model of `published`, without adapters. `stored` says how its files are packed."""
    revision = config.revision if path == config.path else ""
    settings = {"revision": revision or None, "dtype": config.dtype(request.precision)}
    if stored is None:
        quantization = config.quantization(published, request.precision)
        return load_checkpoint(path, config=published, quantization_config=quantization, **settings)

    base = load_packed(path, published, stored, **settings)
    config.unpack(base, published, request.precision)
    return base


def _load_with_unsloth(path: str, config: HubConfig, request: BuildRequest, published: Any) -> Any:
    from vlmbench.backbones import _unsloth

    if request.adapter is None:
        lora = peft_config(config.lora, config.targets(published, request.vision))
    else:
        lora = read_adapter_config(request.adapter)
    model = _unsloth.load(
        path,
        lora=lora,
        seed=request.seed,
        dtype=config.dtype(request.precision),
        quantization=config.quantization(published, request.precision),
    )

    if request.adapter is None:
        draw_adapters(model, request.seed)
    else:
        fill_adapter(model, request.adapter)
    return model


def _published_config(path: str, request: BuildRequest, revision: str = "") -> Any:
    """Return the model's own configuration.

    Raises UserError if it cannot be read, or if the weights are pickles.
    """
    if missing := list(missing_weights(path)):
        raise UserError(
            f"model.path={path}: {'; '.join(missing)}; name a folder with the hub's files"
        )

    check_folder(path, reads_weights=request.weights)
    return read_published(path, revision)


def published_here(path: str, revision: str = "") -> Any | None:
    """Return the configuration of a folder or hub name if it is on this machine."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if Path(path).is_dir():
        is_here = path != "" and (Path(path) / "config.json").exists()
    else:
        try:
            cached = try_to_load_from_cache(path, "config.json", revision=revision or None)
        except HFValidationError:
            return None
        is_here = isinstance(cached, str)
    return read_published(path, revision) if is_here else None


def read_published(path: str, revision: str = "") -> Any:
    """Return the configuration of a folder or hub name. Raise UserError if it cannot be read.

    Its attention implementation is dropped, and transformers chooses by model and machine. The
    publisher's machine had another GPU, and a name there may be that of code on the hub.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    check_files(path)
    try:
        published = AutoConfig.from_pretrained(
            path, trust_remote_code=False, revision=revision or None
        )
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
        StrictDataclassError,
    ) as error:
        # No such name, no permission, no network, or no valid configuration.
        raise UserError(
            f"model.path={path}: the model's config.json cannot be read ({error}); "
            "check the name, or name a folder with the hub's files"
        ) from error

    published._attn_implementation = None
    return published
