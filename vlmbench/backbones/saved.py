"""Adapters that were saved: read from a folder that nobody has vouched for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from vlmbench.types import UserError

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
MAX_CONFIG = 1_000_000  # bytes
MAX_RANK = 4096
# What a run sets. peft knows much more, down to modules that it imports by their name: all of that stays as it is.
OURS = ("r", "lora_alpha", "lora_dropout", "target_modules", "modules_to_save")
# What peft writes of its own accord, and what changes nothing here.
IGNORED = (
    *("peft_type", "task_type", "inference_mode", "base_model_name_or_path", "revision", "peft_version"),
    "auto_mapping",
)
# A repeated group can take the regular expression engine for ever.
REPEATED_GROUP = re.compile(r"\)\s*[*+{]")


def saved_config(adapter: Path) -> Any:
    """The peft.LoraConfig of a saved adapter.

    Raises UserError where its weights are no safetensors (a checkpoint in PyTorch's own format would be a pickle), or
    where it sets what a run does not set.
    """
    import peft

    if not (adapter / WEIGHTS).exists():
        raise UserError(f"{adapter}: no {WEIGHTS}; name the folder of a finished run")
    place = adapter / CONFIG
    given = _read(place)
    if given.get("peft_type") != "LORA":
        raise UserError(f"{place}: peft_type is {given.get('peft_type')!r}; only LORA adapters are loaded")
    usual = peft.LoraConfig().to_dict()
    for name, value in given.items():
        if name not in (*OURS, *IGNORED) and value != usual.get(name, value) and value is not None:
            raise UserError(f"{place}: {name}={value!r} is not what a run saves; train the adapter with vlmbench")
    own = {name: given[name] for name in OURS if name in given}
    _check(place, own)
    return peft.LoraConfig(**own, task_type="CAUSAL_LM")


def _read(place: Path) -> dict[str, Any]:
    try:
        if place.stat().st_size > MAX_CONFIG:
            raise UserError(f"{place}: more than {MAX_CONFIG} bytes; it is no adapter's configuration")
        given = json.loads(place.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{place}: the adapter's configuration cannot be read ({error}); train it again") from error
    if not isinstance(given, dict):
        raise UserError(f"{place}: the adapter's configuration is no JSON object; train it again")
    return given


def _check(place: Path, own: dict[str, Any]) -> None:
    targets = own.get("target_modules")
    names = targets if isinstance(targets, list) else [targets]
    kinds = {
        "r": type(own.get("r")) is int and 1 <= own["r"] <= MAX_RANK,
        "lora_alpha": isinstance(own.get("lora_alpha"), int | float),
        "lora_dropout": isinstance(own.get("lora_dropout"), int | float) and 0 <= own["lora_dropout"] <= 1,
        "target_modules": all(isinstance(name, str) and not REPEATED_GROUP.search(name) for name in names),
        "modules_to_save": own.get("modules_to_save") is None
        or (isinstance(own["modules_to_save"], list) and all(isinstance(name, str) for name in own["modules_to_save"])),
    }
    for name, is_right in kinds.items():
        if not is_right:
            raise UserError(
                f"{place}: {name}={own.get(name)!r} is not what a run saves; train the adapter with vlmbench"
            )


def load_saved(base: Any, adapter: Path) -> Any:
    """A PeftModel with the adapters of a folder, ready to be trained on.

    Raises UserError where its weights are damaged or another model's.
    """
    import peft
    from safetensors import SafetensorError

    config = saved_config(adapter)
    try:
        return peft.PeftModel.from_pretrained(base, adapter, config=config, is_trainable=True)
    except (SafetensorError, RuntimeError, ValueError, re.error) as error:
        raise UserError(f"{adapter}: the adapter cannot be loaded into this model ({error}); train it again") from error
