"""The only import of Unsloth. Import this before trl and transformers, which Unsloth changes."""

from __future__ import annotations

import os
from typing import Any

# Without logits there is nothing to score and no token accuracy; Unsloth leaves them out unless told otherwise.
os.environ.setdefault("UNSLOTH_RETURN_LOGITS", "1")

import unsloth

from vlmbench.config import BuildRequest, LoraConfig, Vision


def load(path: str, request: BuildRequest, *, bits: int, lora: LoraConfig) -> Any:
    """A vision-language model on Unsloth's kernels, with fresh adapters or those in the folder `request.adapter`."""
    source = path if request.adapter is None else str(request.adapter)
    model, _ = unsloth.FastVisionModel.from_pretrained(source, load_in_4bit=bits == 4, use_gradient_checkpointing=False)
    if request.adapter is not None:
        return model
    return unsloth.FastVisionModel.get_peft_model(
        model,
        finetune_vision_layers=request.vision is Vision.lora,
        finetune_language_layers=True,
        finetune_attention_modules=True,
        finetune_mlp_modules=True,
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        random_state=request.seed,
    )
