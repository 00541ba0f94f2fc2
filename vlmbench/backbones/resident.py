"""The model that a process keeps from one run to the next.

Runs of a sweep on the same model share its frozen weights, compiled kernels and stored tokens. Only
the adapters are drawn again. Such a run equals the same run alone: nothing else stays in the model.
"""

from __future__ import annotations

import copy
import gc
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vlmbench.backbones.adapters import draw_adapters
from vlmbench.config import BuildRequest, ModelConfig

if TYPE_CHECKING:
    from vlmbench.backbones.contract import Backbone

_kept: tuple[Any, Backbone] | None = None


def build(config: ModelConfig, request: BuildRequest) -> Backbone:
    """Return the backbone of `config.build(request)`.

    If only the seed differs from the last request, return the kept backbone with new adapters.
    """
    global _kept
    key = copy.deepcopy((config, replace(request, seed=0)))
    if _kept is not None and _kept[0] == key:
        backbone = _kept[1]
        draw_adapters(backbone.model, request.seed)
        if backbone.store is not None:
            backbone.store.begin_run()
        return backbone

    release()
    built: Backbone = config.build(request)
    if request.weights and request.adapter is None:
        _kept = key, built
    return built


def settle() -> None:
    """Collect the garbage of a run, and hide the kept model from Python's collector.

    A model and its compiled kernels are millions of objects. The collector would scan them again
    and again.
    """
    if _kept is not None:
        gc.collect()  # first: frozen objects are never collected
        gc.freeze()


def release() -> None:
    """Drop the kept model and free its memory."""
    global _kept
    if _kept is None:
        return

    _kept = None
    free_memory()


def free_memory() -> None:
    """Free the memory of models that nothing holds any more, on the GPU too."""
    gc.unfreeze()
    gc.collect()

    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
