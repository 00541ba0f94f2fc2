"""Answering held-out records: labels scored from kept tokens and from pixels, answers generated from kept tokens.

    python -m bench.evaluation --workload pair-560 [--batches 64,128,256]

All in one process, on one loaded model. Rates are of the records after the first batch, in which kernels are compiled;
where tokens are kept, every picture has been seen before.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from bench import record, setup

LABELS = ["normal", "abnormal"]
SCORED = 1024
NEW_TOKENS = 32


def main() -> None:
    """Measure every way, and write the table."""
    arguments = _arguments()
    setup.make_model(arguments)
    rows = list(_measure(arguments))
    figures = {
        "workload": arguments.workload,
        "labels_from_kept_tokens_per_s": _best(rows, "labels, kept tokens"),
        "labels_from_pixels_per_s": _best(rows, "labels, pixels"),
        "generated_per_s": _best(rows, "generated, kept tokens"),
        "rows": rows,
    }
    path = record.write(record.name("evaluation", arguments.workload, arguments.out), figures)
    print(f"\n{record.table(rows)}\n\n{path}")


def _arguments() -> argparse.Namespace:
    parser = setup.parser(__doc__)
    parser.add_argument("--batches", default="64,128,256")
    return parser.parse_args()


def _best(rows: list[dict[str, Any]], way: str) -> float | None:
    return max((row["records_per_s"] for row in rows if row["way"] == way and row["records_per_s"]), default=None)


def _measure(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from vlmbench.evaluate import one_behind

    backbone = setup.build_ours(arguments, store=True)
    backbone.model.eval()
    open_record = setup.opener(backbone, setup.records_of(arguments))
    store = backbone.store
    samples = [open_record(index) for index in range(SCORED)]

    def score(some: list[list[Any]]) -> None:
        """As a run does it: the next batch is on its way while the last one is looked at."""
        for scores in one_behind(backbone.score(batch, LABELS) for batch in some):
            scores.tolist()

    def generate(some: list[list[Any]]) -> None:
        for batch in some:
            backbone.generate(batch, max_new_tokens=NEW_TOKENS)

    batches = [int(number) for number in arguments.batches.split(",")]
    score(_cut(samples, batches[0]))  # every picture is seen
    for batch in batches:
        yield _timed("labels, kept tokens", _cut(samples, batch), score)
    for batch in batches[:2]:
        yield _timed("generated, kept tokens", _cut(samples, batch)[:2], generate)
    backbone.store = None
    yield _timed("labels, pixels", _cut(samples, batches[0])[:2], score)
    backbone.store = store


def _cut(samples: list[Any], size: int) -> list[list[Any]]:
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def _timed(way: str, batches: list[list[Any]], answer: Callable[[list[list[Any]]], None]) -> dict[str, Any]:
    """The first batch is not counted."""
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
