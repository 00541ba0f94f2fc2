"""Load an adapter, answer, merge and save the model, load that alone, and answer again.

    python tests/gpu/merge_phi3.py ENGINE MODEL_FOLDER ADAPTER MERGED_FOLDER

Prints one line of JSON. It has its own process because Unsloth changes transformers.
"""

from __future__ import annotations

import copy
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.helpers.backbones import make_request, sample
from vlmbench.backbones.devices import to_device
from vlmbench.backbones.phi3 import Phi3Config
from vlmbench.config import Engine

SAMPLES = [sample(0), sample(1, "normal")]
LABELS = ["normal", "abnormal"]


def scores_of(backbone: Any) -> Any:
    """Return the log-probabilities of the labels of each sample."""
    backbone.model.eval()
    return backbone.score(SAMPLES, LABELS).float().cpu()


def generate_ids(backbone: Any) -> list[list[int]]:
    """Return eight generated tokens of each sample, even if the model would stop earlier."""
    batch = backbone.collate(SAMPLES, with_answer=False, padding_side="left")
    prefix = to_device(batch, backbone.model)
    prefix.pop("position_ids")
    ids = backbone.model.generate(**prefix, do_sample=False, min_new_tokens=8, max_new_tokens=8)
    return ids[:, prefix["input_ids"].shape[1] :].tolist()


def largest_difference(first: Any, second: Any) -> float:
    """Return the largest difference in log-probability."""
    return float((first - second).abs().max())


def main(engine: str, model_folder: str, adapter: str, merged_folder: str) -> None:
    config = Phi3Config(path=model_folder)
    request = make_request(Path("cache"), engine=Engine(engine))
    plain = scores_of(config.build(request))
    backbone = config.build(replace(request, adapter=Path(adapter)))
    trained, tokens = scores_of(backbone), generate_ids(backbone)

    exact = copy.copy(backbone)
    exact.model = copy.deepcopy(backbone.model).float()
    exact_trained = scores_of(exact)
    exact.model.merge_adapter()
    exact_merged = scores_of(exact)
    del exact

    backbone.merge()
    merged, merged_tokens = scores_of(backbone), generate_ids(backbone)
    backbone.save_merged(Path(merged_folder))
    del backbone

    # New adapters change nothing.
    alone = config.build(replace(request, engine=Engine.transformers, merged=Path(merged_folder)))
    figures = {
        "engine": engine,
        "scores": trained.tolist(),
        "trained_minus_plain": largest_difference(trained, plain),
        "merged_minus_adapter_float32": largest_difference(exact_merged, exact_trained),
        "merged_minus_adapter_bf16": largest_difference(merged, trained),
        "reloaded_minus_merged": largest_difference(scores_of(alone), merged),
        "tokens": tokens,
        "merged_tokens": merged_tokens,
        "reloaded_tokens": generate_ids(alone),
    }
    print(json.dumps(figures))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
