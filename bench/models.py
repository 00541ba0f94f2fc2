"""Published models at their real size with random weights: what speed and memory depend on, without a download."""

from __future__ import annotations

import gc
import json
import shutil
from pathlib import Path
from typing import Any

import torch

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
    images = MllamaImageProcessorPil(size={"height": 560, "width": 560}, max_image_tiles=4)
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
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            torch.manual_seed(0)
            model = model_class(config)
    finally:
        torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    del model
    gc.collect()
    torch.cuda.empty_cache()
