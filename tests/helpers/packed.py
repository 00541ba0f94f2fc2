"""Model folders whose weights are stored in 4 bits, as `...-bnb-4bit` folders on the hub are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

WEIGHTS = "model.safetensors"
QUANTISED = {
    "quant_method": "bitsandbytes",
    "load_in_4bit": True,
    "load_in_8bit": False,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": False,
    "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_quant_storage": "uint8",
    "llm_int8_skip_modules": ["lm_head"],
}


def quantise(folder: Path, target: Path) -> Path:
    """Write the model of a folder in 4 bits, tower included, and return `target`."""
    from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=["lm_head"],
    )
    model = AutoModelForImageTextToText.from_pretrained(
        folder, quantization_config=quantization, dtype=torch.float32
    )
    model.save_pretrained(target)
    return target


def pretend(folder: Path, **changes: Any) -> None:
    """Give a folder the headers of 4 bits. Its weights say nothing, and bitsandbytes is not needed.

    `changes` are of `quantization_config`.
    """
    held = {}
    for name, weight in load_file(folder / WEIGHTS).items():
        if not name.endswith("_proj.weight"):
            held[name] = weight
            continue

        num_blocks = -(-weight.numel() // 64)
        held[name] = torch.zeros(-(-weight.numel() // 2), 1, dtype=torch.uint8)
        held[f"{name}.absmax"] = torch.ones(num_blocks)
        held[f"{name}.quant_map"] = torch.zeros(16)
        held[f"{name}.quant_state.bitsandbytes__nf4"] = torch.zeros(9, dtype=torch.uint8)
    save_file(held, folder / WEIGHTS, {"format": "pt"})

    path = folder / "config.json"
    settings = json.loads(path.read_text())
    settings["quantization_config"] = QUANTISED | changes
    path.write_text(json.dumps(settings))
