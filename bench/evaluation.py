"""Answers to held-out records: labels scored, with stored tokens and from pixels, and text.

    python -m bench.evaluation --workload pair-560 [--batches 64,128,256]

One process measures all of it on one loaded model. A rate counts the records after the first batch,
in which kernels are compiled. With stored tokens, every image was seen before.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bench import record, setup
from vlmbench.types import Sample

LABELS = ["normal", "abnormal"]
NUM_SCORED = 1024
NEW_TOKENS = 32
SCORE_STORED = "score labels, stored tokens"
SCORE_PIXELS = "score labels, from pixels"
GENERATE_STORED = "generate an answer, stored tokens"

Batches = Sequence[Sequence[Sample]]


def main() -> None:
    """Measure every way to answer, and write the table."""
    arguments = _parse_arguments()
    setup.make_model(arguments)
    rows = list(_measure(arguments))

    figures = {
        "workload": arguments.workload,
        "labels_from_stored_tokens_per_s": _best(rows, SCORE_STORED),
        "labels_from_pixels_per_s": _best(rows, SCORE_PIXELS),
        "generated_per_s": _best(rows, GENERATE_STORED),
        "rows": rows,
    }
    name = record.result_name("evaluation", arguments.workload, arguments.out)
    path = record.write(name, figures)
    print(f"\n{record.table(rows)}\n\n{path}")


def _parse_arguments() -> argparse.Namespace:
    parser = setup.make_parser(__doc__)
    parser.add_argument("--batches", default="64,128,256")
    return parser.parse_args()


def _best(rows: Sequence[dict[str, Any]], way: str) -> float | None:
    speeds = [row["records_per_s"] for row in rows if row["way"] == way and row["records_per_s"]]
    return max(speeds, default=None)


def _measure(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from vlmbench.pipeline.answer import one_behind

    backbone = setup.build_ours(arguments)
    backbone.model.eval()
    samples = list(setup.samples_of(setup.records_of(arguments))[:NUM_SCORED])

    def score(batches: Batches) -> None:
        """Score as a run does: the GPU computes a batch while the last one is read."""
        for scores in one_behind(backbone.score(batch, LABELS) for batch in batches):
            scores.tolist()

    def generate(batches: Batches) -> None:
        for batch in batches:
            backbone.generate(batch, max_new_tokens=NEW_TOKENS)

    sizes = [int(number) for number in arguments.batches.split(",")]
    score(_split(samples, sizes[0]))  # stores the tokens of every image
    for size in sizes:
        yield _time(SCORE_STORED, _split(samples, size), score)
    for size in sizes[:2]:
        yield _time(GENERATE_STORED, _split(samples, size)[:2], generate)

    store, backbone.store = backbone.store, None
    yield _time(SCORE_PIXELS, _split(samples, sizes[0])[:2], score)
    backbone.store = store


def _split(samples: Sequence[Sample], size: int) -> Batches:
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def _time(way: str, batches: Batches, answer: Callable[[Batches], None]) -> dict[str, Any]:
    """Return the speed of `answer`, without the first batch, and the memory that it took."""
    import torch

    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    row: dict[str, Any] = {"way": way, "batch": len(batches[0]), "records_per_s": None}

    try:
        answer(batches[:1])
        started = time.monotonic()
        answer(batches[1:])
        row["records_per_s"] = sum(map(len, batches[1:])) / (time.monotonic() - started)
    except torch.OutOfMemoryError:
        row["error"] = "out of memory"
        torch.cuda.empty_cache()

    row["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9 if gpu else None
    print(json.dumps(row), flush=True)
    return row


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
