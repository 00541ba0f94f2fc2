"""Published models of the real size with random weights: speed and memory without a download."""

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

NUM_SHARDS = 8
MLLAMA_TILES = 4
PHI3_CROPS = 16  # as in the publisher's preprocessor_config.json of Phi-3-vision

Shapes = dict[str, tuple[int, ...]]


def write_random_llama32(folder: Path, *, tiny: bool = False, layers: int | None = None) -> Path:
    """Write Llama-3.2-11B-Vision (21 GB) in the publisher's layout, unless it exists.

    Its tokenizer is the tiny model's. With `tiny`, the whole model is the tiny one. `layers` leaves
    the decoder so many, the last of which sees images.
    """
    from transformers import (
        MllamaConfig,
        MllamaForConditionalGeneration,
        MllamaImageProcessorPil,
        MllamaProcessor,
    )

    from vlmbench.models.llama32_tiny import IMAGE, tiny_mllama, tiny_processor

    if (folder / "config.json").exists():
        return folder

    tiny_twin = tiny_processor()
    tokenizer = tiny_twin.tokenizer
    if tiny:
        tiny_mllama(tokenizer, max_tokens=4096).save_pretrained(folder)
        tiny_twin.save_pretrained(folder)
        return folder

    config = MllamaConfig(
        vision_config={"image_size": 560}, image_token_index=tokenizer.convert_tokens_to_ids(IMAGE)
    )
    if layers is not None:
        config.text_config.num_hidden_layers = layers
        config.text_config.cross_attention_layers = [layers - 1]
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config.text_config, name, getattr(tokenizer, name))
    _write_random(MllamaForConditionalGeneration, config, folder)

    images = MllamaImageProcessorPil(
        size={"height": 560, "width": 560}, max_image_tiles=MLLAMA_TILES
    )
    processor = MllamaProcessor(images, tokenizer, chat_template=tiny_twin.chat_template)
    processor.save_pretrained(folder)
    return folder


def write_random_phi3(
    folder: Path,
    published: Path | None = None,
    *,
    tiny: bool = False,
    layers: int | None = None,
) -> Path:
    """Write Phi-3-vision (8.3 GB) in the hub's layout, unless it exists.

    `published` is a folder with the hub's own config.json and tokenizer files. Without it, the
    sizes are the same. The tokenizer and the factors of the rotary embedding are then of the kind
    that the tiny model has. With `tiny`, the whole model is the tiny one. `layers` leaves the
    decoder so many.
    """
    from vlmbench.models.phi3_v import Phi3VConfig, Phi3VForConditionalGeneration
    from vlmbench.models.phi3_v_tiny import tiny_phi3_processor, tiny_phi3_v

    if (folder / "config.json").exists():
        return folder

    if tiny:
        processor = tiny_phi3_processor(PHI3_CROPS)
        tiny_phi3_v(processor.tokenizer, max_tokens=4096).save_pretrained(folder)
        processor.save_pretrained(folder)
        return folder

    if published is None:
        return _write_phi3_without_hub_files(folder, layers)

    hub = json.loads((published / "config.json").read_text())
    _write_random(Phi3VForConditionalGeneration, Phi3VConfig(**hub), folder)
    for path in published.iterdir():
        shutil.copyfile(path, folder / path.name)
    return folder


def _write_phi3_without_hub_files(folder: Path, layers: int | None) -> Path:
    from vlmbench.models.phi3_v import (
        Phi3VConfig,
        Phi3VForConditionalGeneration,
        Phi3VImageProcessor,
        Phi3VProcessor,
    )
    from vlmbench.models.phi3_v_tiny import IMAGE, tiny_phi3_processor

    tokenizer = tiny_phi3_processor(PHI3_CROPS).tokenizer
    image_id = tokenizer.convert_tokens_to_ids(IMAGE)
    factors = [1.0 + index / 16 for index in range(48)]
    few = {} if layers is None else {"num_hidden_layers": layers}
    config = Phi3VConfig(
        **few,
        image_token_id=image_id,
        max_position_embeddings=131072,
        rope_scaling={
            "type": "su",
            "short_factor": factors,
            "long_factor": [4 * factor for factor in factors],
        },
    )
    _write_random(Phi3VForConditionalGeneration, config, folder)

    images = Phi3VImageProcessor(num_crops=PHI3_CROPS)
    Phi3VProcessor(images, tokenizer, image_token_id=image_id).save_pretrained(folder)
    return folder


def _write_random(model_class: Any, config: Any, folder: Path) -> None:
    """Write the configuration, and random weights in shards; a process of its own makes each."""
    config.dtype = torch.bfloat16
    config.architectures = [model_class.__name__]
    with torch.device("meta"):
        model = model_class(config)
    shapes = {
        name: tuple(weight.shape) for name, weight in model.named_parameters(remove_duplicate=True)
    }

    shards = _shards(shapes)
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(len(shards), mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_write_shard, [folder / name for name in shards], shards.values()))

    files = {name: shard for shard, members in shards.items() for name in members}
    index = json.dumps({"metadata": {}, "weight_map": files})
    (folder / "model.safetensors.index.json").write_text(index)
    config.save_pretrained(folder)
    GenerationConfig.from_model_config(config).save_pretrained(folder)


def _shards(shapes: Shapes) -> dict[str, Shapes]:
    """Return the shapes by file name, in NUM_SHARDS files of about the same size."""
    shards: list[Shapes] = [{} for _ in range(NUM_SHARDS)]
    for name, shape in sorted(shapes.items(), key=lambda item: -math.prod(item[1])):
        smallest = min(shards, key=lambda shard: sum(map(math.prod, shard.values())))
        smallest[name] = shape

    return {
        f"model-{number:05d}-of-{NUM_SHARDS:05d}.safetensors": shard
        for number, shard in enumerate(shards, start=1)
    }


def _write_shard(path: Path, shapes: Shapes) -> None:
    from safetensors.torch import save_file

    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(int(path.name.split("-")[1]))
    tensors = {name: _random_weight(name, shape, generator).cpu() for name, shape in shapes.items()}
    save_file(tensors, path, metadata={"format": "pt"})


def _random_weight(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    if "gate" in name and shape == (1,):
        # Open: through the closed gates of a new Mllama, the model sees no image.
        return torch.ones(shape, dtype=torch.bfloat16)
    if len(shape) == 1 and not name.endswith("embedding"):
        return torch.full(shape, float(name.endswith("weight")), dtype=torch.bfloat16)

    weight = torch.empty(shape, dtype=torch.bfloat16, device=generator.device)
    weight.normal_(std=0.02, generator=generator)
    if "tile_embedding" in name or "tile_positional_embedding" in name:
        _clear_unused_tiles(weight)
    return weight


def _clear_unused_tiles(embeddings: torch.Tensor) -> None:
    """Set to 0 the tiles that an aspect ratio does not use, as in Mllama's published weights."""
    from transformers.models.mllama.image_processing_pil_mllama import (
        get_all_supported_aspect_ratios,
    )

    ratios = get_all_supported_aspect_ratios(MLLAMA_TILES)
    num_used = [0, *(height * width for height, width in ratios)]
    for row, number in zip(embeddings, num_used, strict=True):
        row.view(MLLAMA_TILES, -1)[number:] = 0
