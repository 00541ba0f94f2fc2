"""The work of a training step, and where its time goes."""

from __future__ import annotations

import cProfile
import io
import pstats
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlmbench.types import Sample


def model_flops(backbone: Any, sample: Sample, *, frozen_backward: int = 2) -> float:
    """Return the floating-point operations of the decoder for one training sample.

    Each weight and position takes two operations forward and `frozen_backward` backward; attention
    comes on top. Vision tower, adapters and recomputation are left out. Logits count where there
    are labels. What images give needs no gradient, so it counts forward only.

    Backward, two operations are computed: frozen weights take no gradient. Four are the usual
    "model FLOPs" (arXiv:2204.02311, appendix B), defined for models that train all weights.
    """
    import torch

    from vlmbench.backbones.batches import complete_batch

    batch = complete_batch(backbone.train_batch([sample]))
    length, num_labels = batch["input_ids"].shape[1], batch["labels"].shape[1]
    states = batch.get("cross_attention_states")
    num_vision_tokens = 0 if states is None else states.shape[1]

    base = backbone.model.get_base_model()
    decoder = base.model.language_model if hasattr(base.model, "language_model") else base.model
    per_weight = 2 + frozen_backward

    flops: float = 0
    for name, module in decoder.named_modules():
        if not isinstance(module, torch.nn.Linear) or "lora_" in name or "vision" in name:
            continue
        if "cross_attn" in name and ("k_proj" in name or "v_proj" in name):
            flops += module.weight.numel() * 2 * num_vision_tokens
        else:
            flops += module.weight.numel() * per_weight * length
    flops += per_weight * base.lm_head.weight.numel() * num_labels

    config = backbone.model.config.text_config
    num_crossing = len(getattr(config, "cross_attention_layers", None) or [])
    num_self = config.num_hidden_layers - num_crossing
    width = config.hidden_size
    # Queries with keys and weights with values, forward once and backward twice. Causal attention
    # is half of it.
    flops += 3 * 2 * length * length * width * num_self
    flops += 3 * 4 * length * num_vision_tokens * width * num_crossing
    return flops


def profile(backbone: Any, samples: Sequence[Sample], path: Path) -> None:
    """Write where the time of a step goes: kernels, the calls that launch them, Python."""
    import torch
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record_kernels

    from vlmbench.backbones.batches import complete_batch
    from vlmbench.backbones.devices import to_device

    weights = [weight for weight in backbone.model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=0.0, fused=True)
    backbone.model.train()

    def step() -> None:
        batch = to_device(complete_batch(backbone.train_batch(samples)), backbone.model)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            backbone.model(**batch, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    torch.cuda.synchronize()

    python_profile = cProfile.Profile()
    started = time.perf_counter()
    python_profile.runcall(step)
    launched = time.perf_counter() - started
    torch.cuda.synchronize()
    finished = time.perf_counter() - started

    with record_kernels(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as kernels:
        step()
        torch.cuda.synchronize()
    averages = kernels.key_averages()
    tables = [
        averages.table(sort_by=f"self_{device}_time_total", row_limit=40, max_name_column_width=80)
        for device in ("cuda", "cpu")
    ]

    functions = io.StringIO()
    for order in ("tottime", "cumtime"):
        pstats.Stats(python_profile, stream=functions).sort_stats(order).print_stats(40)

    heading = (
        f"{len(samples)} records; launched after {launched:.3f} s with Python's profiler, "
        f"finished after {finished:.3f} s"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join([heading, *tables, functions.getvalue()]))
