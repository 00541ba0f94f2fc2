"""Do stored tokens change what is learnt? Compare losses with a token store and without.

    python -m bench.losses --workload pair-560 [--steps 50] [--batch 4]

Three runs of one seed train on one loaded model. Nothing of a run but the frozen weights stays in
it. Two runs encode an image whenever it is shown, and one reads its tokens from the store. Two runs
without the store differ because sums on a GPU have no fixed order; the third should not differ by
more. The first two also compare a run alone with a sweep's later run.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence

from bench import record, setup

SEED = 0


def main() -> None:
    """Run all three, and write the table."""
    parser = setup.make_parser(__doc__)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=4)
    arguments = parser.parse_args()
    setup.make_model(arguments)

    losses = _losses(arguments)
    first, second, stored = losses.values()
    stored_difference = min(_difference(first, stored), _difference(second, stored))
    figures = {
        "workload": arguments.workload,
        "steps": arguments.steps,
        "largest_relative_difference_of_two_unstored": _difference(first, second),
        "largest_relative_difference_of_stored": stored_difference,
    }

    name = record.result_name("losses", arguments.workload, arguments.out)
    path = record.write(name, {**figures, "losses": losses})
    print(f"\n{json.dumps(figures)}\n\n{path}")


def _difference(expected: Sequence[float], losses: Sequence[float]) -> float:
    """Return the largest relative difference of two runs' losses at the same step."""
    return max(abs(a - b) / abs(a) for a, b in zip(expected, losses, strict=True))


def _losses(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Return the losses of each run."""
    from bench.stopwatch import Stopwatch
    from vlmbench.backbones.adapters import draw_adapters

    backbone = setup.build_ours(arguments)
    records = setup.records_of(arguments)
    stores = {"unstored": None, "unstored again": None, "stored": backbone.store}

    losses = {}
    for name, store in stores.items():
        backbone.store, watch = store, Stopwatch()
        draw_adapters(backbone.model, SEED)
        setup.train_ours(
            backbone,
            records,
            watch,
            max_steps=arguments.steps,
            batch_size=arguments.batch,
            log_steps=1,
        )
        losses[name] = watch.losses
        print(name, watch.losses[:3], watch.losses[-3:], flush=True)
    return losses


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
