"""Measure a training step of a large model with stored vision tokens: samples/s and memory.

The weights are random. Needs one GPU:

    python -m bench.seam_speed --batch-size 16

Prints one JSON line: the type, its weights, samples/s, the peak memory and the first loss.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

PAIR_TOKENS = 324  # of an image of 560 x 560 pixels
SIZE_8B = {
    "text_config": {
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 32768,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5_000_000.0,
            "mrope_section": [24, 20, 20],
            "mrope_interleaved": True,
        },
    },
    "vision_config": {
        "depth": 27,
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_heads": 16,
        "out_hidden_size": 4096,
        "patch_size": 16,
        "deepstack_visual_indexes": [8, 16, 24],
    },
}


def make_model(rank: int) -> tuple[Any, int]:
    """Return Qwen3-VL at its 8B size with random weights and LoRA, and its image token."""
    import peft
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from vlmbench.backbones.features import FeatureForm, is_packed
    from vlmbench.backbones.seam import find_decoder, linear_layers

    config = AutoConfig.for_model("qwen3_vl", **SIZE_8B)
    torch.manual_seed(0)
    with torch.device("cuda"):
        base = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    targets = linear_layers(base, find_decoder(base))
    form = FeatureForm(wrapper=list, rows=None, has_pooled=True, layers=None)
    owner = base.model
    encode = owner.get_image_features

    def features(pixel_values: Any = None, *args: Any, **settings: Any) -> Any:
        if is_packed(pixel_values):
            return form.rebuild(pixel_values)
        return encode(pixel_values, *args, **settings)

    owner.get_image_features = features
    lora = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)
    return peft.get_peft_model(base, lora), int(config.image_token_id)


def make_batch(image_token: int, batch_size: int, text_tokens: int) -> dict[str, Any]:
    """Return a batch of pairs with stored features and an answer of eight tokens."""
    import torch

    from vlmbench.backbones.features import pack

    image = [image_token] * PAIR_TOKENS
    row = [1, *image, 2, 1, *image, 2, *range(100, 100 + text_tokens)]
    ids = torch.tensor([row] * batch_size, device="cuda")
    stored = torch.randn(PAIR_TOKENS, 4, 4096, dtype=torch.bfloat16, device="cuda")
    grid = torch.tensor([[1, 36, 36]] * (2 * batch_size), device="cuda")
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == image_token).long(),
        "image_grid_thw": grid,
        "pixel_values": pack([stored] * (2 * batch_size)),
        "labels": ids[:, -9:].clone(),
        "logits_to_keep": 9,
    }


def measure(batch_size: int, steps: int, rank: int) -> dict[str, Any]:
    """Return samples/s and the peak memory of training steps."""
    import torch

    model, image_token = make_model(rank)
    model.train()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    batch = make_batch(image_token, batch_size, 60)

    first, started = None, 0.0
    for step in range(steps + 3):
        if step == 3:  # the first steps tune kernels
            torch.cuda.synchronize()
            started = time.monotonic()
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        first = float(loss) if first is None else first
    torch.cuda.synchronize()

    seconds = time.monotonic() - started
    return {
        "model": "qwen3_vl 8B, random weights",
        "billion_weights": sum(weight.numel() for weight in model.parameters()) / 1e9,
        "device": torch.cuda.get_device_name(0),
        "batch_size": batch_size,
        "samples_per_s": batch_size * steps / seconds,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
        "first_loss": first,
    }


def main() -> None:
    """Read the command line and print the measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rank", type=int, default=16)
    given = parser.parse_args()
    print(json.dumps(measure(given.batch_size, given.steps, given.rank)))


if __name__ == "__main__":
    main()
