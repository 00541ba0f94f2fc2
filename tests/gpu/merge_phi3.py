"""Load a trained adapter, answer, merge it, save that in the hub's layout, load it alone and answer again.

    python tests/gpu/merge_phi3.py ENGINE MODEL_FOLDER ADAPTER MERGED_FOLDER

Prints one line of JSON. A process of its own: Unsloth changes transformers when it is imported.
"""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.backbones.test_contract import sample
from vlmbench.backbones.base import to_device
from vlmbench.backbones.phi3 import Phi3Config
from vlmbench.config import BuildRequest, Engine, Vision

SAMPLES = [sample(0), sample(1, "normal")]
LABELS = ["normal", "abnormal"]


def scores(backbone: Any) -> Any:
    """Log-probabilities of the labels of each sample."""
    backbone.model.eval()
    return backbone.score(SAMPLES, LABELS).float().cpu()


def written(backbone: Any) -> list[list[int]]:
    """Eight generated tokens of each sample, whether or not the model would stop before."""
    prefix = to_device(backbone.collate(SAMPLES, with_answer=False, padding_side="left"), backbone.model)
    prefix.pop("position_ids")
    ids = backbone.model.generate(**prefix, do_sample=False, min_new_tokens=8, max_new_tokens=8)
    return ids[:, prefix["input_ids"].shape[1] :].tolist()


def apart(one: Any, other: Any) -> float:
    """The largest difference in log-probability."""
    return float((one - other).abs().max())


def main(engine: str, model_folder: str, adapter: str, merged_folder: str) -> None:
    request = BuildRequest(seed=0, engine=Engine(engine), vision=Vision.frozen, cache_dir=Path("cache"))
    plain = scores(Phi3Config(path=model_folder).build(request))
    backbone = Phi3Config(path=model_folder).build(replace(request, adapter=Path(adapter)))
    trained, tokens = scores(backbone), written(backbone)
    exact = copy.copy(backbone)
    exact.model = copy.deepcopy(backbone.model).float()
    exact_trained = scores(exact)
    exact.model.merge_adapter()
    exact_merged = scores(exact)
    del exact

    backbone.merge()
    merged, merged_tokens = scores(backbone), written(backbone)
    backbone.save_merged(Path(merged_folder))
    del backbone
    # With fresh adapters, which do nothing.
    alone = Phi3Config(path=model_folder).build(
        replace(request, engine=Engine.transformers, merged=Path(merged_folder))
    )
    figures = {
        "engine": engine,
        "scores": trained.tolist(),
        "trained_minus_plain": apart(trained, plain),
        "merged_minus_adapter_float32": apart(exact_merged, exact_trained),
        "merged_minus_adapter_bf16": apart(merged, trained),
        "reloaded_minus_merged": apart(scores(alone), merged),
        "tokens": tokens,
        "merged_tokens": merged_tokens,
        "reloaded_tokens": written(alone),
    }
    print(json.dumps(figures))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
