"""Small random models, a new tokenizer, and the published models' reference outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from vlmbench.models.phi3_v import (
    Phi3VConfig,
    Phi3VForConditionalGeneration,
    Phi3VImageProcessor,
    Phi3VProcessor,
)

# Tiles of 56 pixels: 4x4 patches of 14, merged 2x2, so 4 tokens a tile. One tile and the whole
# view, with two row ends each and one separator between them: 2 * (4 + 2) + 1 = 13 tokens.
TILE = 56
SMALL_TOWER = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": TILE,
    "patch_size": 14,
    "projection_dim": 8,
}
# Head size 8, so 4 frequencies.
SMALL_DECODER = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 131072,
    "original_max_position_embeddings": 4096,
    "rope_scaling": {
        "type": "su",
        "short_factor": [1.0, 1.1, 1.3, 2.0],
        "long_factor": [1.2, 2.5, 9.0, 40.0],
    },
    "sliding_window": 262144,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.fixture(autouse=True)
def _one_thread_and_one_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def hub_fields() -> dict[str, Any]:
    """Return the flat fields of a small model's config.json on the hub."""
    return {**SMALL_DECODER, "clip_vision_config": SMALL_TOWER}


@pytest.fixture
def make_config(hub_fields: dict[str, Any]) -> Callable[..., Phi3VConfig]:
    """Return a factory of a small model's configuration, with given fields replaced."""

    def make(**fields: Any) -> Phi3VConfig:
        return Phi3VConfig(**{**hub_fields, **fields})

    return make


@pytest.fixture
def make_model(
    make_config: Callable[..., Phi3VConfig],
) -> Callable[..., Phi3VForConditionalGeneration]:
    """Return a factory of small models in evaluation mode.

    The weights are large: each module has a visible effect on the logits.
    """

    def make(**fields: Any) -> Phi3VForConditionalGeneration:
        model = Phi3VForConditionalGeneration(make_config(**fields)).eval()
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
        return model

    return make


@pytest.fixture
def make_images() -> Callable[..., dict[str, torch.Tensor]]:
    """Return a factory of random pixels for images of rows x columns tiles."""

    def make(*grids: tuple[int, int], seed: int = 2) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        pixels = torch.zeros(
            len(grids), 1 + max(rows * columns for rows, columns in grids), 3, TILE, TILE
        )
        for image, (rows, columns) in zip(pixels, grids, strict=True):
            used = rows * columns + 1
            image[:used] = torch.randn(used, 3, TILE, TILE, generator=generator)
        sizes = torch.tensor([[rows * TILE, columns * TILE] for rows, columns in grids])
        return {"pixel_values": pixels, "image_sizes": sizes}

    return make


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer with the chat's special words and `<s>` before each text."""
    special = ["<unk>", "<s>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>", "<|image|>"]
    backend = Tokenizer(models.BPE(unk_token="<unk>"))  # noqa: S106
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator(
        ["Is the second part normal or abnormal?\n", "a scratch, a dent, a hole"], trainer
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",  # noqa: S106
        eos_token="<|endoftext|>",  # noqa: S106
        pad_token="<|endoftext|>",  # noqa: S106
        unk_token="<unk>",  # noqa: S106
    )


@pytest.fixture
def processor(tokenizer: PreTrainedTokenizerFast) -> Phi3VProcessor:
    """Return a processor with tiles of 56 pixels, at most 4 an image.

    The placeholder's id, 32044, lies outside the vocabulary.
    """
    return Phi3VProcessor(
        Phi3VImageProcessor(num_crops=4, tile_size=TILE, num_img_tokens=4), tokenizer
    )


@pytest.fixture
def make_image() -> Callable[..., Image.Image]:
    """Return a factory of images with random pixels."""

    def make(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
        return Image.fromarray(pixels).convert(mode)

    return make


@pytest.fixture(scope="session")
def published() -> Path:
    """Return the folder of the published models' outputs, config files and tokenizer."""
    folder = Path(__file__).parents[4] / "shared" / "phi3_v"
    if not folder.exists():
        pytest.skip("no reference outputs of the published models beside the repository")
    return folder
