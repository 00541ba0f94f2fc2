"""What a training step computes, and where its time goes."""

from __future__ import annotations

import cProfile
import io
import pstats
import time
from pathlib import Path
from typing import Any


def model_flops(backbone: Any, sample: Any, *, frozen_backward: int = 2) -> float:
    """Floating-point operations of one training sample in the decoder: two a weight and position forward,
    `frozen_backward` backward, attention besides. Vision tower, adapters and recomputation are left out; logits are
    counted where there are labels; what pictures give needs no gradient and counts forward only.

    Backward, two are what is computed: frozen weights take no gradient. Four are the usual count of "model FLOPs"
    (arXiv:2204.02311, appendix B), made for models whose weights are all trained.
    """
    import torch

    from vlmbench.backbones.base import ready

    batch = ready(backbone.train_batch([sample]))
    length, kept = batch["input_ids"].shape[1], batch["labels"].shape[1]
    states = batch.get("cross_attention_states")
    seen = 0 if states is None else states.shape[1]
    base = backbone.model.get_base_model()
    decoder = base.model.language_model if hasattr(base.model, "language_model") else base.model
    each = 2 + frozen_backward
    flops: float = 0
    for name, module in decoder.named_modules():
        if isinstance(module, torch.nn.Linear) and "lora_" not in name and "vision" not in name:
            of_pictures = "cross_attn" in name and any(part in name for part in ("k_proj", "v_proj"))
            flops += module.weight.numel() * (2 * seen if of_pictures else each * length)
    flops += each * base.lm_head.weight.numel() * kept
    config = backbone.model.config.text_config
    crossing = getattr(config, "cross_attention_layers", None) or []
    width = config.hidden_size
    # Queries with keys and weights with values, forward once and backward twice; causal attention is half of it.
    flops += 3 * 2 * length * length * width * (config.num_hidden_layers - len(crossing))
    flops += 3 * 4 * length * seen * width * len(crossing)
    return flops


def profile(backbone: Any, samples: list[Any], path: Path) -> None:
    """Where a step's time goes: kernels, what launches them, Python."""
    import torch
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as recording

    from vlmbench.backbones.base import ready, to_device

    weights = [weight for weight in backbone.model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=0.0, fused=True)
    backbone.model.train()

    def step() -> None:
        batch = to_device(ready(backbone.train_batch(samples)), backbone.model)
        with torch.autocast("cuda", dtype=torch.bfloat16):
            backbone.model(**batch, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    torch.cuda.synchronize()
    python = cProfile.Profile()
    started = time.perf_counter()
    python.runcall(step)
    launched = time.perf_counter() - started
    torch.cuda.synchronize()
    done = time.perf_counter() - started
    with recording(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        step()
        torch.cuda.synchronize()
    averages = recorded.key_averages()
    tables = [
        averages.table(sort_by=f"self_{side}_time_total", row_limit=40, max_name_column_width=80)
        for side in ("cuda", "cpu")
    ]
    said = io.StringIO()
    for order in ("tottime", "cumtime"):
        pstats.Stats(python, stream=said).sort_stats(order).print_stats(40)
    path.parent.mkdir(parents=True, exist_ok=True)
    first = f"{len(samples)} records; launched after {launched:.3f} s with Python's profiler, done after {done:.3f} s"
    path.write_text("\n\n".join([first, *tables, said.getvalue()]))
