"""Weights of 4 bits (QLoRA, Dettmers et al. 2023, arXiv:2305.14314), new or stored in a folder.

bitsandbytes packs weights into bytes, and the scale of each block beside them. A folder that stores
its weights so keeps them. Unpacked weights are the same numbers in 16 bits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from vlmbench.types import UserError

# The settings in a folder that its weights depend on. The others are those of the run.
STORED = (
    "bnb_4bit_quant_type",
    "bnb_4bit_use_double_quant",
    "bnb_4bit_quant_storage",
    "llm_int8_skip_modules",
)
QUANT_TYPES = ("nf4", "fp4")
# The ends of the names of what is stored beside a packed weight.
STATE = re.compile(r"\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.\w+)$")
ITEM_SIZES = (1, 2, 4)  # bytes of a number that holds packed weights
NUM_CODES = {"weights": 16, "scales": 256}
BLOCK_SIZES = tuple(2**power for power in range(5, 13))  # weights with one scale
MAX_SHOWN = 40  # characters of a stranger's value in a message
FLOATS = ("torch.float16", "torch.bfloat16", "torch.float32")


def new_quantization(kept_whole: Sequence[str], dtype: Any) -> Any:
    """Return how weights of 16 bits are packed when they are loaded, but not `kept_whole`."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_use_double_quant=True,
        llm_int8_skip_modules=["lm_head", *kept_whole],
    )


def is_quantized(published: Any) -> bool:
    """Return whether the weights of a configuration are stored in fewer than 16 bits."""
    return bool(getattr(published, "quantization_config", None))


def stored_quantization(published: Any, path: str, dtype: Any) -> Any | None:
    """Return how the weights at `path` are packed, or None if they have 16 bits or more.

    Products will have the type `dtype`, whatever the folder says. Raise UserError if the weights
    are quantised in a way that cannot be trained.
    """
    from transformers import BitsAndBytesConfig

    if not is_quantized(published):
        return None

    found = published.quantization_config
    settings = found if isinstance(found, dict) else found.to_dict()
    method = str(settings.get("quant_method") or "bitsandbytes")[:MAX_SHOWN]
    if method != "bitsandbytes" or settings.get("load_in_4bit") is not True:
        shown = f"{method}, 8 bits" if settings.get("load_in_8bit") is True else method
        raise UserError(
            f"model.path={path}: config.json says that its weights are quantised ({shown}). Only "
            "the 4 bits of bitsandbytes are trained; name the publisher's model in 16 bits, and "
            "set model.bits=4 if memory is short"
        )

    try:
        stored = {name: settings[name] for name in STORED if name in settings}
        quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=dtype, **stored)
        if quantization.bnb_4bit_quant_type not in QUANT_TYPES:
            raise ValueError(f"bnb_4bit_quant_type must be {' or '.join(QUANT_TYPES)}")
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"model.path={path}: quantization_config in config.json is not one of bitsandbytes "
            f"({error}); download the model again"
        ) from error
    return quantization


def without_packing(info: dict[str, Any]) -> dict[str, Any]:
    """Return loading information in which weights of 4 bits count as those of the model.

    `info` is that of a model of 16 bits. Its packed weights have another shape, and their scales
    have no room.
    """
    unexpected = set(info.get("unexpected_keys") or ())
    scaled = {name.rpartition(".quant_state.")[0] for name in unexpected if STATE.search(name)}
    packed = {
        name
        for name, held, wanted in info.get("mismatched_keys") or ()
        if name in scaled and _may_pack(held, wanted)
    }
    return {
        **info,
        "unexpected_keys": {name for name in unexpected if STATE.sub("", name) not in packed},
        "mismatched_keys": {
            one for one in info.get("mismatched_keys") or () if one[0] not in packed
        },
    }


def _may_pack(held: Sequence[int], wanted: Sequence[int]) -> bool:
    """Return whether numbers of a shape may be the packed weights of another."""
    num_bytes = math.ceil(math.prod(wanted) / 2)
    return math.prod(held) in [math.ceil(num_bytes / size) for size in ITEM_SIZES]


def check_packed(model: Any, path: str) -> None:
    """Raise UserError if scales do not belong to their weights, and would be read out of bounds."""
    for name, layer in packed_layers(model):
        if not _is_sound(layer):
            raise UserError(
                f"model.path={path}: the scales of {name}.weight do not belong to its weights of "
                "4 bits; download the model again"
            )


def _is_sound(layer: Any) -> bool:
    weight, state = layer.weight, layer.weight.quant_state
    if state is None or tuple(state.shape or ()) != (layer.out_features, layer.in_features):
        return False

    num_weights, num_bytes = math.prod(state.shape), weight.numel() * weight.element_size()
    scales, floats = [(state, num_weights, NUM_CODES["weights"])], [state.code]
    if state.nested:
        scales.append((state.state2, state.absmax.numel(), NUM_CODES["scales"]))
        floats += [state.state2.code, state.state2.absmax]

    fits = all(
        one.blocksize in BLOCK_SIZES
        and one.absmax.numel() == math.ceil(number / one.blocksize)
        and one.code.numel() == num_codes
        for one, number, num_codes in scales
    )
    is_known = state.quant_type in QUANT_TYPES and str(state.dtype) in FLOATS
    has_types = all(str(tensor.dtype) == "torch.float32" for tensor in floats)
    return fits and is_known and has_types and num_bytes >= math.ceil(num_weights / 2)


def packed_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the name and module of each linear layer of 4 bits."""
    for name, layer in model.named_modules():
        if type(getattr(layer, "weight", None)).__name__ == "Params4bit":
            yield name, layer


def cast_others(model: Any, dtype: Any) -> None:
    """Give weights that are not packed the type `dtype`.

    transformers 5.17 leaves the type of the file to those that it renames, as for Mllama.
    """
    names = (model._keep_in_fp32_modules or (), model._keep_in_fp32_modules_strict or ())
    kept = set().union(*names)
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and not kept.intersection(name.split(".")):
            weight.data = weight.data.to(dtype)


def unpack(model: Any, dtype: Any, *, only: Sequence[str] | None = None) -> None:
    """Give linear layers of 4 bits the same weights in `dtype`, in place.

    `only` are names of modules, and the layers in them are unpacked. Without it, all are.
    """
    import torch
    from bitsandbytes.functional import dequantize_4bit

    for name, layer in list(packed_layers(model)):
        if only is not None and not set(only).intersection(name.split(".")):
            continue

        weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state).to(dtype)
        with torch.device("meta"):
            linear = torch.nn.Linear(layer.in_features, layer.out_features, bias=False)
        linear.weight = torch.nn.Parameter(weight, requires_grad=False)
        linear.bias = layer.bias
        linear.train(layer.training)
        model.set_submodule(name, linear)

    if only is None:
        _forget_packing(model)


def _forget_packing(model: Any) -> None:
    """Let an unpacked model be saved as any other: transformers 5.17 would pack it, and cannot."""
    from transformers.integrations.bitsandbytes import Bnb4bitDeserialize

    model.hf_quantizer.remove_quantization_config(model)
    model._weight_conversions = [
        conversion
        for conversion in model._weight_conversions
        if not any(
            isinstance(operation, Bnb4bitDeserialize)
            for operation in getattr(conversion, "operations", ())
        )
    ]
