"""Published models at their real size with random weights: what speed and memory depend on, without a download."""

from __future__ import annotations

import json
import math
import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

SHARDS = 8
MLLAMA_TILES = 4
PHI3_CROPS = 16  # as the publisher's preprocessor_config.json of Phi-3-vision says


def random_llama32(folder: Path, *, tiny: bool = False) -> Path:
    """Llama-3.2-11B-Vision, 21 GB, in the publisher's layout, with the tiny model's tokenizer; or all of that tiny."""
    from transformers import MllamaConfig, MllamaForConditionalGeneration, MllamaImageProcessorPil, MllamaProcessor

    from vlmbench.models.llama32_tiny import IMAGE, tiny_mllama, tiny_processor

    if (folder / "config.json").exists():
        return folder
    small = tiny_processor()
    if tiny:
        tiny_mllama(small.tokenizer, max_tokens=4096).save_pretrained(folder)
        small.save_pretrained(folder)
        return folder
    tokenizer = small.tokenizer
    config = MllamaConfig(vision_config={"image_size": 560}, image_token_index=tokenizer.convert_tokens_to_ids(IMAGE))
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config.text_config, name, getattr(tokenizer, name))
    _save_random(MllamaForConditionalGeneration, config, folder)
    images = MllamaImageProcessorPil(size={"height": 560, "width": 560}, max_image_tiles=MLLAMA_TILES)
    MllamaProcessor(images, tokenizer, chat_template=small.chat_template).save_pretrained(folder)
    return folder


def random_phi3(folder: Path, published: Path | None = None, *, tiny: bool = False) -> Path:
    """Phi-3-vision, 8.3 GB, in the hub's layout.

    `published` is a folder with the hub's own config.json and tokenizer files; without it the sizes are the same, and
    the tokenizer and the factors of the rotary embedding are the tiny model's kind.
    """
    from vlmbench.models.phi3_v import Phi3VConfig, Phi3VForConditionalGeneration, Phi3VImageProcessor, Phi3VProcessor
    from vlmbench.models.phi3_v_tiny import IMAGE, tiny_phi3_processor, tiny_phi3_v

    if (folder / "config.json").exists():
        return folder
    if tiny:
        small = tiny_phi3_processor(PHI3_CROPS)
        tiny_phi3_v(small.tokenizer, max_tokens=4096).save_pretrained(folder)
        small.save_pretrained(folder)
        return folder
    if published is not None:
        hub = json.loads((published / "config.json").read_text())
        _save_random(Phi3VForConditionalGeneration, Phi3VConfig(**hub), folder)
        for path in published.iterdir():
            shutil.copyfile(path, folder / path.name)
        return folder
    tokenizer = tiny_phi3_processor(PHI3_CROPS).tokenizer
    image_id = tokenizer.convert_tokens_to_ids(IMAGE)
    factors = [1.0 + place / 16 for place in range(48)]
    config = Phi3VConfig(
        image_token_id=image_id,
        max_position_embeddings=131072,
        rope_scaling={"type": "su", "short_factor": factors, "long_factor": [4 * factor for factor in factors]},
    )
    _save_random(Phi3VForConditionalGeneration, config, folder)
    images = Phi3VImageProcessor(num_crops=PHI3_CROPS)
    Phi3VProcessor(images, tokenizer, image_token_id=image_id).save_pretrained(folder)
    return folder


def _save_random(model_class: Any, config: Any, folder: Path) -> None:
    """Config and random weights in shards, each made and written by a process of its own."""
    config.dtype = torch.bfloat16
    config.architectures = [model_class.__name__]
    with torch.device("meta"):
        model = model_class(config)
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters(remove_duplicate=True)}
    shards = _shards(shapes)
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(len(shards), mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_write_shard, [folder / name for name in shards], shards.values()))
    places = {name: shard for shard, part in shards.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    config.save_pretrained(folder)
    GenerationConfig.from_model_config(config).save_pretrained(folder)


def _shards(shapes: dict[str, tuple[int, ...]]) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes by name, in SHARDS files of about the same size."""
    shards: list[dict[str, tuple[int, ...]]] = [{} for _ in range(SHARDS)]
    for name, shape in sorted(shapes.items(), key=lambda item: -math.prod(item[1])):
        min(shards, key=lambda shard: sum(map(math.prod, shard.values())))[name] = shape
    return {f"model-{i + 1:05d}-of-{SHARDS:05d}.safetensors": shard for i, shard in enumerate(shards)}


def _write_shard(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    from safetensors.torch import save_file

    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(int(path.name.split("-")[1]))
    tensors = {name: _random(name, shape, generator).cpu() for name, shape in shapes.items()}
    save_file(tensors, path, metadata={"format": "pt"})


def _random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    if "gate" in name and shape == (1,):  # open: with closed gates, as a fresh Mllama has them, no picture is seen
        return torch.ones(shape, dtype=torch.bfloat16)
    if len(shape) == 1 and not name.endswith("embedding"):
        return torch.full(shape, float(name.endswith("weight")), dtype=torch.bfloat16)
    made = torch.empty(shape, dtype=torch.bfloat16, device=generator.device)
    made.normal_(std=0.02, generator=generator)
    if "tile_embedding" in name or "tile_positional_embedding" in name:
        _no_positions_for_unused_tiles(made)
    return made


def _no_positions_for_unused_tiles(embeddings: torch.Tensor) -> None:
    """As in Mllama's published weights: of each aspect ratio's row, only the tiles that it uses are no zeros."""
    from transformers.models.mllama.image_processing_pil_mllama import get_all_supported_aspect_ratios

    used = [0, *(height * width for height, width in get_all_supported_aspect_ratios(MLLAMA_TILES))]
    for row, number in zip(embeddings, used, strict=True):
        row.view(MLLAMA_TILES, -1)[number:] = 0
