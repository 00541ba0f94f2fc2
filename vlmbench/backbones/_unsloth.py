"""The only import of Unsloth. Import this before trl and transformers, which Unsloth changes."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

# Unsloth returns no logits unless this is set. Scores and token accuracy need them.
os.environ.setdefault("UNSLOTH_RETURN_LOGITS", "1")

# Unsloth writes its compiled modules to one folder and runs what it finds there, so the folder is
# the user's own and never below the working folder. Two processes cannot share it. The processes of
# one host have a GPU each.
_GPU = re.sub(r"\W", "_", os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
_HOME = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
_FOLDER = _HOME / "vlmbench" / f"{platform.node()}_{_GPU}" / "unsloth_compiled_cache"
os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(_FOLDER.absolute()))

import unsloth  # noqa: E402


def load(path: str, *, lora: Any, seed: int, dtype: Any, quantization: Any | None) -> Any:
    """Return a published model on Unsloth's kernels with new adapters.

    `lora` is their peft.LoraConfig, and `dtype` the type of the frozen weights. `quantization` is a
    BitsAndBytesConfig, or None for 16 bits.
    """
    # Unsloth's own default is 4 bits.
    quantized = {} if quantization is None else {"quantization_config": quantization}
    model, _ = unsloth.FastVisionModel.from_pretrained(
        path,
        dtype=dtype,
        load_in_4bit=False,
        use_gradient_checkpointing=False,
        trust_remote_code=False,
        **quantized,
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
