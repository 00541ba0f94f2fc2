"""trainer.precision: the type of numbers in which a model computes: bf16, fp16 or fp32."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vlmbench.config import Precision
from vlmbench.types import UserError

FP32 = "fp32"  # without a GPU
FP16_FROM = (7, 0)  # compute capability: the first with fast products in fp16
BF16_CAPABILITY = "8.0"

# Types of models, or of their language models, that are known to exceed the range of fp16.
OVERFLOWING = frozenset(
    {
        # vLLM refuses these in fp16 (vllm/config/model.py).
        *("gemma2", "gemma3", "gemma3_text"),
        # transformers issue 39972 (gemma3), vLLM issue 40290 (the tower of gemma4).
        # Unsloth keeps these out of fp16 (FORCE_FLOAT32 in unsloth/models/loader.py).
        *("gemma3n", "gemma3n_text", "gemma4", "gemma4_text"),
        *("qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"),
    }
)


def choose_precision(precision: Precision) -> tuple[str, str]:
    """Return bf16, fp16 or fp32, and the reason.

    Raise UserError if this machine cannot train in that precision.
    """
    import torch

    if not torch.cuda.is_available():
        if precision is Precision.auto:
            return FP32, "there is no CUDA GPU"
        raise UserError(
            f"trainer.precision={precision}: there is no CUDA GPU, and without one models compute "
            "in fp32; set trainer.precision=auto"
        )

    gpu, capability = torch.cuda.get_device_name(0), torch.cuda.get_device_capability(0)
    shown = f"{gpu} has compute capability {capability[0]}.{capability[1]}"
    if capability < FP16_FROM:
        raise UserError(
            f"trainer.precision={precision}: the GPU {shown}, and training needs 7.0 or newer; "
            "take a newer GPU, or train a small model without it: "
            "CUDA_VISIBLE_DEVICES= python -m vlmbench model=smol"
        )

    if precision is Precision.bf16 and not has_bf16():
        raise UserError(
            f"trainer.precision=bf16: the GPU {shown}, and bf16 needs {BF16_CAPABILITY}; "
            "set trainer.precision=fp16"
        )
    if precision is not Precision.auto:
        return str(precision), "set by trainer.precision, or that of an earlier run"
    if has_bf16():
        return str(Precision.bf16), f"{gpu} has it"
    return str(Precision.fp16), f"{shown}, and bf16 needs {BF16_CAPABILITY}"


def has_bf16() -> bool:
    """Return whether this machine's GPU computes in bf16 itself, and not by emulation."""
    import torch

    has_gpu = torch.cuda.is_available()
    return has_gpu and bool(torch.cuda.is_bf16_supported(including_emulation=False))


def compute_type(precision: Precision) -> Any:
    """Return the torch.dtype of a precision; that of `auto` depends on the machine.

    Raise UserError as `choose_precision` does.
    """
    import torch

    types = {"bf16": torch.bfloat16, "fp16": torch.float16, FP32: torch.float32}
    return types[choose_precision(precision)[0] if precision is Precision.auto else precision]


def types_of(config: Any) -> set[str]:
    """Return the types of a model and of its language model, from its configuration."""
    return {str(config.model_type), str(config.get_text_config().model_type)}


def refuse_overflow(types: Iterable[str], path: str, precision: Precision) -> None:
    """Raise UserError if the run computes in fp16, and one of the types exceeds its range."""
    import torch

    found = sorted(OVERFLOWING.intersection(types))
    if not found or compute_type(precision) is not torch.float16:
        return

    reason, cure = "", "set trainer.precision=auto"
    if not has_bf16():
        reason = f", and bf16 needs a GPU of compute capability {BF16_CAPABILITY}"
        cure = "take such a GPU, or set model=qwen3_vl"
    raise UserError(
        f"model.path={path}: the numbers of a model of type {found[0]} are too large for "
        f"fp16{reason}; {cure}"
    )
