"""Answering held-out records: labels scored from kept tokens, labels scored from pixels, answers generated.

    python -m bench.evaluation --workload pair-560 [--batches 16,64]

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
SCORED, GENERATED = 640, 64
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
        "generated_per_s": _best(rows, "generated"),
        "rows": rows,
    }
    path = record.write(record.name("evaluation", arguments.workload, arguments.out), figures)
    print(f"\n{record.table(rows)}\n\n{path}")


def _arguments() -> argparse.Namespace:
    parser = setup.parser(__doc__)
    parser.add_argument("--batches", default="16,64")
    return parser.parse_args()


def _best(rows: list[dict[str, Any]], way: str) -> float | None:
    return max((row["records_per_s"] for row in rows if row["way"] == way and row["records_per_s"]), default=None)


def _measure(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    backbone = setup.build_ours(arguments, store=True)
    backbone.model.eval()
    open_record = setup.opener(backbone, setup.records_of(arguments))
    store = backbone.store
    for batch in [int(number) for number in arguments.batches.split(",")]:
        samples = [open_record(index) for index in range(SCORED)]

        def score(some: list[Any]) -> None:
            backbone.score(some, LABELS).tolist()

        for start in range(0, SCORED, batch):  # every picture is seen
            score(samples[start : start + batch])
        yield _timed("labels, kept tokens", batch, samples, score)
        backbone.store = None
        yield _timed("labels, pixels", batch, samples[: SCORED // 4], score)
        backbone.store = store
        yield _timed(
            "generated",
            batch,
            samples[: max(GENERATED, 2 * batch)],
            lambda some: backbone.generate(some, max_new_tokens=NEW_TOKENS),
        )


def _timed(way: str, batch: int, samples: list[Any], answer: Callable[[list[Any]], Any]) -> dict[str, Any]:
    import torch

    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    row: dict[str, Any] = {"way": way, "batch": batch, "records_per_s": None}
    try:
        answer(samples[:batch])
        started = time.monotonic()
        for start in range(batch, len(samples), batch):
            answer(samples[start : start + batch])
        row["records_per_s"] = (len(samples) - batch) / (time.monotonic() - started)
    except torch.OutOfMemoryError:
        row["error"] = "out of memory"
        torch.cuda.empty_cache()
    row["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9 if gpu else None
    print(json.dumps(row), flush=True)
    return row


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
