"""The only import of Unsloth. Import this before trl and transformers, which Unsloth changes."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

# Without logits there is nothing to score and no token accuracy; Unsloth leaves them out unless told otherwise.
os.environ.setdefault("UNSLOTH_RETURN_LOGITS", "1")

# Unsloth writes the modules that it compiles into one folder and reads them from there: not two processes at a time.
# Those of one host have a GPU each.
_CARD = re.sub(r"\W", "_", os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(Path(".cache", _CARD, "unsloth_compiled_cache").resolve()))

import unsloth  # noqa: E402


def load(path: str, *, lora: Any, seed: int, quantization: Any | None) -> Any:
    """A published model on Unsloth's kernels with fresh adapters, as the peft.LoraConfig `lora` has them."""
    # 16 bits unless `quantization` (a BitsAndBytesConfig) says otherwise; Unsloth's own default is 4.
    quantized = {} if quantization is None else {"quantization_config": quantization}
    model, _ = unsloth.FastVisionModel.from_pretrained(
        path, load_in_4bit=False, use_gradient_checkpointing=False, trust_remote_code=False, **quantized
    )
    return unsloth.FastVisionModel.get_peft_model(
        model,
        target_modules=lora.target_modules,
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        random_state=seed,
        use_gradient_checkpointing=False,
    )
