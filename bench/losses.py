"""Do stored tokens change what is learnt? Losses of equal runs, with tokens from the store and without it.

    python -m bench.losses --workload pair-560 [--steps 50] [--batch 4]

Three runs of one seed on one loaded model, which keeps nothing of a run but its frozen weights: two encode every
picture whenever it is shown, one fetches its tokens. The first two differ by what a GPU's own sums differ; the third
should not differ by more. The second run is also a sweep's later cell, and the first the same cell alone.
"""

from __future__ import annotations

import argparse
import json
import os

from bench import record, setup

SEED = 0


def main() -> None:
    """Run the three, and write the table."""
    parser = setup.parser(__doc__)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=4)
    arguments = parser.parse_args()
    setup.make_model(arguments)
    losses = _losses(arguments)
    first, second, stored = losses.values()
    figures = {
        "workload": arguments.workload,
        "steps": arguments.steps,
        "largest_relative_difference_of_two_unstored": _distance(first, second),
        "largest_relative_difference_of_stored": min(_distance(first, stored), _distance(second, stored)),
        "losses": losses,
    }
    path = record.write(record.name("losses", arguments.workload, arguments.out), figures)
    print(f"\n{json.dumps({name: figures[name] for name in list(figures)[:4]})}\n\n{path}")


def _distance(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) / abs(a) for a, b in zip(one, other, strict=True))


def _losses(arguments: argparse.Namespace) -> dict[str, list[float]]:
    from bench.training import Stopwatch
    from vlmbench.backbones.base import draw_adapters

    backbone = setup.build_ours(arguments, store=True)
    records, store = setup.records_of(arguments), backbone.store
    found = {}
    for name, kept in (("unstored", None), ("unstored again", None), ("stored", store)):
        backbone.store, watch = kept, Stopwatch()
        draw_adapters(backbone.model, SEED)
        setup.train_ours(backbone, records, watch, max_steps=arguments.steps, batch_size=arguments.batch, log_steps=1)
        found[name] = watch.losses
        print(name, found[name][:3], found[name][-3:], flush=True)
    return found


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
