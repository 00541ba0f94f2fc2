"""LoRA adapters (Hu et al. 2021, arXiv:2106.09685): add, initialise, merge and load them.

A saved adapter may come from an untrusted folder. Its configuration is checked before peft reads
it.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlmbench.backbones.border import check_adapter_keys
from vlmbench.backbones.weights import count_weights
from vlmbench.config import BuildRequest, LoraConfig
from vlmbench.system.reading import read_regular
from vlmbench.types import UserError

# The linear layers of the language model, under the names that most families in transformers use.
LANGUAGE_TARGETS = r".*language_model\..*\.(q|k|v|o|gate|up|down)_proj"

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
MAX_CONFIG = 1_000_000  # bytes
MAX_RANK = 4096

# The settings of a run. peft has many more, some of which import modules by name. These must keep
# their defaults.
RUN_SETTINGS = ("r", "lora_alpha", "lora_dropout", "target_modules", "modules_to_save")
# The settings that peft writes for its own use. They change nothing here.
IGNORED_SETTINGS = (
    "peft_type",
    "task_type",
    "inference_mode",
    "base_model_name_or_path",
    "revision",
    "peft_version",
    "auto_mapping",
)
# The expressions that runs save, such as .*language_model\..*\.(q|k)_proj, and plain names. Other
# expressions can keep the regular expression engine busy for ever.
PLAIN_NAME = re.compile(r"[\w.]{1,200}", re.ASCII)
NUMBER = r"(?<=\\\.)\\d\+(?=\\\.|\||$)"  # of a layer, alone between two dots
PIECE = rf"(?:\.\*|\\\.|{NUMBER}|\w|\(\w+(?:\|\w+)*\))"
TARGET_EXPRESSION = re.compile(rf"{PIECE}+(?:\|{PIECE}+)*", re.ASCII)
GROUP = re.compile(r"\([^()]*\)")
MAX_EXPRESSION = 20_000  # characters
MAX_ALTERNATIVES = 8  # with wildcards
MAX_NAMED = 200  # alternatives that are whole names
MAX_WILDCARDS = 2  # of an alternative: the time grows with the length of a name to this power
MAX_NAMES = 1000
MAX_SHOWN = 200  # characters of a value in a message
MAX_ALPHA = 1e6


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch. Call it before anything random is made."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def add_adapters(
    base: Any,
    request: BuildRequest,
    *,
    lora: LoraConfig,
    targets: str,
    trained: list[str] | None = None,
) -> Any:
    """Return a PeftModel: `base` with new adapters, or with those of `request.adapter`.

    `targets` is a regular expression of the modules that get adapters. The modules in `trained`
    train all of their weights.
    """
    import peft

    if request.adapter is not None:
        return load_adapter(base, request.adapter)

    config = peft_config(lora, targets, trained)
    model = peft.get_peft_model(base, config, low_cpu_mem_usage=not request.weights)
    if request.weights:
        draw_adapters(model, request.seed)
    return model


def peft_config(lora: LoraConfig, targets: str, trained: list[str] | None = None) -> Any:
    """Return the peft.LoraConfig of new adapters."""
    import peft

    return peft.LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        modules_to_save=trained,
        task_type="CAUSAL_LM",
    )


def draw_adapters(model: Any, seed: int) -> None:
    """Reset the adapters of a PeftModel to random weights, in the order of its modules.

    Modules that train all of their weights get their first weights back. So one seed gives the
    same adapters in a new model and in a model that has been trained.
    """
    from peft.tuners.lora import LoraLayer
    from peft.utils import ModulesToSaveWrapper

    seed_everything(seed)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.reset_lora_parameters("default", init_lora_weights=True)
        elif isinstance(module, ModulesToSaveWrapper):
            first_weights = module.original_module.state_dict()
            module.modules_to_save["default"].load_state_dict(first_weights)


def merge_adapter(model: Any) -> None:
    """Add the adapter of a PeftModel to the weights of its base model, in place.

    Raises UserError if a weight is NaN or infinite afterwards.
    """
    import torch

    model.merge_adapter(safe_merge=False)
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise UserError(
                f"{name}: merging the adapter produced NaN or infinite weights; "
                "train again with a lower trainer.learning_rate"
            )


def load_adapter(base: Any, adapter: Path) -> Any:
    """Return a PeftModel with the adapter of a folder, ready for training.

    Raises UserError if the weights are damaged or belong to another model.
    """
    import peft

    config = read_adapter_config(adapter)
    _require_all_weights(adapter, base, config)
    with _checking(adapter):
        model = peft.PeftModel.from_pretrained(base, adapter, config=config, is_trainable=True)
        names = _names(adapter)
    check_adapter_keys(model, adapter, names)
    return model


def fill_adapter(model: Any, adapter: Path) -> None:
    """Give the new adapter of a PeftModel the weights of a folder. Raise as `load_adapter` does."""
    with _checking(adapter):
        names = _names(adapter)
    check_adapter_keys(model, adapter, names)
    with _checking(adapter):
        model.load_adapter(adapter, "default", is_trainable=True)


@contextmanager
def _checking(adapter: Path) -> Iterator[None]:
    """Raise UserError for what peft and safetensors say of an adapter that is not the model's."""
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, RuntimeError, ValueError, re.error) as error:
        raise UserError(
            f"{adapter}: the adapter cannot be loaded into this model ({error}); train it again"
        ) from error


def _names(adapter: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(adapter / WEIGHTS, "pt") as file:
        return list(file.keys())


def _require_all_weights(adapter: Path, base: Any, config: Any) -> None:
    """Raise UserError if the file lacks weights that peft would make up, at any cost in memory."""
    available = count_weights(adapter / WEIGHTS)

    targets, needed = config.target_modules, 0
    for name, module in base.named_modules():
        if isinstance(targets, str):
            is_target = re.fullmatch(targets, name) is not None
        else:
            is_target = any(name == end or name.endswith(f".{end}") for end in targets)
        if is_target and hasattr(module, "in_features"):
            needed += config.r * (module.in_features + module.out_features)

    if needed > available:
        raise UserError(
            f"{adapter}: the adapter cannot be loaded into this model (its files have {available} "
            f"weights, and its settings need {needed}); train it again"
        )


def read_adapter_config(adapter: Path) -> Any:
    """Return the peft.LoraConfig of a saved adapter.

    Raises UserError without weights in safetensors: PyTorch's own format is a pickle, which can run
    code. Raises UserError for a setting that no run sets.
    """
    import peft

    if not (adapter / WEIGHTS).exists():
        raise UserError(f"{adapter}: no {WEIGHTS}; name the folder of a finished run")

    path = adapter / CONFIG
    settings = _read_json(path)
    if settings.get("peft_type") != "LORA":
        raise UserError(
            f"{path}: peft_type is {settings.get('peft_type')!r}, but only LORA adapters are "
            "loaded; train the adapter with vlmbench"
        )

    defaults = peft.LoraConfig().to_dict()
    for name, value in settings.items():
        is_free = name in RUN_SETTINGS or name in IGNORED_SETTINGS
        is_default = value is None or value == defaults.get(name, value)
        if not is_free and not is_default:
            raise _unsupported_setting(path, name, value)

    run_settings = {name: settings[name] for name in RUN_SETTINGS if name in settings}
    _check_settings(path, run_settings)
    return peft.LoraConfig(**run_settings, task_type="CAUSAL_LM")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(read_regular(path, limit=MAX_CONFIG))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: the adapter's configuration cannot be read ({error}); train it again"
        ) from error

    if not isinstance(settings, dict):
        raise UserError(
            f"{path}: the adapter's configuration must be a JSON object; train it again"
        )
    return settings


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
    rank = settings.get("r")
    targets, whole = settings.get("target_modules"), settings.get("modules_to_save")

    is_valid = {
        "r": type(rank) is int and 1 <= rank <= MAX_RANK,
        "lora_alpha": _is_number(settings.get("lora_alpha"), MAX_ALPHA),
        "lora_dropout": _is_number(settings.get("lora_dropout"), 1.0),
        "target_modules": _is_list_of_names(targets) or _is_safe_expression(targets),
        "modules_to_save": whole is None or _is_list_of_names(whole),
    }
    for name, valid in is_valid.items():
        if not valid:
            raise _unsupported_setting(path, name, settings.get(name))


def _is_number(value: Any, most: float) -> bool:
    return type(value) in (int, float) and 0 <= value <= most


def _is_safe_expression(expression: Any) -> bool:
    """Return whether an expression has the shape of those that runs save, and few wildcards."""
    if not isinstance(expression, str) or len(expression) > MAX_EXPRESSION:
        return False
    if not TARGET_EXPRESSION.fullmatch(expression):
        return False

    alternatives = GROUP.sub("", expression).split("|")
    most = max(alternative.count(".*") for alternative in alternatives)
    most_alternatives = MAX_ALTERNATIVES if most else MAX_NAMED
    return len(alternatives) <= most_alternatives and most <= MAX_WILDCARDS


def _is_list_of_names(value: Any) -> bool:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_NAMES:
        return False
    return all(isinstance(name, str) and PLAIN_NAME.fullmatch(name) for name in value)


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _unsupported_setting(path: Path, name: str, value: Any) -> UserError:
    return UserError(
        f"{path}: {name}={_shorten(value)} is not what a run saves; train the adapter with vlmbench"
    )
