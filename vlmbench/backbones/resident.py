"""The model that a process keeps from one run to the next.

A sweep's cells on the same model share its frozen weights, its compiled kernels and its stored tokens; only the
adapters are drawn anew. A cell run this way equals the same cell run alone: nothing else of a run stays in the model.
"""

from __future__ import annotations

import copy
import gc
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vlmbench.backbones.base import draw_adapters
from vlmbench.config import BuildRequest, ModelConfig

if TYPE_CHECKING:
    from vlmbench.backbones.base import Backbone

_kept: tuple[Any, Backbone] | None = None


def build(config: ModelConfig, request: BuildRequest) -> Backbone:
    """The backbone that `config.build(request)` gives: the kept one with fresh adapters where only the seed differs."""
    global _kept
    key = copy.deepcopy((config, replace(request, seed=0)))
    if _kept is not None and _kept[0] == key:
        draw_adapters(_kept[1].model, request.seed)
        if _kept[1].store is not None:
            _kept[1].store.begin_run()
        return _kept[1]
    release()
    backbone: Backbone = config.build(request)
    if request.weights and request.adapter is None:
        _kept = key, backbone
    return backbone


def settle() -> None:
    """After a run: what it left is collected, and Python's collector passes over what stays for the next one.

    A model and its compiled kernels are millions of objects, through all of which it would look again and again.
    """
    if _kept is not None:
        gc.collect()  # first: what is frozen is never collected
        gc.freeze()


def release() -> None:
    """Let go of the kept model, and of the memory that it took."""
    global _kept
    if _kept is None:
        return
    _kept = None
    free_memory()


def free_memory() -> None:
    """Give back what models took that nothing holds any more, the GPU's memory too."""
    gc.unfreeze()
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
